"""Remember which data was read to its end without a bad row: a large stream is not read again at every start."""

import hashlib
import os
from collections.abc import Hashable
from pathlib import Path

from genrl_graph.nodes.source.data.data_set import DataState
from genrl_graph.store.durable import replace_file

_RULES = 1  # raise it when a row is refused that was not before


def checked_rows(data: DataState, reader: Hashable) -> int | None:
    """Return the number of rows of data that was checked before; None if it was not, or has changed since.

    Data is known by the names, sizes and modification times of its files: a digest of their content would take as
    long as to read them.
    """
    try:
        return int(_file(data, reader).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(data: DataState, reader: Hashable, rows: int) -> None:
    """Remember that all rows of the data are good; without a writable cache folder it is read again next time."""
    file = _file(data, reader)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, str(rows).encode())
    except OSError:
        return


def _file(data: DataState, reader: Hashable) -> Path:
    cache = Path(os.environ.get("GENRL_GRAPH_CACHE") or "~/.cache/genrl_graph").expanduser()
    return cache / "checked" / hashlib.sha256(repr((_RULES, data, reader)).encode()).hexdigest()
