"""Read the rows of one data file, one after another: JSONL, JSON, CSV, Parquet and Arrow.

This is the only reader: files alone, folders, streams and text files of the hub come through it. Text stays the text
of the file, a byte order mark is ignored, and a malformed row is an error that names its line.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.data_files import ARROW, DataFile
from genrl_graph.nodes.source.data.values import top_columns

Row = tuple[str, Mapping[str, Any]]
"""A row's place for messages (`data.csv:8`) and its values by column."""

_BATCH = 1024
_MARK = b"\xef\xbb\xbf"


def read_rows(file: DataFile, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a file; formats with typed columns read only those that a name or path in `columns` needs."""
    suffix = PurePath(file.name).suffix.lower()
    with _file_errors(file.name), file.open() as data:
        if suffix == ".csv":
            yield from _csv_rows(file.name, data)
        elif suffix == ".parquet":
            yield from _parquet_rows(file.name, data, columns)
        elif suffix == ARROW:
            yield from _arrow_rows(file.name, data, columns)
        else:
            yield from _json_rows(file.name, data)


def header(file: DataFile) -> list[str] | None:
    """Return the column names that a file declares; None if its rows name their columns themselves."""
    suffix = PurePath(file.name).suffix.lower()
    with _file_errors(file.name), file.open() as data:
        if suffix == ".csv":
            return [name for name in _csv_header(file.name, _csv_lines(file.name, data)) if name]
        if suffix == ".parquet":
            return list(pq.read_schema(data).names)
        return list(pa.ipc.open_stream(data).schema.names) if suffix == ARROW else None


def needed_columns(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns to read; all of them if a wanted one is missing, so that the error can list them."""
    needed = {column: top_columns(names, column) for column in columns}
    if not all(needed.values()):
        return list(names)
    return [name for name in names if any(name in some for some in needed.values())]


def _json_rows(name: str, data: BinaryIO) -> Iterator[Row]:
    """Yield one JSON object per line; a file may also be one list of objects."""
    is_first = True
    for number, line in enumerate(data, start=1):
        line = line.removeprefix(_MARK) if number == 1 else line
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith(b"["):
            rows = _parsed(line + data.read(), name)
            yield from ((f"{name}: item {at}", _object(row, f"{name}: item {at}")) for at, row in enumerate(rows))
            return
        is_first = False
        yield f"{name}:{number}", _object(_parsed(line, f"{name}:{number}"), f"{name}:{number}")


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(_text(text, where), object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: no JSON: {_first_line(error)}; write one object per line") from error
    except ValueError as error:  # Python converts no more than 4300 digits
        raise DataError(f"{where}: holds a number that is too long; write it as text, in quotes") from error
    except KeyError as error:
        raise DataError(f"{where}: {error} is given twice in one object; keep one of them") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return values


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, not {str(row)[:80]!r}")
    return row


def _csv_rows(name: str, data: BinaryIO) -> Iterator[Row]:
    """Yield the rows below the header; every value is text, and a row has as many fields as the header."""
    lines = _csv_lines(name, data)
    columns = _csv_header(name, lines)
    line = lines.line_num + 1
    try:
        for fields in lines:
            if fields and len(fields) != len(columns):
                advice = "put a text with a comma or a line break in quotes"
                raise DataError(f"{name}:{line}: {len(fields)} fields under {len(columns)} names; {advice}")
            if fields:
                yield f"{name}:{line}", {column: field for column, field in zip(columns, fields, strict=True) if column}
            line = lines.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}:{line}: no CSV: {_first_line(error)}; mend the quotes of this row") from error


def _csv_lines(name: str, data: BinaryIO) -> Any:
    return csv.reader(_decoded(name, data), strict=True)


def _decoded(name: str, data: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(data, start=1):
        yield _text(line.removeprefix(_MARK) if number == 1 else line, f"{name}:{number}")


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte 0x{line[error.start]:02x}); save it as UTF-8") from error


def _csv_header(name: str, lines: Any) -> list[str]:
    columns: list[str] = next((fields for fields in lines if fields), [])
    twice = next((column for column in columns if column and columns.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name}:{lines.line_num}: the header names {twice!r} twice; rename one of them")
    return columns


def _parquet_rows(name: str, data: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
    parquet = pq.ParquetFile(data)
    names = needed_columns(parquet.schema_arrow.names, columns)
    for batch in parquet.iter_batches(_BATCH, columns=names):
        yield from ((name, row) for row in batch.to_pylist())


def _arrow_rows(name: str, data: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
    with pa.ipc.open_stream(data) as batches:
        names = needed_columns(batches.schema.names, columns)
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH):
                yield from ((name, row) for row in batch.select(names).slice(start, _BATCH).to_pylist())


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, csv.Error, pa.ArrowException, ValueError, OverflowError) as error:  # names, text, dates
        raise DataError(f"{name}: cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
