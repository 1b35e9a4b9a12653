"""The cells of a sweep: every setting of its axes with every seed, checked before anything is played."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrl_graph.dag.fingerprint import full_fingerprint
from genrl_graph.dag.graph import Graph
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.graph_file.axes import Axis, Interval, parse_axis, require_distinct, seeds_of
from genrl_graph.graph_file.read import read
from genrl_graph.messages import did_you_mean
from genrl_graph.store.sweep_folder import Cell

SEED = "run.seed"
MOST_CELLS = 10_000
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Setting:
    """One choice of a value on every axis: its label, its overrides, and the graph that they give."""

    label: str
    overrides: tuple[str, ...]
    graph: Graph

    @property
    def game(self) -> str:
        """The fingerprint of everything that the setting sets, but for the seed."""
        return full_fingerprint(self.graph)


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a sweep without the seeds: `zipped` keys change together."""

    axes: tuple[Axis, ...]
    intervals: tuple[Interval, ...]
    zipped: tuple[tuple[str, ...], ...] = ()

    @property
    def keys(self) -> list[str]:
        """The keys that change from setting to setting."""
        varied = [axis.key for axis in self.axes if len(axis.overrides) > 1]
        return varied + [interval.key for interval in self.intervals]

    def label(self, key: str) -> str:
        """Return the shortest end of a key that no other key that changes shares."""
        parts = key.split(".")
        ends = [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
        others = [other for other in self.keys if other != key]
        return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)

    def choices(self) -> list[tuple[tuple[str, str, str], ...]]:
        """Return all settings, each as (key, value, override) of every axis: crossed, but for zipped axes."""
        groups: list[list[tuple[tuple[str, str, str], ...]]] = []
        together = {key: keys for keys in self.zipped for key in keys}
        by_key = {axis.key: axis for axis in self.axes}
        for axis in self.axes:
            keys = together.get(axis.key, (axis.key,))
            if keys[0] == axis.key:
                columns = [_entries(by_key[key]) for key in keys]
                groups.append(list(zip(*columns, strict=True)))
        total = 1
        for group in groups:
            total *= len(group)
        if total > MOST_CELLS:
            raise ParamError(
                f"{total} settings are more than {MOST_CELLS}; give fewer values, or draw some with --trials"
            )
        return [tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*groups)]


def parse_axes(overrides: Sequence[str], zips: Sequence[str]) -> tuple[Axes, tuple[int, ...] | None]:
    """Parse the overrides of a sweep; returns its axes, and the seeds where an override of `run.seed` gives them."""
    parsed = [parse_axis(text) for text in overrides]
    require_distinct(parsed)
    seeds = None
    axes = []
    for axis in parsed:
        if axis.key != SEED:
            axes.append(axis)
        elif isinstance(axis, Interval):
            raise ParamError(f"{SEED}: seeds are not drawn; write --seeds 0:5")
        else:
            seeds = seeds_of(axis)
    lists = tuple(axis for axis in axes if isinstance(axis, Axis))
    zipped = tuple(_zipped(text, lists) for text in zips)
    keys = [key for together in zipped for key in together]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ParamError(f"--zip: {twice} is named twice; name each key once")
    return Axes(lists, tuple(axis for axis in axes if isinstance(axis, Interval)), zipped), seeds


def read_setting(graph: Path, axes: Axes, choice: Iterable[tuple[str, str, str]]) -> tuple[Setting, dict[str, str]]:
    """Return the setting of a choice, and the problems of its graph: each as a line with its place, by its text."""
    chosen = list(choice)
    varied = axes.keys
    parts = [f"{axes.label(key)}={value}" for key, value, _ in chosen if key in varied]
    overrides = tuple(override for _, _, override in chosen)
    loaded = read(graph, overrides)
    problems = {str(problem): line for problem, line in zip(loaded.problems, loaded.lines(), strict=True)}
    return Setting(", ".join(parts) or loaded.graph.name, overrides, loaded.graph), problems


def read_settings(graph: Path, axes: Axes) -> list[Setting]:
    """Return all settings; raises `GraphError` with the problems of all of them, and `ParamError` for equal ones."""
    settings: list[Setting] = []
    problems: dict[str, list[tuple[str, str]]] = {}
    for choice in axes.choices():
        setting, found = read_setting(graph, axes, choice)
        settings.append(setting)
        for text, where in found.items():
            problems.setdefault(text, []).append((setting.label, where))
    if problems:
        lines = [
            f"{label}: {line}" if len(at) < len(settings) else line
            for at in problems.values()
            for label, line in at[:1]
        ]
        raise GraphError("\n".join(lines))
    refuse_equal(settings)
    return settings


def refuse_equal(settings: Iterable[Setting]) -> None:
    """Raise `ParamError` where two settings are one game."""
    games: dict[str, Setting] = {}
    for setting in settings:
        other = games.setdefault(setting.game, setting)
        if other is not setting:
            what = f"{other.label} and {setting.label} are the same game"
            raise ParamError(f"{what}; leave one value out, or check that the key is read")


def cells_of(setting: Setting, seeds: Iterable[int], name: str) -> list[Cell]:
    """Return the cells of a setting, whose folders are called after it and their seed."""
    return [
        Cell(
            name=f"{name}-seed_{seed}",
            setting=setting.label,
            seed=seed,
            overrides=(*setting.overrides, f"{SEED}={seed}"),
            game=setting.game,
        )
        for seed in seeds
    ]


def folder_names(labels: Sequence[str]) -> list[str]:
    """Return a name of a folder for each setting: its label in plain characters, or a number where that is no name."""
    plain = [re.sub(r"[^A-Za-z0-9.-]+", "_", label.replace(", ", "-")).strip("._") for label in labels]
    usable = len(set(plain)) == len(plain) and all(0 < len(name) <= LONGEST_NAME for name in plain)
    return plain if usable else [f"setting_{number:04d}" for number in range(len(labels))]


def _entries(axis: Axis) -> list[tuple[str, str, str]]:
    return [(axis.key, value, override) for value, override in zip(axis.values, axis.overrides, strict=True)]


def _zipped(text: str, axes: Sequence[Axis]) -> tuple[str, ...]:
    """Return the keys that an option names, each by its name or the end of it."""
    named = [part.strip() for part in text.split(",")]
    by_key = {axis.key: axis for axis in axes}
    keys = [_key(name, by_key, text) for name in named]
    if len(keys) < 2:
        raise ParamError(f"--zip {text}: names one key; write --zip KEY,KEY for keys that change together")
    counts = {key: len(by_key[key].overrides) for key in keys}
    if len(set(counts.values())) > 1:
        raise ParamError(
            f"--zip {text}: {', '.join(f'{key} has {n} values' for key, n in counts.items())}; give equally many"
        )
    return tuple(keys)


def _key(name: str, known: Iterable[str], text: str) -> str:
    matches = [key for key in known if key == name or key.endswith(f".{name}")]
    if len(matches) != 1:
        what = f"may be {' or '.join(matches)}" if matches else f"is no key of this sweep{did_you_mean(name, known)}"
        raise ParamError(f"--zip {text}: {name!r} {what}; name keys that have values")
    return matches[0]
