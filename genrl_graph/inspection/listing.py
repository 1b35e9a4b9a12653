"""Print the runs of a folder as a table."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrl_graph.errors import GenrlGraphError, StoreError
from genrl_graph.inspection.text import line, number
from genrl_graph.records.stored_run import StoredRun, first_damage, open_run, run_folders, writer_of
from genrl_graph.store.metrics_file import METRICS
from genrl_graph.store.run_folder import GRAPH, JOURNAL, inner_folders, sub_folders
from genrl_graph.store.run_path import RunPath

_STAGE = re.compile(r"stage\d+/")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The progress of a run: rounds played and asked for, the state, and seconds since the last change.

    The state is `finished`, `stopped` or `running`, the latter with the ids of the writing processes.
    """

    played: int
    asked: int
    state: str
    age_s: float

    @classmethod
    def of(cls, run: StoredRun) -> "RunStatus":
        """Return the status of a run at this moment; a run that only evaluates is asked for 0 rounds."""
        config = run.graph.run
        asked = 0 if config.mode == "evaluate" else config.rounds
        played = len(run.rounds)
        writers = [pid for folder in run.folders if (pid := writer_of(folder)) is not None]
        end = max(run.rounds, default=-1) + 1  # not `played`: a swarm peer that joins late has no earlier rounds
        done = end >= asked and (config.mode == "train" or run.evaluations().num_rows > 0)
        state = f"running ({', '.join(map(str, writers))})" if writers else "finished" if done else "stopped"
        return cls(played, asked, state, time.time() - max(map(_written, run.folders)))


def print_runs(folder: Path, console: Console) -> None:
    """Print one line per run; raises `StoreError` where the folder holds none."""
    inner = sorted(sub_folders(folder), key=_last_change)
    runs = [path for path in inner if (path / GRAPH).exists() or inner_folders(path)]
    if not runs:
        raise StoreError(f"{folder}: holds no run; `genrl-graph run GRAPH -o {folder}/NAME` makes one")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "graph", "rounds", "state", "outcome of each stage", "last change"):
        table.add_column(name, no_wrap=name != "run", overflow="fold" if name == "run" else "ellipsis")
    for path in runs:
        try:
            table.add_row(*(Text(line(cell)) for cell in _cells(path)))
        except GenrlGraphError as error:  # one unreadable run must not hide the others
            table.add_row(Text(line(path.name)), "", "", Text(f"unreadable: {line(str(error))[:80]}"), "", "")
    console.print(table)


def _cells(path: Path) -> list[str]:
    if not run_folders(path):
        damage = first_damage(path)
        state = f"{len(inner_folders(path))} runs" + (f", unreadable: {damage}" if damage else "")
        return [f"{path.name}/", "", "", state, "", ""]
    run = open_run(path)
    status = RunStatus.of(run)
    rewards = " ".join(number(value) for value in last_outcomes(run.metrics()).values())
    return [
        run.name,
        run.graph.name,
        f"{status.played}/{status.asked}",
        status.state,
        rewards,
        ago(status.age_s),
    ]


def last_outcomes(metrics: pa.Table) -> dict[str, float | None]:
    """Return the mean over peers of each stage's reward, or else its first metric, in the last round with metrics."""
    if not metrics.num_rows:
        return {}
    names = {name.partition("/")[0]: name for name in reversed(stage_metrics(metrics))}
    last = metrics.filter(pc.equal(metrics.column("round"), pc.max(metrics.column("round"))))
    return {name: pc.mean(last.column(name)).as_py() for _, name in sorted(names.items())}


def stage_metrics(metrics: pa.Table) -> list[str]:
    """List the outcome metrics of all stages, by stage: its reward, then the results that its generators report."""
    names = [name for name in metrics.column_names if _STAGE.match(name) and not name.endswith("/zero_variance")]
    return sorted(names, key=lambda name: (name.partition("/")[0], not name.endswith("/reward"), names.index(name)))


def ago(seconds: float) -> str:
    """Return a time span in a readable unit, such as "5 min ago"."""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _written(folder: Path) -> float:
    root = RunPath(folder)
    paths = [root / GRAPH, root / METRICS, *_segments(root / JOURNAL)]
    return max(path.status().st_mtime for path in paths if path.exists())


def _segments(journal: RunPath) -> list[RunPath]:
    return list(journal.walk()) if journal.is_folder() else []


def _last_change(folder: Path) -> float:
    return folder.stat().st_mtime
