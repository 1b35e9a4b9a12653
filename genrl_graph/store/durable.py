"""Durable file operations that need no run folder, and the error of one that the file system refused."""

import os
from collections.abc import Sequence
from pathlib import Path

from genrl_graph.errors import StoreError

PARTS_A_CALL = 512


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, with durable names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write all bytes at the position of an open file, in as many system calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_parts(handle: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts one after the other, without a copy and in one system call where that writes them all."""
    written = os.writev(handle, parts) if len(parts) <= PARTS_A_CALL else 0
    if written < sum(map(len, parts)):
        write_all(handle, b"".join(parts)[written:])


def failed(path: Path, doing: str, error: OSError) -> StoreError:
    """Return the one-line `StoreError` for an operation that the file system refused, with the path it refused."""
    where = error.filename if isinstance(error.filename, str) else path
    return StoreError(f"{where}: cannot {doing}: {error.strerror or error}; free space or mend the folder")
