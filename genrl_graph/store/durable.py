"""Files that survive a crash: contents and names are on the disk when a call returns."""

import os
from collections.abc import Sequence
from pathlib import Path

from genrl_graph.errors import StoreError

PARTIAL = ".partial"
PARTS_A_CALL = 512


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the contents of a file durable."""
    _sync(path, os.O_RDONLY)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, with durable names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, so that readers see the old contents or the new ones.

    The name itself is durable once the folder is synced. What a refusal of the disk left is removed, and the error
    names the file.
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
    """Write all bytes at the position of an open file; the system may take fewer at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_parts(handle: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts one after the other without copying them, in one call where the system takes them all."""
    written = os.writev(handle, parts) if len(parts) <= PARTS_A_CALL else 0
    if written < sum(map(len, parts)):
        write_all(handle, b"".join(parts)[written:])


def failed(path: Path, doing: str, error: OSError) -> StoreError:
    """The one-line error for an operation that the file system refused; names the path that it refused."""
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
