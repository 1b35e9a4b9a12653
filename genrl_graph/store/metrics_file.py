"""Read metrics.jsonl as a table."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrl_graph.store.durable import failed

METRICS = "metrics.jsonl"
_LEADING = ("round", "peer")


def read_metrics(folders: Sequence[Path], *, evaluations: bool = False) -> pa.Table:
    """Return the metrics of all rounds, or of all evaluations: `round`, `peer` and one float64 column per metric.

    Rows are sorted by round and peer. A metric that a line does not report is null, and so is a value that is not
    finite. Where a round occurs twice, as after a resume, the later line counts. An unfinished last line is skipped.
    """
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for folder in folders:
        for line in _lines(folder / METRICS):
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


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(path, "read", error) from error
    for line in data.split(b"\n")[:-1]:
        try:
            values = json.loads(line)
        except ValueError:
            continue  # a crash tore the line, and the resumed run wrote after it
        if isinstance(values, dict) and "round" in values and "peer" in values:
            yield values
