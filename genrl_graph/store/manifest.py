"""The manifest of a folder that is written once: size and hash of every file, to detect damage."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, write_file

MANIFEST = "files.json"
HASH_BYTES = 16


def write_manifest(folder: Path) -> None:
    """Write `files.json`: the size in bytes and the BLAKE2b hash of every file, by path; raises `OSError`."""
    files = {path.relative_to(folder).as_posix(): list(_size_and_hash(path)) for path in _files(folder)}
    write_file(folder / MANIFEST, (json.dumps(files, indent=1) + "\n").encode())


def damaged_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file that differs from the manifest, and what is wrong with it.

    Raises `StoreError` where the manifest or a file cannot be read.
    """
    path = folder / MANIFEST
    try:
        recorded: dict[str, list[int | str]] = dict(json.loads(path.read_bytes()))
        present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for name in sorted(recorded.keys() | present.keys()):
            if name not in present:
                yield folder / name, "is missing"
            elif name not in recorded:
                yield folder / name, f"is not in {MANIFEST}"
            elif (actual := list(_size_and_hash(present[name]))) != list(recorded[name]):
                yield folder / name, f"has size and hash {actual}, but {MANIFEST} says {recorded[name]}"
    except OSError as error:
        raise failed(path, "read", error) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: is not what a run writes ({error}); restore it from a copy") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _size_and_hash(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    return path.stat().st_size, digest.hexdigest()
