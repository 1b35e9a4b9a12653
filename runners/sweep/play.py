"""Play a sweep: each cell is an ordinary run in a process of its own, and a killed sweep goes on where it was."""

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from genrl_graph.comparison.expectation import metric_matches, the_metric
from genrl_graph.comparison.history import EVAL, read_history
from genrl_graph.contract.registry import import_all
from genrl_graph.dag.graph import Graph
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.inspection.plot import default_window
from genrl_graph.inspection.text import line
from genrl_graph.messages import counted
from genrl_graph.runners.sweep.cell_process import Launch, Task
from genrl_graph.runners.sweep.cells import cells_of, read_setting
from genrl_graph.runners.sweep.plan import GAME, SweepOptions, SweepPlan, begun_sweep, plan_sweep, refuse_taken
from genrl_graph.runners.sweep.scheduler import play_work, wait_for_orphans
from genrl_graph.runners.sweep.search import Drawing, Halving
from genrl_graph.runners.sweep.study import SETTING, Study, chosen
from genrl_graph.runners.sweep.work import Queue, Work
from genrl_graph.store.durable import make_folder
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.store.run_folder import GRAPH, WriterLock
from genrl_graph.store.run_path import RunPath, refused_by_name
from genrl_graph.store.sweep_folder import Cell, CellEnd, SweepRecord, add_end, write_sweep

if TYPE_CHECKING:
    import pandas as pd

MOST_DRAWS = 100


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that was played: its folder, its record, and how each cell ended."""

    folder: Path
    record: SweepRecord
    ends: Mapping[str, CellEnd]

    @property
    def failed(self) -> list[CellEnd]:
        """The ends of the cells that failed."""
        return [end for cell in self.record.cells if (end := self.ends.get(cell.name)) is not None and end.exit_code]

    @property
    def cells(self) -> "pd.DataFrame":
        """The cells as a data frame: name, setting, seed, folder, state, rounds, exit code, seconds and so on."""
        rows = []
        for cell in self.record.cells:
            end = self.ends.get(cell.name)
            state = (
                "waiting" if end is None else "failed" if end.exit_code else "stopped" if end.stopped else "finished"
            )
            row: dict[str, Any] = {"cell": cell.name, "setting": cell.setting, "seed": cell.seed}
            row |= {"overrides": list(cell.overrides), "folder": str(self.folder / cell.name), "state": state}
            known = end or CellEnd(cell=cell.name, rounds=0)
            rows.append(row | known.model_dump(include={"rounds", "exit_code", "seconds", "reason"}))
        frame: pd.DataFrame = pa.Table.from_pylist(rows).to_pandas()
        return frame


def sweep(
    graph: Graph | Path | str,
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    zips: Sequence[Sequence[str]] = (),
    out: Path | str | None = None,
    jobs: int | None = None,
    resume: bool = False,
    goal: str | None = None,
    keep: int | None = None,
    trials: int | None = None,
    imports: Sequence[str] = (),
    quiet: bool = False,
) -> Sweep:
    """Play a sweep from Python; `genrl_graph.sweep` describes the arguments."""
    folder = None if out is None else Path(out)
    options = SweepOptions(
        graph=_graph_file(graph, folder) if isinstance(graph, Graph) else Path(graph),
        overrides=tuple(overrides),
        zips=[",".join(keys) for keys in zips],
        seeds=None if seeds is None else ",".join(map(str, seeds)),
        goal=goal,
        keep=keep,
        trials=trials,
        imports=import_all(imports),
    )
    return play_sweep(plan_sweep(options), out=folder, jobs=jobs, resume=resume, quiet=quiet)


def play_sweep(plan: SweepPlan, *, out: Path | None, jobs: int | None, resume: bool, quiet: bool = False) -> Sweep:
    """Play a sweep, or go on with the one in its folder; returns it when all cells have ended, failed ones included.

    Raises `StoreError` where the folder holds anything else, another sweep, or one of other code; `Interrupted` after a
    signal, when all cells have ended: `resume` goes on.
    """
    if resume and out is None:
        raise ParamError("--resume: name the folder of the sweep with -o")
    folder = out or _free_folder(plan.settings[0].graph.name)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    refuse_taken(folder, resume=resume)
    make_folder(folder)
    lock = WriterLock(folder)
    try:
        record, ends = begun_sweep(plan.record, folder)
        record = _with_room(plan, folder, record, jobs, lambda text: _say(console, text))
        wait_for_orphans(folder / cell.name for cell in record.cells)
        return _Player(plan, folder, record, dict(ends), console).play()
    finally:
        lock.release()


def _with_room(
    plan: SweepPlan, folder: Path, begun: SweepRecord | None, jobs: int | None, tell: Callable[[str], None]
) -> SweepRecord:
    """Return the record with how many cells are played side by side, and write it where that is new.

    Threads stay as the sweep began: the bits of a cell depend on them, and so do its seconds.
    """
    if begun is not None and begun.jobs is not None and jobs in (None, begun.jobs):
        return begun
    of_user = "OMP_NUM_THREADS" in os.environ  # before an estimate sets it for this process
    room = plan.capacity(jobs, tell)
    if room.unknown:
        tell(f"no estimate: {room.unknown}")
    tell(f"{room.jobs} side by side: {room.reason}")
    threads = begun.threads if begun is not None else None if of_user else room.threads
    record = (begun or plan.record).model_copy(update={"jobs": room.jobs, "threads": threads})
    write_sweep(folder, record)
    return record


class _Player:
    """Plays a sweep whose folder is locked."""

    def __init__(
        self, plan: SweepPlan, folder: Path, record: SweepRecord, ends: dict[str, CellEnd], console: Console
    ) -> None:
        self._plan, self._folder, self._record = plan, folder, record
        self._ends, self._console = ends, console
        self._rounds = {setting.label: setting.graph.run.rounds for setting in plan.settings}
        self._study: Study | None = None
        self._metric = ""
        self._begun = time.monotonic()
        self._played_before = any(end.exit_code == 0 for end in ends.values())
        self._continued: set[str] = set()  # cells of which an earlier process played some rounds

    def play(self) -> Sweep:
        """Play what is left."""
        options = ["--import" if even else name for name in self._plan.options.imports for even in (True, False)]
        launch = Launch(self._folder, self._record.graph, options, self._record.threads)
        jobs = self._record.jobs or 1
        threads = "" if launch.threads is None else f" with {counted(launch.threads, 'thread')} each"
        _say(self._console, f"{self._folder}: {self._left()} played; {jobs} side by side{threads}")
        play_work(self._work(), launch, jobs, starts=self._starts, ended=self._ended, folder=self._folder)
        self._finish()
        return Sweep(self._folder, self._record, self._ends)

    def _work(self) -> Work:
        if self._record.goal is None:
            return Queue([Task(cell, self._rounds[cell.setting]) for cell in self._record.cells], self._ends)
        options, goal = self._plan.options, self._record.goal
        self._study = Study(self._folder, goal, seed=self._plan.settings[0].graph.run.seed, keep=options.keep)
        rounds = self._plan.settings[0].graph.run.rounds
        if options.trials and not options.keep:
            return Drawing(self._study, self._settings(), rounds, options.trials, self._ends, self._result, self._draw)
        while options.trials and len(self._settings()) < options.trials:
            self._draw()
        self._add_grid()
        targets = (*self._record.rungs, rounds)
        return Halving(self._study, self._settings(), targets, self._ends, self._result, self._stop)

    def _settings(self) -> dict[str, Sequence[Cell]]:
        settings: dict[str, Sequence[Cell]] = {}
        for cell in self._record.cells:
            settings[cell.setting] = (*settings.get(cell.setting, ()), cell)
        return settings

    def _add_grid(self) -> None:
        assert self._study is not None
        if not self._plan.options.trials:
            known = self._study.settings()
            for setting, choice in zip(self._plan.settings, self._plan.axes.choices(), strict=True):
                if setting.label not in known:
                    varied = {key: value for key, value, _ in choice if key in self._plan.axes.keys}
                    self._study.add(setting.label, varied, self._plan.axes)

    def _draw(self) -> tuple[str, Sequence[Cell]]:
        """Draw a setting that is new, and write its cells into the record before its trial is labelled."""
        assert self._study is not None
        known = {cell.setting for cell in self._record.cells}
        for _ in range(MOST_DRAWS):
            trial = self._study.draw(self._plan.axes)
            choice = chosen(self._plan.axes, trial.params)
            setting, problems = read_setting(self._plan.options.graph, self._plan.axes, choice)
            if problems:
                raise ParamError(f"{setting.label}: {next(iter(problems.values()))}")
            if setting.label in known and setting.label in self._study.settings():
                self._study.discard(trial)
                continue
            cells = cells_of(setting, self._record.seeds, f"trial_{trial.number:04d}")
            if setting.label not in known:
                self._record = self._record.model_copy(update={"cells": (*self._record.cells, *cells)})
                write_sweep(self._folder, self._record)
            trial.set_user_attr(SETTING, setting.label)
            self._rounds[setting.label] = setting.graph.run.rounds
            return setting.label, [cell for cell in self._record.cells if cell.setting == setting.label]
        raise ParamError(f"--trials {self._plan.options.trials}: {MOST_DRAWS} draws gave no new setting; ask for fewer")

    def _result(self, cells: Sequence[Cell], rounds: int) -> float:
        """Return the goal's mean over seeds: of the last evaluation, or of the last twentieth of the rounds."""
        assert self._record.goal is not None
        wanted, values = self._record.goal.metric, []
        for cell in cells:
            folders = run_folders(self._folder / cell.name)
            history = read_history(folders, lambda name: metric_matches(name, wanted))
            self._metric = self._metric or the_metric(wanted, history.series or history.names)
            series = history.series.get(self._metric)
            if series is None:
                return float("nan")
            within = series.values[series.rounds <= rounds]
            values.append(
                within[-1] if self._metric.startswith(EVAL) else within[-default_window(len(within)) :].mean()
            )
        return float(np.mean(values))

    def _starts(self, task: Task) -> None:
        name, how = task.cell.name, "starts"
        if (self._folder / name / GRAPH).exists():
            self._continued.add(name)
            how = "goes on"
        _say(self._console, f"{name}: {how}, to play {counted(task.rounds, 'round')}")

    def _ended(self, task: Task, end: CellEnd) -> None:
        self._ends[task.cell.name] = end
        add_end(self._folder, end)
        if end.exit_code:
            what = f"failed with exit code {end.exit_code}: {end.reason}"
        else:
            since = " since it went on" if task.cell.name in self._continued else ""
            what = f"{counted(task.rounds, 'round')} in {end.seconds:.0f} s{since}"
        _say(self._console, f"{task.cell.name}: {what}; {self._left()}")

    def _left(self) -> str:
        done = sum(end.exit_code == 0 for end in self._ends.values())
        return f"{done} of {self._plan.count} cells"

    def _stop(self, cells: Sequence[Cell], rounds: int) -> None:
        _say(self._console, f"{cells[0].setting}: stopped after {counted(rounds, 'round')}")
        for cell in cells:
            if (end := self._ends.get(cell.name)) is not None and end.exit_code:
                continue  # it stays among the failed
            self._ends[cell.name] = end = CellEnd(cell=cell.name, rounds=rounds, stopped=True)
            add_end(self._folder, end)

    def _finish(self) -> None:
        sweep = Sweep(self._folder, self._record, self._ends)
        seconds, since = time.monotonic() - self._begun, " since it went on" if self._played_before else ""
        _say(
            self._console,
            f"{self._folder}: {self._left()} in {seconds:.0f} s{since}, {counted(len(sweep.failed), 'failed cell')}",
        )
        for end in sweep.failed:
            _say(self._console, f"  {end.cell}: exit code {end.exit_code}: {end.reason}")
        for label, state, rounds, value in self._study.results() if self._study is not None else ():
            _say(self._console, f"  {label}: {state} after {counted(rounds, 'round')}, {self._record.goal} {value:.4g}")
        _say(self._console, f"compare  genrl-graph compare {self._folder} -o {self._folder}/comparison")


def _graph_file(graph: Graph, folder: Path | None) -> Path:
    """Write a graph into the folder of its sweep, for the processes of the cells, and return the file.

    Raises `ParamError` where it has no YAML form, `StoreError` where the folder has another graph.
    """
    if folder is None:
        raise ParamError("out: a graph that is no file needs the folder of the sweep, which it is written to")
    path, text = RunPath(folder) / GAME, graph.dump().encode()
    with refused_by_name(path, "write"):
        make_folder(folder)
        if path.exists() and path.read(len(text) + 1) != text:
            raise StoreError(f"{path}: is another graph; name another folder")
        path.write(text)
    return path.path


def _free_folder(name: str) -> Path:
    return next(path for n in itertools.count(1) if not (path := Path("sweeps") / f"{name}-{n}").exists())


def _say(console: Console, text: str) -> None:
    console.print(line(text), markup=False, soft_wrap=True)
