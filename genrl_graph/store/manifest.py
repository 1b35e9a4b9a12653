"""What a folder that is written once holds: the size and hash of every file, so that damage shows."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, write_file

MANIFEST = "files.json"
HASH_BYTES = 16


def write_manifest(folder: Path) -> None:
    """Write `files.json`: by path, the bytes and the BLAKE2b hash of every file; raises `OSError`."""
    files = {path.relative_to(folder).as_posix(): list(_described(path)) for path in _files(folder)}
    write_file(folder / MANIFEST, (json.dumps(files, indent=1) + "\n").encode())


def damaged_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files that are not what the manifest says, and what is wrong with each.

    Raises `StoreError` where the manifest or a file cannot be read.
    """
    path = folder / MANIFEST
    try:
        known: dict[str, list[int | str]] = dict(json.loads(path.read_bytes()))
        found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for name in sorted(known.keys() | found.keys()):
            if name not in found:
                yield folder / name, "is missing"
            elif name not in known:
                yield folder / name, f"is not in {MANIFEST}"
            elif (described := list(_described(found[name]))) != list(known[name]):
                yield folder / name, f"has size and hash {described}, but {MANIFEST} says {known[name]}"
    except OSError as error:
        raise failed(path, "read", error) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: is not what a run writes ({error}); restore it from a copy") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _described(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    return path.stat().st_size, whole.hexdigest()
