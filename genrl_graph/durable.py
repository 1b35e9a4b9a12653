"""Files that survive a crash: contents and names are on the disk when a call returns."""

import os
from pathlib import Path

from genrl_graph.errors import StoreError


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, so that readers see the old contents or the new ones.

    The name itself is durable once the folder is synced.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def failed(path: Path, doing: str, error: OSError) -> StoreError:
    """The one-line error for an operation that the file system refused; names the path that it refused."""
    where = error.filename if isinstance(error.filename, str) else path
    return StoreError(f"{where}: cannot {doing}: {error.strerror or error}; free space or mend the folder")
