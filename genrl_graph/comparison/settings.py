"""The runs that are compared, grouped by setting: runs that differ in nothing but their seed."""

import glob
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrl_graph.comparison.history import History, read_history
from genrl_graph.errors import ParamError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.messages import counted, did_you_mean, short
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.store.run_folder import GRAPH, inner_folders, read_graph, sub_folders
from genrl_graph.store.sweep_folder import is_sweep, read_ends, read_sweep
from genrl_graph.store.versions import code_versions

NO_SETTING = frozenset(
    f"run.{name}"
    for name in (
        *("seed", "rounds", "threads", "checkpoint_every", "keep", "block_rounds", "trackers"),
        *("max_failed_share", "max_failed_rows", "max_retries", "retry_wait_s"),
    )
)
"""Run options in which runs of one setting may differ."""


Wanted = Callable[[str, Collection[str]], bool]
"""Return whether a metric is read, from its name and the names of the run's rewards."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run: its folder, its seed, the params of its graph by dotted name, the code that played it, its metrics."""

    folder: Path
    seed: int
    rounds_asked: int
    params: Mapping[str, Any]
    code: Mapping[str, str]
    history: History


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs of one setting, by seed; `stopped` is the round after which a sweep stopped it, None where it went on."""

    label: str
    runs: Mapping[int, ComparedRun]
    stopped: int | None = None


@dataclass(slots=True)
class NamedRun:
    """A run folder and what an argument says of it: a label, empty where it says none."""

    folder: Path
    label: str = ""
    stopped: int | None = None


@dataclass(slots=True)
class Settings:
    """The settings in the order of the arguments, and what the reader must know of their runs."""

    settings: list[Setting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_settings(arguments: Sequence[Path | str], wanted: Wanted) -> Settings:
    """Read runs and sweeps, and group them by setting; runs of other code are a setting of their own.

    An argument is a run, a sweep, a folder of runs, or LABEL=PATTERN with a label for all runs that it names. Raises
    `ParamError` for an argument that names no run, or a setting with two runs of one seed.
    """
    result = Settings()
    grouped: dict[tuple[str, str], list[tuple[NamedRun, ComparedRun]]] = {}
    for argument in arguments:
        for found in named_runs(str(argument), result.notes):
            run = _read(found.folder, wanted)
            grouped.setdefault((found.label, "" if found.label else _identity(run)), []).append((found, run))
    unnamed = [runs[0][1] for (label, _), runs in grouped.items() if not label]
    for (label, _), runs in grouped.items():
        name = label or _label(runs[0][1], unnamed)
        result.settings += _by_code(name, runs, result.notes)
    if not result.settings:
        raise ParamError("compare: no run is named; give run folders or a sweep, such as sweeps/tiny-1")
    return result


def named_runs(argument: str, notes: list[str]) -> Iterator[NamedRun]:
    """Yield the run folders that an argument names: a run, a sweep, a folder of runs, or LABEL=PATTERN.

    Raises `ParamError` where it names none; cells of a sweep that have no run are told of in `notes`.
    """
    label, equals, pattern = argument.partition("=")
    if not equals or Path(argument).exists():
        label, pattern = "", argument
    elif not label.strip():
        raise ParamError(f"{argument}: the label is empty; write LABEL=RUN, such as baseline=runs/a")
    names = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  # also absolute ones
    paths = [Path(name) for name in names]
    runs = [run for path in paths for run in _folders_of(path, label.strip(), notes)]
    if not runs:
        hint = did_you_mean(Path(pattern).name, [path.name for path in sub_folders(Path(pattern).parent)])
        raise ParamError(f"{pattern}: names no run and no sweep{hint}; `genrl-graph runs FOLDER` lists runs")
    yield from runs


def _folders_of(path: Path, label: str, notes: list[str]) -> Iterator[NamedRun]:
    if is_sweep(path):
        yield from _cells(path, label, notes)
    elif run_folders(path):
        yield NamedRun(path, label)
    else:
        yield from (NamedRun(inner, label) for inner in inner_folders(path))


def _cells(path: Path, label: str, notes: list[str]) -> Iterator[NamedRun]:
    """Yield the cells of a sweep that have a run; the others are told of."""
    record, ends = read_sweep(path), read_ends(path)
    missing = [cell.name for cell in record.cells if not run_folders(path / cell.name)]
    if missing:
        notes.append(f"{path}: {counted(len(missing), 'cell')} of {len(record.cells)} not played yet: {_some(missing)}")
    failed = [name for name, end in ends.items() if end.exit_code and name not in missing]
    if failed:
        notes.append(f"{path}: {counted(len(failed), 'cell')} failed and may be short: {_some(failed)}")
    several = len({cell.setting for cell in record.cells}) > 1
    for cell in record.cells:
        if cell.name not in missing:
            end = ends.get(cell.name)
            name = f"{label}/{cell.setting}" if label and several else label or cell.setting
            yield NamedRun(path / cell.name, name, end.rounds if end is not None and end.stopped else None)


def params_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all params of the graph in a run folder by dotted name, and its versions."""
    text, versions = read_graph(folder)
    return dict(_flat(parse_document(text, file=str(folder / GRAPH)).values)), versions


def setting_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params in which runs of one setting agree."""
    return {name: value for name, value in params.items() if name not in NO_SETTING}


def _read(folder: Path, wanted: Wanted) -> ComparedRun:
    folders = run_folders(folder)
    params, versions = params_of(folders[0])
    seed, rounds = (params.get(f"run.{name}", default) for name, default in (("seed", 0), ("rounds", 10)))
    if not isinstance(seed, int) or not isinstance(rounds, int):
        raise ParamError(f"{folder}: run.seed is {short(seed)}, run.rounds is {short(rounds)}; restore {GRAPH}")
    setting = setting_params(params)
    types = {name.split(".")[1]: kind for name, kind in params.items() if re.fullmatch(r"nodes\.[^.]+\.type", name)}
    rewards = {name for name, kind in types.items() if str(kind).startswith("reward.")}
    history = read_history(folders, lambda name: wanted(name, rewards))
    return ComparedRun(folder, seed, rounds, setting, code_versions(versions), history)


def _by_code(label: str, runs: Sequence[tuple[NamedRun, ComparedRun]], notes: list[str]) -> list[Setting]:
    """Return the setting of these runs, or one for each version of the code where they were played by several."""
    codes = list({tuple(sorted(run.code.items())): run.code for _, run in runs}.values())
    if len(codes) == 1:
        return [_setting(label, runs, notes)]
    differing = [
        name for name in dict.fromkeys(n for code in codes for n in code) if len({c.get(name) for c in codes}) > 1
    ]
    settings = []
    for code in codes:
        name = f"{label} [{', '.join(f'{key} {code.get(key)}' for key in differing)}]"
        settings.append(_setting(name, [(found, run) for found, run in runs if run.code == code], notes))
    notes.append(f"{label}: was played by {len(codes)} versions of the code ({', '.join(differing)}), shown apart")
    return settings


def _setting(label: str, runs: Sequence[tuple[NamedRun, ComparedRun]], notes: list[str]) -> Setting:
    by_seed: dict[int, ComparedRun] = {}
    for _, run in runs:
        if (other := by_seed.get(run.seed)) is not None:
            what = f"{label}: seed {run.seed} is there twice, {other.folder} and {run.folder}"
            raise ParamError(f"{what}; a seed counts once: leave one out, or label them apart with LABEL=RUN")
        by_seed[run.seed] = run
    if differing := _differing([run for _, run in runs]):
        notes.append(f"{label}: its runs differ in more than the seed: {_some(differing)}")
    stops = [found.stopped for found, _ in runs if found.stopped is not None]
    return Setting(label, dict(sorted(by_seed.items())), max(stops) if stops else None)


def _identity(run: ComparedRun) -> str:
    return repr(sorted(run.params.items(), key=lambda item: item[0]))


def _label(run: ComparedRun, others: Sequence[ComparedRun]) -> str:
    """Return the name of a graph and the params in which its runs differ from others."""
    game = str(run.params.get("graph", run.folder.name))
    same = [other for other in others if other.params.get("graph") == run.params.get("graph")]
    parts = [f"{name.rpartition('.')[2]}={run.params.get(name)}" for name in _differing(same)]
    return f"{game} {', '.join(parts)}" if parts else game


def _differing(runs: Sequence[ComparedRun]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.params)
    return [name for name in names if len({repr(run.params.get(name)) for run in runs}) > 1]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
