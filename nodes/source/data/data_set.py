"""A data set as a sequence of rows, wherever it comes from: local files, or the Hugging Face hub."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from genrl_graph.nodes.source.data.data_files import SUFFIXES, DataFile, local_files
from genrl_graph.nodes.source.data.read_rows import Row, header, read_rows

DataState = tuple[tuple[str, tuple[int, int] | None], ...]


class DataSet(Protocol):
    """The rows of one split of a data set, in their order."""

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the rows from number `start` on, with the values that names and paths in `columns` need."""
        ...


class DataFiles:
    """The rows of files, one file after another; files before the first wanted row are skipped once they were read."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self._files = list(files)
        self._sizes: dict[int, int] = {}  # number of rows by file, of files that were read to their end

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the rows from number `start` on."""
        for number, file in enumerate(self._files):
            if start >= self._sizes.get(number, start + 1):
                start -= self._sizes[number]
                continue
            size = 0
            for row in read_rows(file, columns):
                size += 1
                if size > start:
                    yield row
            self._sizes[number] = size
            start = max(start - size, 0)

    def header(self) -> list[str] | None:
        """Return the column names that the first file declares; None if its rows name their columns themselves."""
        return header(self._files[0])


def local_data_set(path: str, *, name: str | None, split: str) -> DataFiles:
    """Open the files of a local data set; raises `DataError` if there are none."""
    return DataFiles(local_files(path, name=name, split=split))


def is_local(path: str) -> bool:
    """Return True if a path names a file or folder, existing or not, rather than a data set on the hub."""
    named = path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).suffix.lower() in SUFFIXES
    return named or Path(path).exists()


def file_state(path: str) -> tuple[int, int] | None:
    """Return the modification time and size of a local path, to key caches; None for a name on the hub."""
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def data_state(path: str) -> DataState:
    """Return names, modification times and sizes of a local file or of all files of a folder, to key caches."""
    files = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    return tuple((str(file), file_state(str(file))) for file in (Path(path), *files))
