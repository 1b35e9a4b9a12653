"""metrics.jsonl as columns."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrl_graph.store.durable import failed

METRICS = "metrics.jsonl"
_LEADING = ("round", "peer")


def read_metrics(folders: Sequence[Path], *, evaluations: bool = False) -> pa.Table:
    """The numbers of all rounds, or of all evaluations: `round`, `peer` and a float64 column a metric, sorted.

    What was not reported, or is no finite number, is null. Where a round stands twice, as after a resume, the later
    line counts; a line that is being written does not count yet.
    """
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for folder in folders:
        for line in _lines(folder / METRICS):
            numbers = {name: value for name, value in line.items() if name not in _LEADING}
            if all(name.startswith("eval/") for name in numbers) == evaluations:
                found[line["round"], line["peer"]] = numbers
    keys = sorted(found)
    names = dict.fromkeys(name for key in keys for name in found[key])
    columns: dict[str, pa.Array] = {
        "round": pa.array([round for round, _ in keys], pa.int64()),
        "peer": pa.array([peer for _, peer in keys], pa.string()),
    }
    for name in names:
        columns[name] = pa.array([found[key].get(name) for key in keys], pa.float64())
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
            given = json.loads(line)
        except ValueError:
            continue  # a crash tore it, and the run went on behind it
        if isinstance(given, dict) and "round" in given and "peer" in given:
            yield given
