"""Load data sets as Arrow tables: local JSONL, CSV, Parquet and folders, and the Hugging Face hub."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrl_graph.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_TIMEOUT_S = 10.0


def load_table(path: str, *, name: str | None, split: str) -> pa.Table:
    """Load all rows of a data set; `name` is the subset and `split` the split of a folder or hub data set.

    A path that exists is local, any other one is a name on the hub. Raises `DataError` if it cannot be read or has no
    rows.
    """
    local = Path(path)
    if local.is_dir():
        table = _load_folder(local, name, split)
    else:
        table = _load_file(local) if local.exists() else _load_hub(path, name, split)
    if table.num_rows == 0:
        raise DataError(f"{path}: the data set has no rows")
    return table


def load_stream(path: str, *, name: str | None, split: str) -> Any:
    """Open the same rows as a `datasets.IterableDataset`, which reads them on demand.

    Raises `DataError` if the data set, subset or split does not exist.
    """
    import datasets

    local = Path(path)
    if local.is_file():
        builder, options = _stream_builder(local)
        with data_errors(path):
            return datasets.load_dataset(builder, data_files=path, split="train", streaming=True, **options)
    saved = _saved(local, split) if local.is_dir() else None
    if not local.is_dir():
        _require_on_hub(path)
    with data_errors(f"{path}: subset {name}, split {split!r}"):
        if saved is not None:
            return datasets.load_from_disk(str(saved)).to_iterable_dataset()
        return datasets.load_dataset(path, name, split=split, streaming=True)


def is_local(path: str) -> bool:
    """Return True if a path names a file or folder, existing or not, rather than a data set on the hub."""
    named = path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).suffix.lower() in SUFFIXES
    return named or Path(path).exists()


@contextmanager
def data_errors(where: str) -> Iterator[None]:
    """Convert an error of reading a data set to a one-line `DataError` that begins with `where`."""
    import datasets
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError, pa.ArrowInvalid, httpx.HTTPError) as error:
        raise DataError(f"{where}: {_first_line(error)}") from error


def file_state(path: str) -> tuple[int, int] | None:
    """Return the modification time and size of a local path, to key caches; None for a name on the hub."""
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _load_file(file: Path) -> pa.Table:
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".parquet": pq.read_table}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise _unknown_suffix(file)
    try:
        return reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise DataError(f"{file}: cannot be read: {_first_line(error)}") from error


def _read_jsonl(file: Path) -> pa.Table:
    """Read one JSON object per line; a `.json` file may also be one list of objects."""
    text = file.read_text(encoding="utf-8")
    rows: list[Any] = []
    if text.lstrip().startswith("["):
        rows = _parsed(text, str(file))
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                rows.append(_parsed(line, f"{file}:{number}"))
    bad = next((row for row in rows if not isinstance(row, dict)), None)
    if bad is not None:
        raise DataError(f"{file}: a row must be a JSON object, not {str(bad)[:80]!r}")
    return _table(rows)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: no JSON: {_first_line(error)}") from error


def _read_csv(file: Path) -> pa.Table:
    """Read a header line, then rows; every value stays text."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="")
        rows = [{key: value for key, value in row.items() if key} for row in reader]
    return _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Convert values to an Arrow array; values of mixed types become text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.array(texts, pa.string())


def _load_folder(folder: Path, name: str | None, split: str) -> pa.Table:
    """Load a folder written by `save_to_disk`, or a folder of data files laid out as on the hub."""
    import datasets

    saved = _saved(folder, split)
    with data_errors(f"{folder}: subset {name}, split {split!r}"):
        if saved is not None:
            return _arrow(datasets.load_from_disk(str(saved)))
        return _arrow(datasets.load_dataset(str(folder), name, split=split))


def _saved(folder: Path, split: str) -> Path | None:
    return next((place for place in (folder, folder / split) if (place / "state.json").is_file()), None)


def _stream_builder(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the `datasets` builder for a file and its options, which keep the values of a CSV file as text."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise _unknown_suffix(file)
    if suffix != ".csv":
        return {".parquet": "parquet"}.get(suffix, "json"), {}
    import datasets

    with data_errors(str(file)), file.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines), [])
    features = datasets.Features({name: datasets.Value("string") for name in header})
    return "csv", {"features": features, "keep_default_na": False}


def _unknown_suffix(file: Path) -> DataError:
    return DataError(f"{file}: cannot read a {file.suffix or 'nameless'} file; give one of {', '.join(SUFFIXES)}")


def _load_hub(path: str, name: str | None, split: str) -> pa.Table:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    *owner, title = path.split("/")
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(title)])
    if is_local(path) or not cached.exists():
        _require_on_hub(path)
    with data_errors(f"{path}: subset {name}, split {split!r}"):
        return _arrow(datasets.load_dataset(path, name, split=split))


def _require_on_hub(path: str) -> None:
    """Raise `DataError` unless the hub has the data set: one request, where `datasets` would retry many times."""
    if is_local(path):
        raise DataError(f"{path}: no such file or folder; a relative path starts at the graph file")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses

    try:
        HfApi().dataset_info(path, timeout=_HUB_TIMEOUT_S)
    except (OSError, ValueError, httpx.HTTPError) as error:
        advice = "check the name and the network, or give the path of a local copy (JSONL, CSV, Parquet or a folder)"
        problem = f"neither a local path nor to be had from the hub ({_first_line(error)})"
        raise DataError(f"{path}: {problem}; {advice}") from error


def _arrow(dataset: Any) -> pa.Table:
    table: pa.Table = dataset.with_format("arrow")[:]
    return table


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
