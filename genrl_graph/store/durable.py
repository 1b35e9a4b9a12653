"""Durable file operations: when a call returns, contents and names survive a crash."""

import os
from collections.abc import Sequence
from pathlib import Path

from genrl_graph.errors import StoreError

PARTIAL = ".partial"
PARTS_A_CALL = 512


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Sync a file, so that its contents survive a crash."""
    _sync(path, os.O_RDONLY)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, with durable names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync and rename it: readers see the old contents or the new ones.

    The name itself is durable after `sync_folder`. Where the disk refuses, the temporary file is removed and the
    `OSError` names the file.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(partial, path)  # noqa: PTH105  # one layer of calls that a test can make fail
    except OSError as error:
        error.filename = error.filename or str(path)
        partial.unlink(missing_ok=True)
        raise


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


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)
