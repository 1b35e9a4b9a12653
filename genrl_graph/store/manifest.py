"""The manifest of a folder that is written once: size and hash of every file, to detect damage."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from genrl_graph.store.run_path import RunPath, refused_by_name
from genrl_graph.store.strict_json import parse_object

MANIFEST = "files.json"
HASH_BYTES = 16
MAX_MANIFEST_BYTES = 16 * 2**20


def write_manifest(folder: Path | RunPath) -> None:
    """Write `files.json`: the size in bytes and the BLAKE2b hash of every file, by path; raises `OSError`."""
    folder = RunPath.of(folder)
    files = {name: list(_size_and_hash(path)) for name, path in _files(folder).items()}
    (folder / MANIFEST).write((json.dumps(files, indent=1) + "\n").encode())


def damaged_files(folder: Path | RunPath) -> Iterator[tuple[RunPath, str]]:
    """Yield each file that differs from the manifest, and what is wrong with it.

    Raises `StoreError` where the manifest or a file cannot be read, or where the folder holds a link or special file.
    """
    folder = RunPath.of(folder)
    path = folder / MANIFEST
    with refused_by_name(path, "read"):
        recorded = parse_object(path.read(MAX_MANIFEST_BYTES), path)
        present = _files(folder)
        for name in sorted(recorded.keys() | present.keys()):
            if name not in present:
                yield _named_in_manifest(folder, name), "is missing"
            elif name not in recorded:
                yield present[name], f"is not in {MANIFEST}"
            elif (actual := list(_size_and_hash(present[name]))) != recorded[name]:
                yield present[name], f"has size and hash {actual}, but {MANIFEST} says {str(recorded[name])[:80]}"


def _named_in_manifest(folder: RunPath, name: str) -> RunPath:
    """Return the path of a file that only the manifest names; raises `StoreError` for one outside the folder."""
    path = folder
    for part in name.split("/"):
        path /= part
    return path


def _files(folder: RunPath) -> dict[str, RunPath]:
    """Return all files but the manifest, by their path in the folder."""
    above = len(folder.names)
    files = {"/".join(path.names[above:]): path for path in folder.walk()}
    files.pop(MANIFEST, None)
    return files


def _size_and_hash(path: RunPath) -> tuple[int, str]:
    with os.fdopen(path.open(os.O_RDONLY), "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
        return os.fstat(file.fileno()).st_size, digest.hexdigest()
