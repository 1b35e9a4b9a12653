"""Expectations such as `eval/reward(a) > eval/reward(b) + 0.05`, met where a 95 % interval says so."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrl_graph.comparison.interval import difference_interval, mean_intervals
from genrl_graph.errors import ParamError
from genrl_graph.messages import counted, did_you_mean

Floats = NDArray[np.float64]
ByRun = Mapping[int, float]
"""A value of each run, by seed."""

_SETTING = re.compile(r"\([^()]*\)")
_SIGN = re.compile(r"[<>=]=?")
_TERM = re.compile(
    r"\s*(?P<sign>[+-]\s)?\s*(?:(?P<metric>[\w./-]+)\((?P<label>[^()@]*)(?:@(?P<at>[^()]*))?\)|(?P<number>\S+))"
)
ADVICE = (
    "write METRIC(SETTING) > METRIC(SETTING), also < and = with +- MARGIN, such as 'eval/reward(a) > eval/reward(b)'"
)


@dataclass(frozen=True, slots=True)
class Term:
    """A metric of a setting at a position, or at the last common one, times `factor`."""

    factor: float
    metric: str
    label: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """An expectation as written: terms plus `number` must be above 0, below 0, or within `margin` of 0."""

    text: str
    terms: tuple[Term, ...]
    number: float
    sign: str
    margin: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on an expectation: the difference of its sides with a 95 % interval, and of what it is the mean."""

    text: str
    met: bool
    mean: float
    low: float
    high: float
    reason: str

    def __str__(self) -> str:
        interval = "no interval" if math.isnan(self.low) else f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{'met' if self.met else 'not met'}: {self.text}: {self.mean:.4g} {interval}, {self.reason}"


def parse_expectation(text: str) -> Expectation:
    """Parse an expectation; raises `ParamError` with what is wrong with it."""
    plain = _SETTING.sub(lambda match: "." * len(match[0]), text)  # the name of a setting may have signs in it
    signs = list(_SIGN.finditer(plain))
    if len(signs) != 1:
        raise ParamError(f"--expect {text!r}: has {counted(len(signs), 'comparison')}, wants one; {ADVICE}")
    (found,) = signs
    sign, end = found[0][0], plain.find("+-", found.end())
    margin = _number(text[end + 2 :].strip(), text) if end >= 0 else 0.0
    if (sign == "=") != (margin > 0):
        raise ParamError(f"--expect {text!r}: = wants a margin above 0, and only = has one; write A(x) = A(y) +- 0.02")
    left = _terms(text[: found.start()].strip(), text)
    right = _terms(text[found.end() : end if end >= 0 else None].strip(), text)
    terms = (*left[0], *(Term(-term.factor, term.metric, term.label, term.at) for term in right[0]))
    if not terms:
        raise ParamError(f"--expect {text!r}: names no metric; {ADVICE}")
    return Expectation(text, terms, left[1] - right[1], sign, margin)


def metric_matches(name: str, wanted: str) -> bool:
    """Return whether a metric is meant: by its name, or by its first and last part, as eval/reward."""
    first, slash, last = wanted.partition("/")
    return name == wanted or bool(
        slash and "/" not in last and name.startswith(f"{first}/") and name.endswith(f"/{last}")
    )


def the_metric(wanted: str, names: Iterable[str]) -> str:
    """Return the name of the metric that is meant; raises `ParamError` where there is none, or several."""
    known = sorted(names)
    matches = [wanted] if wanted in known else [name for name in known if metric_matches(name, wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ParamError(f"{wanted}: may be {' or '.join(matches[:5])}; write one of them")
    raise ParamError(f"{wanted}: no run reports this metric{did_you_mean(wanted, known) or _listed(known)}")


def judge(expectation: Expectation, values: Callable[[Term], ByRun]) -> Verdict:
    """Judge an expectation; `values` gives each term by run. A run without a finite value leaves it unmet."""
    sums: dict[str, dict[int, float]] = {}
    for term in expectation.terms:
        by_run = values(term)
        known = sums.setdefault(term.label, dict.fromkeys(by_run, 0.0))
        sums[term.label] = {seed: known[seed] + term.factor * by_run[seed] for seed in by_run if seed in known}
    lost = [f"seed {seed} of {label}" for label, by_run in sums.items() for seed, v in by_run.items() if math.isnan(v)]
    mean, low, high, unit = _interval(expectation, list(sums.values()))
    if lost:
        return Verdict(expectation.text, False, mean, low, high, f"{', '.join(lost[:5])}: no finite value")
    met = {
        ">": low > 0,
        "<": high < 0,
        "=": low > -expectation.margin and high < expectation.margin,
    }[expectation.sign]
    return Verdict(expectation.text, met, mean, low, high, unit)


def _interval(expectation: Expectation, sides: Sequence[ByRun]) -> tuple[float, float, float, str]:
    seeds = sorted(set(sides[0]).intersection(*sides[1:]))
    number = expectation.number
    if len(sides) == 1 or len(seeds) > 1:
        each = np.array([[sum(side[seed] for side in sides) + number] for seed in seeds])
        found = mean_intervals(each)
        what = "run" if len(sides) == 1 else "pair"
        return float(found.mean[0]), float(found.low[0]), float(found.high[0]), f"over {counted(len(seeds), what)}"
    if len(sides) > 2:
        raise ParamError(
            f"--expect {expectation.text!r}: three settings or more need two seeds in common; they have none"
        )
    first, second = (np.array(list(side.values())) for side in sides)
    mean, low, high = difference_interval(first + number, -second)
    return mean, low, high, f"over {len(first)} and {counted(len(second), 'run')} without common seeds"


def _terms(side: str, text: str) -> tuple[list[Term], float]:
    terms, number, place = [], 0.0, 0
    if not side:
        raise ParamError(f"--expect {text!r}: a side is empty; {ADVICE}")
    while place < len(side):
        match = _TERM.match(side, place)
        if match is None or (place and not match["sign"]):
            raise ParamError(f"--expect {text!r}: {side[place:].strip()!r} is not understood; {ADVICE}")
        factor = -1.0 if (match["sign"] or "").startswith("-") else 1.0
        if match["metric"]:
            at = None if match["at"] is None else _number(match["at"], text)
            terms.append(Term(factor, match["metric"], match["label"].strip(), at))
        else:
            number += factor * _number(match["number"], text)
        place = match.end()
    return terms, number


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ParamError(f"--expect {whole!r}: {text!r} is no number and no METRIC(SETTING); {ADVICE}")
    return value


def _listed(names: Sequence[str]) -> str:
    return f"; there are {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else "; there are none"
