"""Load a carry from a checkpoint: whatever its code makes of files that fit the manifest is one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrl_graph.errors import GenrlGraphError, StoreError, named
from genrl_graph.store.durable import failed


@contextmanager
def loading_carry(carry: str, folder: Path) -> Iterator[None]:
    """Turn an error of a carry's `load`, which reads what may come from a stranger, into a `StoreError`."""
    try:
        with named(carry):
            yield
    except GenrlGraphError:
        raise
    except OSError as error:
        raise failed(folder, "read a checkpoint", error) from error
    except Exception as error:  # a manifest says that files are as they were written, not that they make sense
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StoreError(f"{folder}: {carry} cannot be loaded ({what}); restore the checkpoint from a copy") from error
