"""The output of `plan --estimate`: the costs of a run step by step, and the comparison with a measured run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from genrl_graph.nodes.policy.compute.activation_checkpointing import GB
from genrl_graph.runners.estimate.costs import Range

ROW_BYTES, TOKEN_BYTES, LINE_BYTES = Range(8.0, 80.0), Range(1.0, 12.0), Range(1000.0, 10_000.0)
"""The bytes that a row of a step, a token and the metrics of a peer's round take on the disk, after compression."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """The costs of a step over all peers of the process; unknown ones are None, and `open` says why.

    `effort` are further counts by their column heading, such as the moves of games. `seconds` are of a mean round; the
    first one takes up to `first_seconds` more.
    """

    step: str
    node: str
    type_name: str
    rows: Range
    prompt_tokens: Range | None = None
    completion_tokens: Range | None = None
    seconds: Range | None = None
    first_seconds: float = 0.0
    open: str = ""
    effort: Mapping[str, Range] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The estimated costs of a run; `memory` is the peak in bytes, `memory_parts` its high end by part.

    `free` are the bytes that are free now on the device, where they are known.
    """

    graph: str
    rounds: int
    peers: int
    steps: tuple[StepCost, ...]
    start_seconds: Range | None
    end_seconds: Range | None
    memory: Range | None
    memory_parts: Mapping[str, float]
    device: str
    assumptions: tuple[str, ...]
    checkpoint_bytes: float | None = 0.0
    free: float | None = None

    @property
    def disk(self) -> Range | None:
        """Bytes of the run folder: rows, metrics and the checkpoints that are kept; None where some are unknown."""
        tokens = [count for step in self.steps for count in (step.prompt_tokens, step.completion_tokens)]
        if self.checkpoint_bytes is None or None in tokens:
            return None
        rows = Range.total([step.rows for step in self.steps])
        each = Range.total([count for count in tokens if count is not None])
        a_round = rows.between(ROW_BYTES) + each.between(TOKEN_BYTES) + LINE_BYTES.times(self.peers)
        kept = Range(self.checkpoint_bytes, self.checkpoint_bytes)
        return (a_round.times(self.rounds) + kept).narrowed()

    @property
    def round_seconds(self) -> Range | None:
        """Seconds of a mean round; None where those of a step are unknown."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return Range.total(known).narrowed() if len(known) == len(self.steps) else None

    @property
    def run_seconds(self) -> Range | None:
        """Seconds of all rounds, with loading and checkpoints; None where some are unknown."""
        each = self.round_seconds
        if each is None or self.start_seconds is None or self.end_seconds is None:
            return None
        return (each.times(self.rounds) + self.start_seconds + self.end_seconds).narrowed()

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as plain values, with the totals."""
        values = asdict(self)
        for name in ("round_seconds", "run_seconds", "disk"):
            total: Range | None = getattr(self, name)
            values[name] = None if total is None else asdict(total)
        return values


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """The measured costs of a stored run: seconds by node of a mean and the first round, over all peers; peak bytes."""

    folder: str
    seconds: Mapping[str, float]
    first: Mapping[str, float]
    memory: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """An estimated range beside the measured value."""

    name: str
    estimated: Range | None
    measured: float | None
    first: float | None = None

    @property
    def inside(self) -> bool | None:
        """Return whether the range contains the measured value; None where one of them is missing."""
        if self.estimated is None or self.measured is None:
            return None
        return self.estimated.holds(self.measured)


def compared(forecast: Forecast, fact: MeasuredRun) -> list[Comparison]:
    """Compare the seconds of every node, an exchange's open and close together, and then the peak memory in GB."""
    comparisons = []
    for node in dict.fromkeys(step.node for step in forecast.steps):
        parts = [step.seconds for step in forecast.steps if step.node == node]
        known = [part for part in parts if part is not None]
        estimated = Range.total(known) if len(known) == len(parts) else None
        comparisons.append(Comparison(node, estimated, fact.seconds.get(node), fact.first.get(node)))
    memory = None if forecast.memory is None else forecast.memory.times(1 / GB)
    return [*comparisons, Comparison("peak memory, GB", memory, None if fact.memory is None else fact.memory / GB)]


def forecast_text(forecast: Forecast) -> str:
    """Return a forecast as text: the table of steps, the totals, the peak memory and the assumptions."""
    effort = list(dict.fromkeys(words for step in forecast.steps for words in step.effort))
    tokens = ["prompt tokens", "completion tokens"] if not effort or _has_tokens(forecast) else []
    rows = [("step", "type", "rows", *tokens, *effort, "seconds")]
    for step in forecast.steps:
        counted = [_number(step.prompt_tokens), _number(step.completion_tokens)] if tokens else []
        counted += [_number(step.effort.get(words, Range(0, 0))) for words in effort]
        seconds = _seconds(step.seconds, timed=bool(effort))
        rows.append((step.step, step.type_name, _number(step.rows), *counted, seconds))
    each = forecast.round_seconds
    totals = _totals(forecast) if tokens else ()
    rows.append(("a round", "", "", *totals, *("" for _ in effort), _seconds(each, timed=bool(effort))))
    peers = f"{forecast.peers} peer{'s' * (forecast.peers > 1)}"
    first = sum(step.first_seconds for step in forecast.steps)
    lines = [f"{forecast.graph}: a mean round of {forecast.rounds}, over {peers}", "", *_table(rows, left=2), ""]
    if first >= 1:
        lines.append(f"first round  up to {first:.0f} s more: memory is used and workers start for the first time")
    lines.append(f"run          {duration_text(forecast.run_seconds)}, with loading, digests and checkpoints")
    lines.append(f"peak memory  {_gigabytes(forecast.memory)}{_on(forecast)}{_parts(forecast)}")
    lines += _unfit(forecast)
    lines.append(f"disk         {size_text(forecast.disk)}, with the checkpoints that are kept")
    lines += ["", *(f"assumed: {text}" for text in forecast.assumptions)]
    reasons = dict.fromkeys(step.open for step in forecast.steps if step.open)
    lines += [f"open (?): {reason}" for reason in reasons]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def compared_text(pairs: Sequence[Comparison], fact: MeasuredRun) -> str:
    """Return a comparison as a table."""
    rows = [("estimate against fact", "estimated", "mean round", "first round", "")]
    for pair in pairs:
        tiny = (
            pair.measured is not None and pair.measured < 1 and pair.estimated is not None and pair.estimated.high < 1
        )
        verdict = "" if pair.inside is None else "inside" if pair.inside or tiny else "OUTSIDE"
        shown = _gigabytes(pair.estimated, scale=1) if pair.name.startswith("peak") else _seconds(pair.estimated)
        rows.append((pair.name, shown, _plain(pair.measured), _plain(pair.first), verdict))
    return "\n".join([f"fact: {fact.folder}", *_table(rows, left=1)]) + "\n"


def _has_tokens(forecast: Forecast) -> bool:
    counts = [count for step in forecast.steps for count in (step.prompt_tokens, step.completion_tokens)]
    return any(count is None or count.high > 0 for count in counts)


def _totals(forecast: Forecast) -> tuple[str, str]:
    prompts = [step.prompt_tokens for step in forecast.steps if step.prompt_tokens is not None]
    sampled = [step.completion_tokens for step in forecast.steps if step.completion_tokens is not None]
    return _number(Range.total(prompts)), _number(Range.total(sampled))


def _table(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _number(value: Range | None) -> str:
    if value is None:
        return "?"
    low, high = f"{value.low:,.0f}", f"{value.high:,.0f}"
    return "" if high == "0" else low if low == high else f"{low} - {high}"


def _seconds(value: Range | None, *, timed: bool = False) -> str:
    """Format seconds: to the millisecond where they were `timed`, else below one second only as such."""
    if value is None:
        return "?"
    least = 0.001 if timed else 1
    if value.high < least:
        return f"< {least:g}"
    if value.high < 1:
        return f"{value.low:.3f} - {value.high:.3f}"
    digits = 0 if value.high >= 20 else 1
    return f"{value.low:.{digits}f} - {value.high:.{digits}f}"


def duration_text(value: Range | None) -> str:
    """Return seconds as text, in the unit that suits them."""
    if value is None:
        return "?"
    unit, name = (1.0, "s") if value.high < 300 else (60.0, "min") if value.high < 18000 else (3600.0, "h")
    return f"{value.low / unit:.{1 if unit > 1 else 0}f} - {value.high / unit:.{1 if unit > 1 else 0}f} {name}"


def size_text(value: Range | None) -> str:
    """Return bytes as text, in MB below one GB."""
    if value is None:
        return "?"
    unit, name = (1e6, "MB") if value.high < GB else (GB, "GB")
    return f"{value.low / unit:.{0 if unit < GB else 1}f} - {value.high / unit:.{0 if unit < GB else 1}f} {name}"


def _gigabytes(value: Range | None, *, scale: float = GB) -> str:
    return "?" if value is None else f"{value.low / scale:.1f} - {value.high / scale:.1f} GB"


def _on(forecast: Forecast) -> str:
    return f" on {forecast.device}" if forecast.memory is not None and forecast.device != "cpu" else ""


def _parts(forecast: Forecast) -> str:
    shown = ", ".join(f"{name} {size / GB:.1f}" for name, size in forecast.memory_parts.items() if size >= 0.05 * GB)
    return f" ({shown})" if shown and forecast.memory is not None else ""


def _unfit(forecast: Forecast) -> list[str]:
    """Return the line that says that the memory is not enough, or may not be; none where it is, or is unknown."""
    if forecast.memory is None or forecast.free is None or forecast.memory.high <= forecast.free:
        return []
    fits = "does not fit" if forecast.memory.low > forecast.free else "may not fit "
    ways = "share policies over ranks (run.replicas), train adapters (policy.lora), or lower max_batch_tokens"
    return [f"{fits} {forecast.free / GB:.1f} GB are free here; {ways}"]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
