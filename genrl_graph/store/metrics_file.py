"""Read metrics.jsonl: its lines, each checked, or a table of them."""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import is_count, parse_json

METRICS = "metrics.jsonl"
MAX_LINE_BYTES = 16 * 2**20
BLOCK = 65_536
_LEADING = ("round", "peer")


def read_metrics(folders: Sequence[Path], *, evaluations: bool = False) -> pa.Table:
    """Return the metrics of all rounds, or of all evaluations: `round`, `peer` and one float64 column per metric.

    Rows are sorted by round and peer. A metric that a line does not report is null, and so is a value that is not
    finite. Where a round occurs twice, as after a resume, the later line counts. Raises `StoreError` for a bad line.
    """
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for folder in folders:
        for line in metric_lines(folder):
            numbers = {name: value for name, value in line.items() if name not in _LEADING}
            if all(name.startswith("eval/") for name in numbers) == evaluations:
                rows[line["round"], line["peer"]] = numbers
    keys = sorted(rows)
    names = dict.fromkeys(name for key in keys for name in rows[key])
    columns: dict[str, pa.Array] = {
        "round": pa.array([round for round, _ in keys], pa.int64()),
        "peer": pa.array([peer for _, peer in keys], pa.string()),
    }
    for name in names:
        columns[name] = pa.array([rows[key].get(name) for key in keys], pa.float64())
    return pa.table(columns)


def metric_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics.jsonl: `round`, `peer` and finite numbers, or None, by metric.

    There are none where the file is missing. A last line without its end was not written whole, and is left out.
    Raises `StoreError` for any other line that a run does not write.
    """
    path = RunPath(folder) / METRICS
    try:
        handle = path.open(os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(path.path, "read", error) from error
    names: set[str] = set()
    with os.fdopen(handle, "rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES)
            if len(line) < MAX_LINE_BYTES and not line.endswith(b"\n"):
                return
            yield _checked(line, f"{path}:{number}", names)


class MetricsTail:
    """Reads the lines that metrics.jsonl gains, a few at a time, from where the last call stopped."""

    def __init__(self, folder: Path) -> None:
        self._path = RunPath(folder) / METRICS
        self._offset, self._number = 0, 0
        self._names: set[str] = set()

    def lines(self, limit: int) -> list[dict[str, Any]] | None:
        """Return at most `limit` new lines as `metric_lines` does; None where another file took the place of the first.

        After None the next call begins with the first line. Raises `StoreError` for a line that a run does not write.
        """
        try:
            handle = self._path.open(os.O_RDONLY)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failed(self._path.path, "read", error) from error
        with os.fdopen(handle, "rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                self._offset = self._number = 0
                return None
            file.seek(self._offset)
            lines: list[dict[str, Any]] = []
            while len(lines) < limit and (line := file.readline(MAX_LINE_BYTES)):
                if len(line) < MAX_LINE_BYTES and not line.endswith(b"\n"):
                    break
                self._offset, self._number = self._offset + len(line), self._number + 1
                lines.append(_checked(line, f"{self._path}:{self._number}", self._names))
            return lines


def end_of_whole_lines(file: BinaryIO) -> int:
    """Return where the last whole line of metrics.jsonl ends; a crash or a full disk tears only the last one."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - BLOCK)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def _checked(line: bytes, where: str, names: set[str]) -> dict[str, Any]:
    """Return a line as `metric_lines` does; `names` are those that earlier lines have, and grows."""
    values = parse_json(line, where) if line.endswith(b"\n") else None
    if (
        not isinstance(values, dict)
        or not is_count(values.get("round"))
        or not _is_text(values.get("peer"))
        or not (names.issuperset(values) or all(map(_is_text, values)))
    ):
        raise StoreError(f"{where}: wants an object with a round and a peer; remove the line")
    names.update(values)
    round, peer = (values.pop(name) for name in _LEADING)
    numbers = {
        name: value if type(value) is float and isfinite(value) else _number(value, name, where)
        for name, value in values.items()
    }
    return {"round": round, "peer": peer, **numbers}


def _is_text(value: object) -> bool:
    """Return whether a value is text that Arrow can name a column with: JSON may have halves of surrogate pairs."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= part <= "\udfff" for part in value))


def _number(value: object, name: str, where: str) -> float | None:
    """Return the value of a metric, None for null and for one that is not finite."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        return value
    raise StoreError(f"{where}: {name[:80]!r} is {str(value)[:40]!r}, not a number; remove the line")
