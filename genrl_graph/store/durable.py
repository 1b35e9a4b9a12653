"""Durable file operations that need no run folder, and the error of one that the file system refused."""

import errno
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from genrl_graph.errors import ParamError, StoreError

PARTS_A_CALL = 512
LIMIT_FILES = "raise the limit of open files, as with `ulimit -n 1024`"
REMEDIES = {
    errno.EMFILE: LIMIT_FILES,
    errno.ENFILE: LIMIT_FILES,
    errno.EROFS: "name another folder, or mount this one for writing",
    errno.EACCES: "name another folder, or change its permissions",
    errno.EPERM: "name another folder, or change its permissions",
}


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


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that appears whole, in place of one of that name; a pipe or device is written to."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        remove_draft(partial)
        raise


def remove_draft(path: Path) -> None:
    """Remove a file or folder that an interrupted write left; where the disk refuses that, too, it stays."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_out(out: Path, data: bytes) -> None:
    """Write the file that `-o` names, whole or not at all.

    Raises `ParamError` where there can be no file of this name, `StoreError` where the disk refuses.
    """
    try:
        replace_file(out, data)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise ParamError(f"-o {out}: cannot write: {error.strerror}; name another file") from error
    except OSError as error:
        raise failed(out, "write", error) from error


def refusal(error: BaseException) -> OSError | None:
    """Return the `OSError` that an error is, or that a library in Rust has put into the text of an error of its own."""
    if isinstance(error, OSError):
        return error
    code = re.search(r"\(os error ([0-9]+)\)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else None


def failed(path: Path, doing: str, error: OSError) -> StoreError:
    """Return the one-line `StoreError` for an operation that the file system refused, with the path it refused."""
    where = error.filename if isinstance(error.filename, str) else path
    remedy = REMEDIES.get(error.errno or 0, "free space or mend the folder")
    return StoreError(f"{where}: cannot {doing}: {error.strerror or error}; {remedy}")
