"""Write a comparison: table.md, summary.parquet and pictures."""

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from genrl_graph.comparison.align import Aligned
from genrl_graph.comparison.history import words
from genrl_graph.comparison.picture import write_pictures
from genrl_graph.comparison.result import Comparison, Difference
from genrl_graph.messages import counted
from genrl_graph.store.durable import failed, make_folder

TABLE, SUMMARY, PICTURE = "table.md", "summary.parquet", "curves"
METHOD = (
    "Intervals are those of the mean over runs, with 95 %: by a symmetric studentised bootstrap, "
    "of 2 to 4 runs by Student's t."
)


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all files of a comparison into a folder; without matplotlib none of them is a picture, which is noted."""
    written = [folder / TABLE, folder / SUMMARY]
    try:
        make_folder(folder)
        if importlib.util.find_spec("matplotlib") is None:
            comparison.notes.append("no pictures: matplotlib is not installed; pip install 'genrl-graph[plots]'")
        else:
            written += write_pictures(comparison, folder / PICTURE)
        written[0].write_text(table_text(comparison), encoding="utf-8")
        pq.write_table(comparison.table, written[1])
    except OSError as error:
        raise failed(folder, "write the comparison", error) from error
    return written


def table_text(comparison: Comparison) -> str:
    """Return the comparison as Markdown: a table of means and one of differences by metric, verdicts, and notes."""
    lines = ["# Comparison", "", *_head(comparison)]
    for aligned in comparison.metrics:
        lines += ["", f"## {aligned.metric}", "", *_means(comparison, aligned)]
        if differences := [d for d in comparison.differences if d.metric == aligned.metric]:
            lines += ["", *_differences(differences)]
    if comparison.verdicts:
        lines += ["", "## Expectations", "", *(f"- {verdict}" for verdict in comparison.verdicts)]
    if comparison.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def _head(comparison: Comparison) -> Iterator[str]:
    runs = sum(len(setting.runs) for setting in comparison.settings)
    settings = counted(len(comparison.settings), "setting")
    yield f"{counted(runs, 'run')} of {settings}, compared at equal {words(comparison.unit)}."
    yield METHOD
    if len(comparison.differences) > 1:
        count = len(comparison.differences)
        yield f"There are {count} differences; of as many that are 0, each interval misses 0 with 5 %."


def _means(comparison: Comparison, aligned: Aligned) -> Iterator[str]:
    smoothing = f", mean of {aligned.window} rounds" if aligned.window > 1 else ""
    yield f"After {aligned.positions[-1]:,.6g} {words(comparison.unit)}{smoothing}."
    yield ""
    yield "| Setting | Runs | Mean | 95 % interval |"
    yield "| --- | ---: | ---: | --- |"
    for label in aligned.values:
        band, asked = comparison.bands[aligned.metric, label], len(aligned.values[label])
        runs = f"{asked}" if band.runs[-1] == asked else f"{band.runs[-1]} of {asked}"
        yield f"| {_cell(label)} | {runs} | {_number(band.mean[-1])} | {_interval(band.low[-1], band.high[-1])} |"


def _differences(differences: list[Difference]) -> Iterator[str]:
    yield "| Difference | Runs | Mean | 95 % interval | The first is |"
    yield "| --- | ---: | ---: | --- | --- |"
    for d in differences:
        runs = counted(d.pairs, "pair") if d.pairs else f"{d.runs[0]} and {d.runs[1]}"
        verdict = "higher" if d.low > 0 else "lower" if d.high < 0 else "" if math.isnan(d.low) else "open"
        what = f"{_cell(d.first)} − {_cell(d.second)}"
        yield f"| {what} | {runs} | {_number(d.mean, sign='+')} | {_interval(d.low, d.high, sign='+')} | {verdict} |"


def _interval(low: float, high: float, sign: str = "") -> str:
    return "none" if math.isnan(low) else f"{_number(low, sign=sign)} to {_number(high, sign=sign)}"


def _number(value: float, sign: str = "") -> str:
    return "none" if math.isnan(value) else f"{value:{sign}.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
