"""Compare settings by metric: means with intervals over runs, differences by equal seeds, and expectations."""

import fnmatch
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrl_graph.comparison.align import Aligned, align
from genrl_graph.comparison.expectation import (
    Expectation,
    Term,
    judge,
    metric_matches,
    parse_expectation,
    the_metric,
)
from genrl_graph.comparison.history import UNITS, Unit, is_outcome
from genrl_graph.comparison.interval import FEWEST, difference_interval, mean_intervals
from genrl_graph.comparison.report import write_report
from genrl_graph.comparison.result import Comparison, Difference
from genrl_graph.comparison.settings import Setting, Settings, read_settings
from genrl_graph.errors import ParamError
from genrl_graph.messages import counted, did_you_mean

if TYPE_CHECKING:
    pass

ALL_PAIRS = 4
"""The most settings of which every two are compared; of more, each is compared with the first."""


def compare(
    what: Sequence[Path | str],
    *,
    at: Unit = "rounds",
    metrics: Sequence[str] = (),
    smooth: int | None = None,
    baseline: str | None = None,
    expect: Sequence[str] = (),
    out: Path | str | None = None,
) -> Comparison:
    """Compare runs and sweeps by setting; a run is the unit: its peers are averaged first, and its rounds smoothed.

    Args:
        what: Run folders, sweeps, folders of runs, or `LABEL=PATTERN`.
        at: What is equal where runs are compared: rounds, sampled_tokens, trained_tokens or seconds of rounds.
        metrics: Names or patterns such as `eval/*`; by default results of stages and evaluations.
        smooth: Rounds that training metrics are averaged over; by default a twentieth. Evaluations are not smoothed.
        baseline: The setting that others are compared with; by default every two of up to four, else the first.
        expect: Expectations such as `eval/reward(a) > eval/reward(b)`.
        out: Folder for table.md, summary.parquet, curves.png and curves.svg; without matplotlib no pictures.

    Raises:
        ParamError: Nothing is named, or what an option names is unknown.
        StoreError: A run cannot be read, or a file cannot be written.
    """
    if at not in UNITS:
        raise ParamError(f"--at {at}: is no unit{did_you_mean(at, UNITS)}; there are {', '.join(UNITS)}")
    if smooth is not None and smooth < 1:
        raise ParamError(f"--smooth {smooth}: wants at least 1 round")
    expectations = [parse_expectation(text) for text in expect]
    named = {term.metric for expectation in expectations for term in expectation.terms}

    def wanted(name: str, rewards: Collection[str]) -> bool:
        chosen = any(fnmatch.fnmatchcase(name, p) for p in metrics) if metrics else is_outcome(name, rewards)
        return chosen or any(metric_matches(name, metric) for metric in named)

    found = read_settings(what, wanted)
    settings = _running(found)
    _note_runs(settings, found.notes)
    aligned = _aligned(settings, at, smooth, metrics, found.notes)
    bands = {(a.metric, label): mean_intervals(a.matrix(label)) for a in aligned for label in a.values}
    comparison = Comparison(
        unit=at,
        settings=settings,
        metrics=aligned,
        bands=bands,
        differences=[d for a in aligned for d in _differences(a, _pairs(settings, baseline))],
        verdicts=[judge(expectation, _Values(aligned, settings, expectation)) for expectation in expectations],
        notes=found.notes,
    )
    if out is not None:
        write_report(comparison, Path(out))
    return comparison


def _running(found: Settings) -> list[Setting]:
    """Return the settings that no search has stopped; the others would shorten the comparison, and are noted."""
    going = [setting for setting in found.settings if setting.stopped is None]
    for setting in found.settings if going else ():
        if setting.stopped is not None:
            found.notes.append(f"{setting.label}: left out, the sweep stopped it after {setting.stopped} rounds")
    return going or found.settings


def _note_runs(settings: Sequence[Setting], notes: list[str]) -> None:
    """Note runs of different length, single seeds, and few seeds."""
    runs = [run for setting in settings for run in setting.runs.values()]
    shortest = min(run.history.rounds for run in runs)
    short = [run for run in runs if run.history.rounds == shortest]
    if len(short) < len(runs):
        more = f", as {counted(len(short) - 1, 'other run')} has" if len(short) > 1 else ""
        what = f"{short[0].folder} has {shortest} of {max(run.rounds_asked for run in short)} rounds{more}"
        notes.append(f"{what}: everything is compared up to where all runs came; resume it or leave it out")
    if single := [setting.label for setting in settings if len(setting.runs) == 1]:
        notes.append(f"one seed, so no interval: {', '.join(single)}")
    if few := [setting.label for setting in settings if 1 < len(setting.runs) < FEWEST]:
        notes.append(f"fewer than {FEWEST} seeds, so the interval is Student's t: {', '.join(few)}")


def _aligned(
    settings: Sequence[Setting], unit: Unit, smooth: int | None, patterns: Sequence[str], notes: list[str]
) -> list[Aligned]:
    histories = [run.history for setting in settings for run in setting.runs.values()]
    known = sorted({name for history in histories for name in history.names})
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            hint = did_you_mean(pattern, known) or f"; there are {', '.join(known[:8])} ..."
            raise ParamError(f"--metric {pattern}: no run reports this metric{hint}")
    aligned = []
    for name in sorted({name for history in histories for name in history.series}):
        found = align(name, settings, unit, smooth)
        if found is None:
            notes.append(f"{name}: left out, the runs have no position in common")
            continue
        aligned.append(found)
        _note_metric(found, settings, notes)
    if not aligned:
        raise ParamError(
            f"compare: the runs report no metric to compare; choose some with --metric: {', '.join(known[:8])}"
        )
    return aligned


def _note_metric(aligned: Aligned, settings: Sequence[Setting], notes: list[str]) -> None:
    """Note who does not report a metric, and who has values that are not finite."""
    missing = [
        f"{setting.label} (seed {seed})" if setting.label in aligned.values else setting.label
        for setting in settings
        for seed in setting.runs
        if seed not in aligned.values.get(setting.label, {})
    ]
    if missing := list(dict.fromkeys(missing)):
        notes.append(f"{aligned.metric}: is not reported by {', '.join(missing)}")
    for label, by_seed in aligned.values.items():
        for seed, values in by_seed.items():
            if lost := int((~np.isfinite(values)).sum()):
                what = (
                    f"{aligned.metric}: seed {seed} of {label} has no finite value at {lost} of {len(values)} positions"
                )
                end = "the last among them" if not np.isfinite(values[-1]) else "not the last"
                notes.append(f"{what}, {end}; the means there are over the other runs")


def _pairs(settings: Sequence[Setting], baseline: str | None) -> list[tuple[str, str]]:
    labels = [setting.label for setting in settings]
    if baseline is not None and baseline not in labels:
        raise ParamError(
            f"--baseline {baseline}: is no setting{did_you_mean(baseline, labels)}; there are {', '.join(labels)}"
        )
    if baseline is None and len(labels) <= ALL_PAIRS:
        return [(second, first) for first, second in itertools.combinations(labels, 2)]
    first = baseline or labels[0]
    return [(label, first) for label in labels if label != first]


def _differences(aligned: Aligned, pairs: Sequence[tuple[str, str]]) -> Iterator[Difference]:
    at = float(aligned.positions[-1])
    for first, second in pairs:
        if first not in aligned.values or second not in aligned.values:
            continue
        ends = [{seed: float(v[-1]) for seed, v in aligned.values[label].items()} for label in (first, second)]
        seeds = [seed for seed in ends[0] if seed in ends[1]]
        runs = (len(ends[0]), len(ends[1]))
        if len(seeds) > 1 or runs == (1, 1):
            band = mean_intervals(np.array([[ends[0][seed] - ends[1][seed]] for seed in seeds]).reshape(-1, 1))
            mean, low, high = (float(end[0]) for end in (band.mean, band.low, band.high))
            yield Difference(aligned.metric, first, second, at, int(band.runs[0]), runs, mean, low, high)
        else:
            mean, low, high = difference_interval(*(np.array(list(end.values())) for end in ends))
            yield Difference(aligned.metric, first, second, at, 0, runs, mean, low, high)


@dataclass(frozen=True, slots=True)
class _Values:
    """The values of the terms of an expectation, by run."""

    metrics: Sequence[Aligned]
    settings: Sequence[Setting]
    expectation: Expectation

    def __call__(self, term: Term) -> dict[int, float]:
        aligned = {each.metric: each for each in self.metrics}
        metric = the_metric(term.metric, aligned)
        labels = [setting.label for setting in self.settings]
        if term.label not in labels:
            hint = f"{did_you_mean(term.label, labels)}; there are {', '.join(labels)}"
            raise ParamError(f"--expect {self.expectation.text!r}: no setting is called {term.label!r}{hint}")
        if term.label not in aligned[metric].values:
            raise ParamError(
                f"--expect {self.expectation.text!r}: {term.label} does not report {metric}; choose another"
            )
        at = aligned[metric].at(term.at)
        return {seed: float(values[at]) for seed, values in aligned[metric].values[term.label].items()}
