"""Read a stored run as every command does, and tell what they would trip over: the last part of `store verify`.

Checksums and hashes say that a folder is what somebody wrote, not that it makes sense. The types of facts and columns,
and what rows say of each other, show only where they are read.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.measured import measured
from genrl_graph.errors import ColumnError, StoreError, UserError
from genrl_graph.inspection.lineage import LineageIndex, rollout_line, training
from genrl_graph.inspection.overview import print_run
from genrl_graph.inspection.transcripts import RolloutFilter, print_rollouts
from genrl_graph.records.stored_run import StoredRun, open_run
from genrl_graph.runners.replay.rounds import StoredRounds
from genrl_graph.runners.resume.previous_run import PreviousRun
from genrl_graph.store.run_store import RunStore

ALL = 2**31


def unreadable(folder: Path) -> Iterator[str]:
    """Yield one line for each way of reading a run that fails.

    Where node types of the run are not registered here, what needs them is not read.
    """
    readings: dict[str, Callable[[StoredRun], object]] = {
        "its overview": _overview,
        "its rollouts": _rollouts,
        "the lineage of its rollouts": _lineage,
        "its rows": _rows,
        "a replay": _replay,
        "a resume": _resume,
    }
    for name, read in readings.items():
        try:
            read(open_run(folder))
        except (StoreError, ColumnError) as error:
            yield f"{folder}: {name} cannot be read: {error}"
        except UserError:
            continue  # a type that is not known here, or nothing to read: the command says so in one line
        except Exception as error:  # whatever it is, the command would end with it
            what = " ".join(str(error).split())[:200]
            yield f"{folder}: {name} cannot be read: {type(error).__name__}: {what}; restore the folder from a copy"


def _overview(run: StoredRun) -> None:
    print_run(run, _console())
    if any(name.startswith("time/") for name in run.metrics().column_names):
        measured(run.folder, run.nodes)


def _rollouts(run: StoredRun) -> None:
    for order in ("failed", "top"):
        print_rollouts(run, RolloutFilter(order=order, limit=ALL), _console(), full=True)


def _lineage(run: StoredRun) -> None:
    index = LineageIndex.of(run)
    ids = index.ids()
    for id in ids:
        rollout_line(index, id)
    list(training(run, ids))


def _rows(run: StoredRun) -> None:
    for node in run.row_outputs():
        for _ in run.blocks(node):
            pass


def _replay(run: StoredRun) -> None:
    stored = StoredRounds(run)
    for number, holders in stored.holders.items():
        for holder in holders:
            rebuilt = stored.holder_round(number, holder)
            for node in run.graph.played_in("rounds").nodes:
                rebuilt.record(node)
                _ = rebuilt.recorded(node).metrics
            for output in run.row_outputs():
                rebuilt[output]


def _resume(run: StoredRun) -> None:
    if any(part.declared is None for part in (*run.graph.carries.values(), *run.graph.nodes.values())):
        return  # a type that is not known here, or params that only a script has: the command says so in one line
    schedule = compile_graph(run.graph)
    for folder in run.folders:
        PreviousRun(RunStore.open(folder)).read_through(schedule, run.peers)


def _console() -> Console:
    return Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, width=200)
