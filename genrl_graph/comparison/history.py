"""The metrics of one run by round, as means over its peers, and what the run had spent before each round."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genrl_graph.store.metrics_file import metric_lines

Floats = NDArray[np.float64]
Unit = Literal["rounds", "sampled_tokens", "trained_tokens", "seconds"]
UNITS: tuple[Unit, ...] = get_args(Unit)

EVAL = "eval/"
_COSTS: Mapping[str, Unit] = {"tokens": "sampled_tokens", "trained_tokens": "trained_tokens"}
_SECONDS = "time/round"
_STAGE = re.compile(r"stage\d+/")


@dataclass(frozen=True, slots=True)
class Series:
    """A metric of one run: its rounds and its values, NaN where the run reported no finite number."""

    rounds: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True, slots=True)
class History:
    """The wanted metrics of a run, the rounds that it played, and by unit what it had spent before each and in all.

    `names` are all metrics that it reports.
    """

    played: NDArray[np.int64]
    series: Mapping[str, Series]
    spent: Mapping[Unit, Floats]
    names: frozenset[str]

    @property
    def rounds(self) -> int:
        """The number of rounds, those that a swarm skipped included."""
        return int(self.played[-1]) + 1 if len(self.played) else 0

    def positions(self, name: str, unit: Unit) -> Floats:
        """Return where the values of a metric stand: what had been spent before their rounds."""
        rounds = self.series[name].rounds
        return rounds.astype(np.float64) if unit == "rounds" else self.spent[unit][np.searchsorted(self.played, rounds)]


def is_outcome(name: str, rewards: Collection[str]) -> bool:
    """Return whether a metric is compared by default: results of stages, and of rewards in evaluations."""
    node, _, rest = name.removeprefix(EVAL).rpartition("/")
    if name.startswith(EVAL):
        return (rest == "reward" and node in rewards) or rest.startswith("pass_at_") or bool(_STAGE.match(f"{node}/"))
    return bool(_STAGE.match(name)) and rest != "zero_variance"


def words(unit: Unit) -> str:
    """Return a unit in words, as in "sampled tokens"."""
    return unit.replace("_", " ")


def read_history(folders: Sequence[Path], wanted: Callable[[str], bool]) -> History:
    """Read the wanted metrics of a run, whose peers may have a folder each.

    A round or evaluation that occurs twice, as after a resume, counts once, as it was reported last.
    """
    reader = _Reader(wanted)
    for folder in folders:
        for line in metric_lines(folder):
            reader.take(line)
    return reader.history()


@dataclass(slots=True)
class _Reader:
    """Collects lines by round and peer: the wanted metrics, and what each round spent."""

    wanted: Callable[[str], bool]
    rows: dict[bool, dict[tuple[int, str], dict[str, float | None]]] = field(
        default_factory=lambda: {False: {}, True: {}}
    )
    costs: dict[tuple[int, str], tuple[float, ...]] = field(default_factory=dict)
    known: dict[str, tuple[bool, Unit | None]] = field(default_factory=dict)

    def take(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl."""
        key = (line["round"], line["peer"])
        kept: dict[str, float | None] = {}
        spent = dict.fromkeys(UNITS, 0.0)
        evaluation = True
        for name, value in line.items():
            if name in ("round", "peer"):
                continue
            if name not in self.known:
                self.known[name] = (self.wanted(name), _unit(name))
            keep, unit = self.known[name]
            if keep:
                kept[name] = value
            if unit is not None and value is not None:
                spent[unit] += value
            evaluation = evaluation and name.startswith(EVAL)
        self.rows[evaluation][key] = kept
        if not evaluation:
            self.costs[key] = tuple(spent.values())

    def history(self) -> History:
        """Return what was collected."""
        played, which = np.unique(np.array([round for round, _ in self.costs], np.int64), return_inverse=True)
        costs = np.zeros((len(played), len(UNITS)))
        np.add.at(costs, which, np.array(list(self.costs.values())).reshape(-1, len(UNITS)))
        each = dict(zip(UNITS, costs.T, strict=True))
        each["seconds"] /= np.bincount(which, minlength=len(played))  # each peer reports those of the whole round
        spent = {unit: np.concatenate([[0.0], np.cumsum(cost)]) for unit, cost in each.items()}
        series = {name: found for rows in self.rows.values() for name, found in _series(rows)}
        return History(played, series, spent, frozenset(self.known))


def _series(rows: Mapping[tuple[int, str], Mapping[str, float | None]]) -> Iterable[tuple[str, Series]]:
    """Yield each metric with its mean over the peers of each round that reports it."""
    keys = sorted(rows)
    for name in dict.fromkeys(name for key in keys for name in rows[key]):
        by_round: dict[int, list[float]] = {}
        for key in keys:
            if name in rows[key]:
                value = rows[key][name]
                by_round.setdefault(key[0], []).append(np.nan if value is None else value)
        values = [values[0] if len(values) == 1 else float(np.mean(values)) for values in by_round.values()]
        yield name, Series(np.array(list(by_round), np.int64), np.array(values))


def _unit(name: str) -> Unit | None:
    """Return the unit of which a metric is the cost of a round, None for any other metric."""
    if name == _SECONDS:
        return "seconds"
    node, _, measure = name.partition("/")
    return _COSTS.get(measure) if node != "eval" else None
