"""Plan a sweep: read and check all its settings before anything is played, and say what it is for a resume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrl_graph.errors import ParamError, StoreError
from genrl_graph.graph_file.axes import Axis, Interval, parse_seeds
from genrl_graph.runners.sweep.capacity import Capacity, capacity
from genrl_graph.runners.sweep.cells import Axes, Setting, cells_of, folder_names, parse_axes, read_settings
from genrl_graph.runners.sweep.study import require_optuna, rungs
from genrl_graph.store.run_folder import LOCK
from genrl_graph.store.run_path import PARTIAL
from genrl_graph.store.sweep_folder import SWEEP, Cell, CellEnd, Goal, SweepRecord, read_ends, read_sweep, write_sweep
from genrl_graph.version import commit, installed

CODE = ("genrl-graph", "torch", "transformers", "trl")
GAME = "game.yaml"
"""A graph that was built in Python, as a file for the processes of its cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The contents of a sweep: axes as overrides in Hydra's grammar, keys that change together, seeds, and a search.

    `goal` is METRIC, max:METRIC or min:METRIC. With `keep`, one in so many settings goes on after each rung. `trials`
    settings are drawn instead of playing all. `imports` are hashes or versions by name, as `--import` gives them.
    """

    graph: Path
    overrides: Sequence[str] = ()
    zips: Sequence[str] = ()
    seeds: str | None = None
    goal: str | None = None
    keep: int | None = None
    trials: int | None = None
    imports: Mapping[str, str] = field(default_factory=dict)


def plan_sweep(options: SweepOptions) -> "SweepPlan":
    """Read all settings of a sweep and check them; raises `GraphError` and `ParamError` before anything is written."""
    axes, seeds = parse_axes(options.overrides, options.zips)
    if seeds is not None and options.seeds is not None:
        raise ParamError("--seeds: run.seed is given, too; leave one out")
    goal = _goal(options, axes)
    checked = _with_ends(axes) if options.trials else axes
    settings = read_settings(options.graph, checked)
    if seeds is None:
        seeds = (settings[0].graph.run.seed,) if options.seeds is None else parse_seeds(options.seeds)
    rounds = sorted({setting.graph.run.rounds for setting in settings})
    if goal is not None and len(rounds) > 1:
        raise ParamError(
            f"run.rounds: a search compares settings of equal length, not of {rounds} rounds; give one number"
        )
    steps = rungs(rounds[-1], options.trials or len(settings), options.keep) if options.keep else ()
    cells: list[Cell] = []
    if not options.trials:
        names = folder_names([setting.label for setting in settings])
        cells = [
            cell
            for seed in seeds
            for s, name in zip(settings, names, strict=True)
            for cell in cells_of(s, [seed], name)
        ]
    record = SweepRecord(
        graph=str(options.graph),
        axes=tuple(options.overrides),
        seeds=seeds,
        code=_code(options.imports),
        goal=goal,
        trials=options.trials,
        rungs=steps,
        cells=tuple(cells),
    )
    return SweepPlan(options, axes, settings, record)


@dataclass(slots=True)
class SweepPlan:
    """A sweep that can be played: its axes, its settings (of a search the ends of its intervals), and its record."""

    options: SweepOptions
    axes: Axes
    settings: list[Setting]
    record: SweepRecord

    @property
    def count(self) -> int:
        """The number of cells, those of settings that are yet to be drawn included."""
        return (self.options.trials or len(self.settings)) * len(self.record.seeds)

    def capacity(self, jobs: int | None, tell: Callable[[str], None], *, estimated: bool = False) -> Capacity:
        """Return how many cells are played side by side, with the estimates that this follows from."""
        if jobs is not None and jobs < 1:
            raise ParamError(f"--jobs {jobs}: wants at least 1")
        return capacity(self.settings, self.count, jobs=jobs, estimated=estimated, tell=tell)


def refuse_taken(folder: Path, *, resume: bool) -> None:
    """Raise `StoreError` where a folder holds anything but the sweep to resume, or the remains of a start."""
    if (folder / SWEEP).exists() and not resume:
        raise StoreError(f"{folder}: holds a sweep already; go on with --resume, or name another folder with -o")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name another folder")
    allowed = {GAME, LOCK, f"{SWEEP}{PARTIAL}"}
    if folder.exists() and not (folder / SWEEP).exists() and any(path.name not in allowed for path in folder.iterdir()):
        raise StoreError(f"{folder}: holds files but no {SWEEP}; name another folder with -o")


def begun_sweep(new: SweepRecord, folder: Path) -> tuple[SweepRecord | None, Mapping[str, CellEnd]]:
    """Return the record of the sweep in a folder, grown by new cells, and its ends; None for a new sweep."""
    if not (folder / SWEEP).exists():
        return None, {}
    old = read_sweep(folder)
    _refuse_other(folder, old, new)
    added = [cell for cell in new.cells if cell.name not in {known.name for known in old.cells}]
    grown = {"cells": (*old.cells, *added), "seeds": new.seeds, "trials": new.trials, "axes": new.axes}
    record = old.model_copy(update=grown)
    if record != old:
        write_sweep(folder, record)
    return record, read_ends(folder)


def _refuse_other(folder: Path, old: SweepRecord, new: SweepRecord) -> None:
    """Raise `StoreError` where the sweep in a folder is played by other code, or is not a part of the new one."""
    names = dict.fromkeys((*old.code, *new.code))
    changed = [
        f"{n} was {old.code.get(n, 'none')}, is {new.code.get(n, 'none')}"
        for n in names
        if old.code.get(n) != new.code.get(n)
    ]
    if changed:
        what = f"{folder}: was begun with other code ({'; '.join(changed)}), and its runs would not be comparable"
        raise StoreError(f"{what}; go on with that code, or start another sweep")
    if (old.goal, old.rungs if old.goal else ()) != (new.goal, new.rungs if new.goal else ()):
        raise StoreError(f"{folder}: was begun with another search; give its --goal, --early-stop and run.rounds again")
    if new.trials is not None:
        if old.axes != new.axes or old.seeds != new.seeds or (old.trials or 0) > new.trials:
            raise StoreError(
                f"{folder}: was begun with other axes, seeds or more trials: {' '.join(old.axes)}; give them again"
            )
        return
    games = {cell.name: cell for cell in new.cells}
    for cell in old.cells:
        if cell.name not in games:
            what = f"{folder}: has the cell {cell.name}, which is not asked for now"
            raise StoreError(f"{what}; give its axes and seeds again (more are added), or start another sweep")
        if games[cell.name] != cell:
            what = f"{folder}: {cell.name} was another game when the sweep began"
            raise StoreError(f"{what}; bring its graph file back, or start another sweep")


def _goal(options: SweepOptions, axes: Axes) -> Goal | None:
    """Return the goal of a search, None without one; raises `ParamError` for options that do not go together."""
    if axes.intervals and not options.trials:
        raise ParamError(
            f"{axes.intervals[0].key}: an interval has no list of values; say how many to draw with --trials N"
        )
    if options.trials is not None and (options.trials < 1 or not axes.intervals):
        raise ParamError(f"--trials {options.trials}: wants at least 1 draw, and a key=interval(low,high) to draw from")
    if options.keep is not None and options.keep < 2:
        raise ParamError(f"--early-stop {options.keep}: keeps one of so many settings, so it wants at least 2")
    searching = options.trials is not None or options.keep is not None
    if searching != (options.goal is not None):
        raise ParamError("--goal METRIC says what --early-stop and --trials look for; give it with one of them")
    if options.goal is None:
        return None
    require_optuna()
    first, colon, metric = options.goal.partition(":")
    if colon and (first not in ("max", "min") or not metric):
        raise ParamError(f"--goal {options.goal}: is no goal; write METRIC, max:METRIC or min:METRIC")
    return Goal(metric=metric or first, direction="min" if colon and first == "min" else "max")


def _with_ends(axes: Axes) -> Axes:
    """Return the axes with the two ends of each interval as its values, which are checked before anything is drawn."""
    ends = tuple(_ends_of(interval) for interval in axes.intervals)
    return Axes((*axes.axes, *ends), (), axes.zipped)


def _ends_of(interval: Interval) -> Axis:
    values = tuple(int(end) if interval.whole else end for end in (interval.low, interval.high))
    return Axis(interval.key, tuple(map(interval.override, values)), tuple(map(str, values)))


def _code(imports: Mapping[str, str]) -> dict[str, str]:
    versions = {name: version for name in CODE if (version := installed(name)) is not None}
    revision = commit()
    return versions | ({} if revision is None else {"commit": revision}) | dict(imports)
