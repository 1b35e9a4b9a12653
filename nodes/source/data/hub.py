"""Data sets of the Hugging Face hub: text files come through our own reader, typed formats through `datasets`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.data_files import SUFFIXES
from genrl_graph.nodes.source.data.data_set import DataFiles, DataSet
from genrl_graph.nodes.source.data.read_rows import Row, needed_columns

_TIMEOUT_S = 10.0
_BATCH = 1024
_TEXT_SUFFIXES = frozenset(SUFFIXES) - {".parquet"}


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set on the hub: read as it arrives, or downloaded first."""

    url: str
    streaming: bool

    @property
    def name(self) -> str:
        """The URL, which ends in the file's name."""
        return self.url

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        import datasets
        from huggingface_hub import HfFileSystem

        if self.streaming:
            return cast(BinaryIO, HfFileSystem().open(self.url, "rb"))
        return Path(str(datasets.DownloadManager().download(self.url))).open("rb")


class TypedRows:
    """Rows of a format with typed columns, such as Parquet, as a data set of `datasets` gives them."""

    def __init__(self, path: str, data: Any) -> None:
        self._path, self._data = path, data.with_format("arrow")

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the rows from number `start` on."""
        data = self._data.skip(start)
        needed = needed_columns(data.column_names or (), columns)
        with hub_errors(f"{self._path}: rows from {start}"):
            for batch in (data.select_columns(needed) if needed else data).iter(_BATCH):
                yield from ((self._path, row) for row in batch.to_pylist())


def open_hub(path: str, *, name: str | None, split: str, streaming: bool) -> DataSet:
    """Open a data set of the hub; raises `DataError` if it cannot be had, or if its card names files elsewhere."""
    import datasets

    if not _is_cached(path):
        _require_on_hub(path)
    with hub_errors(f"{path}: subset {name}, split {split!r}"):
        builder = datasets.load_dataset_builder(path, name)
    files = [str(url) for url in (builder.config.data_files or {}).get(split, ())]
    for url in files:
        if not url.startswith(f"hf://datasets/{path}@"):
            raise DataError(
                f"{path}: its card names {url[:120]!r}, which is not of this data set; use a copy without it"
            )
    if files and {PurePath(url).suffix.lower() for url in files} <= _TEXT_SUFFIXES:
        return DataFiles([HubFile(url, streaming) for url in files])
    with hub_errors(f"{path}: subset {name}, split {split!r}"):
        return TypedRows(path, datasets.load_dataset(path, name, split=split, streaming=streaming))


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Convert an error of reading from the hub to a one-line `DataError` that begins with `where`."""
    import datasets
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError, pa.ArrowException, httpx.HTTPError) as error:
        raise DataError(f"{where}: {_first_line(error)}") from error


def _is_cached(path: str) -> bool:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    *owner, title = path.split("/")
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return (cache / "___".join([*owner, camelcase_to_snakecase(title)])).exists()


def _require_on_hub(path: str) -> None:
    """Raise `DataError` unless the hub has the data set: one request, where `datasets` would retry many times."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses

    try:
        HfApi().dataset_info(path, timeout=_TIMEOUT_S)
    except (OSError, ValueError, httpx.HTTPError) as error:
        advice = "check the name and the network, or give the path of a local copy (JSONL, CSV, Parquet or a folder)"
        problem = f"neither a local path nor to be had from the hub ({_first_line(error)})"
        raise DataError(f"{path}: {problem}; {advice}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
