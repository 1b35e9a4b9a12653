"""Paths in a run folder, made of checked names, and the operations on them: none follows a link or leaves the folder.

A run folder may come from a stranger: a name in one of its files may be `../..`, and a file in it may be a link, a
pipe, or a second name of a file elsewhere. Every path in it is therefore a `RunPath`: its names are checked one by one,
and it is opened from folder handle to folder handle. Only the root, which the user names, may be reached by a link.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, write_all

PARTIAL = ".partial"
MAX_NAME_BYTES = 240  # of the 255 of most file systems: a suffix is added while a file is written
MAX_DEPTH = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a pipe must not wait for its other end
_STRANGE = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class _NotAFolderError(StoreError):
    """There is a file in place of a folder of the run."""


def check_name(name: str, where: object) -> str:
    """Return a name that is safe as one part of a path and in a terminal; raises `StoreError` for any other."""
    try:
        fits = 0 < len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        fits = False
    if not fits or "/" in name or not name.isprintable() or not name.strip("."):
        raise StoreError(f"{where}: {name[:MAX_NAME_BYTES]!r} cannot name a file, group or column; rename it")
    return name


@dataclass(frozen=True, slots=True, order=True)
class RunPath:
    """A path in a run folder: the folder, which the user named, and names below it."""

    root: Path
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: "Path | RunPath") -> "RunPath":
        """Return a path that the user, or a test, names as a whole; its last name may be new, but no link."""
        if isinstance(path, RunPath):
            return path
        return cls(path.parent) / path.name if path.name else cls(path)

    def __truediv__(self, name: str) -> "RunPath":
        """Return the path of a name in this folder; raises `StoreError` for a name that would lead elsewhere."""
        if len(self.names) >= MAX_DEPTH:
            raise StoreError(f"{self}: is nested more than {MAX_DEPTH} folders deep; remove it")
        return RunPath(self.root, (*self.names, check_name(name, self)))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path for a library that opens files itself; call `require_plain` first."""
        return self.root.joinpath(*self.names)

    @property
    def name(self) -> str:
        """The last name."""
        return self.names[-1] if self.names else self.root.name

    @property
    def parent(self) -> "RunPath":
        """The folder that holds this path; the root has none."""
        assert self.names
        return RunPath(self.root, self.names[:-1])

    def exists(self) -> bool:
        """Return whether anything has this name, be it a link."""
        try:
            return self._mode() is not None
        except (FileNotFoundError, _NotAFolderError):
            return False

    def is_folder(self) -> bool:
        """Return whether this is a folder; raises `StoreError` for a link or anything but a file or folder."""
        return self._has_kind(stat.S_ISDIR)

    def is_file(self) -> bool:
        """Return whether this is a regular file; raises `StoreError` for a link or anything but a file or folder."""
        return self._has_kind(stat.S_ISREG)

    def listing(self) -> list[str]:
        """Return the names in this folder as they are on the disk, sorted."""
        with self._opened_folder() as handle:
            return sorted(os.listdir(handle))  # noqa: PTH208  # by handle

    def walk(self) -> Iterator["RunPath"]:
        """Yield all files below this folder, sorted; raises `StoreError` for anything but files and folders."""
        for name in self.listing():
            path = self / name
            if path.is_folder():
                yield from path.walk()
            elif path.is_file():
                yield path

    def require_plain(self) -> None:
        """Raise `StoreError` where this is, or a folder holds, anything but regular files and folders."""
        if self.is_folder():
            for _ in self.walk():
                pass
        elif self.exists():
            self.is_file()

    def status(self) -> os.stat_result:
        """Return the size, the time of the last change and so on of this file, or of a link itself."""
        with self.parent._opened_folder() as folder, self._named():
            return os.stat(self.name, dir_fd=folder, follow_symlinks=False)

    def stamps(self, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """Return size and time of the last change (ns) of some files in this folder, zeros for those that are missing.

        It opens the folder once and no file: what changes no file of these changes no stamp.
        """
        with self._opened_folder() as folder:
            return tuple(_stamp(name, folder) for name in names)

    def open(self, flags: int) -> int:
        """Open this regular file and return its handle; without `O_CREAT` it must exist.

        Raises `StoreError` for a link or a special file, and for writing to a file that has a second name, which may be
        outside the run folder.
        """
        assert not flags & os.O_TRUNC  # would empty the file before it is looked at
        with self.parent._opened_folder() as folder, self._named():
            try:
                handle = os.open(self.name, flags | _FILE, 0o666, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    self._refuse(os.stat(self.name, dir_fd=folder, follow_symlinks=False).st_mode, error)
                raise
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            self._refuse(status.st_mode)
        if flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            os.close(handle)
            raise StoreError(f"{self}: is a hard link, {status.st_nlink} names of one file; put a copy in its place")
        return handle

    def read(self, limit: int, *, start: int = 0) -> bytes:
        """Return the bytes of this file from `start` on; raises `StoreError` where it has more than `limit`."""
        with self._named(), os.fdopen(self.open(os.O_RDONLY), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise StoreError(f"{self}: has {size} bytes, of {limit} at most; restore it from a copy")
            file.seek(start)
            return file.readall()

    def write(self, data: bytes) -> None:
        """Write this file under a temporary name, sync and rename it: readers see the old contents or the new ones.

        The name itself is durable after `sync` of the folder. Where the disk refuses, the temporary file is removed.
        """
        partial = f"{self.name}{PARTIAL}"
        with self.parent._opened_folder() as folder, self._named():
            try:
                handle = _create(partial, folder)
                try:
                    write_all(handle, data)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                os.replace(partial, self.name, src_dir_fd=folder, dst_dir_fd=folder)  # by handle
            except OSError:
                _unlink(partial, folder)
                raise

    def create(self) -> int:
        """Create this file, in place of a file of the same name, and return its handle for reading and writing."""
        with self.parent._opened_folder() as folder, self._named():
            return _create(self.name, folder)

    def make_folder(self) -> None:
        """Make this folder where it is missing, and the missing ones above it."""
        if self.is_folder():
            return
        if self.names[1:]:
            self.parent.make_folder()
        with self.parent._opened_folder() as folder, self._named(), suppress(FileExistsError):
            os.mkdir(self.name, dir_fd=folder)  # by handle

    def sync(self) -> None:
        """Sync this file or folder, so that its contents, or the names in it, survive a crash."""
        if self.is_folder():
            with self._opened_folder() as handle, self._named():
                os.fsync(handle)
            return
        handle = self.open(os.O_RDONLY)
        try:
            with self._named():
                os.fsync(handle)
        finally:
            os.close(handle)

    def unlink(self) -> None:
        """Remove this file where it exists."""
        with self.parent._opened_folder() as folder, self._named():
            _unlink(self.name, folder)

    def rename(self, name: str) -> "RunPath":
        """Give this file or folder another name in the same folder, and return its new path."""
        renamed = self.parent / name
        with self.parent._opened_folder() as folder, self._named():
            os.rename(self.name, name, src_dir_fd=folder, dst_dir_fd=folder)  # by handle
        return renamed

    def remove_folder(self) -> None:
        """Remove this folder with everything in it; raises `StoreError` where it is, or holds, a link."""
        self.require_plain()
        with self.parent._opened_folder() as folder, self._named():
            shutil.rmtree(self.name, dir_fd=folder)

    @contextmanager
    def _opened_folder(self) -> Iterator[int]:
        """Open this folder, each one from the handle of the one above it, and yield its handle."""
        with self._named():
            handle = os.open(self.root, _FOLDER)
        try:
            for depth, name in enumerate(self.names, start=1):
                at = RunPath(self.root, self.names[:depth])
                with at._named():
                    try:
                        inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                    except NotADirectoryError as error:
                        mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
                        if not stat.S_ISREG(mode):
                            at._refuse(mode, error)
                        what = "is a file where a run has a folder; remove it, or restore the run from a copy"
                        raise _NotAFolderError(f"{at}: {what}") from error
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def _mode(self) -> int:
        return self.status().st_mode if self.names else os.stat(self.root).st_mode  # noqa: PTH116  # the user's own path

    def _has_kind(self, is_kind: Callable[[int], bool]) -> bool:
        try:
            mode = self._mode()
        except FileNotFoundError:
            return False
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            self._refuse(mode)
        return is_kind(mode)

    def _refuse(self, mode: int, error: OSError | None = None) -> NoReturn:
        what = _STRANGE.get(stat.S_IFMT(mode), "a folder" if stat.S_ISDIR(mode) else "a device")
        raise StoreError(f"{self}: is {what}; a run has files and folders of its own only, so remove it") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Give the `OSError` of an operation by handle the whole path."""
        try:
            yield
        except OSError as error:
            error.filename = str(self)
            error.filename2 = None
            raise


@contextmanager
def refused_by_name(path: RunPath, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a one-line `StoreError` that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        raise failed(path.path, doing, error) from error


def _stamp(name: str, folder: int) -> tuple[int, int]:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _create(name: str, folder: int) -> int:
    _unlink(name, folder)
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=folder)


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)  # by handle
