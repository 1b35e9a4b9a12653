"""Print one run on a page: graph, versions, progress, metrics per node, reward curves, evaluations."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from genrl_graph.inspection.fitting import print_table
from genrl_graph.inspection.listing import RunStatus, ago, stage_metrics
from genrl_graph.inspection.plot import Curve, braille, default_window, smoothed, write_png
from genrl_graph.inspection.text import line, number, say
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.store.outbox import pending_line, read_outbox

SHOWN = (
    *("rows", "reward", "return", "zero_variance", "completion_length", "episode_length", "truncated", "failed_rows"),
    *("loss", "kl", "version"),
)
"""Metrics of nodes that the table shows, each where at least one node has it."""
STAGE_METRIC = re.compile(r"eval/stage\d+/")


def print_run(run: StoredRun, console: Console, *, window: int | None = None, png: Path | None = None) -> None:
    """Print the overview of a run, with curves that are means over `window` rounds; `png` also gets the curves."""
    metrics = run.metrics()
    curves = reward_curves(metrics)
    longest = max((len(rounds) for rounds, _ in curves.values()), default=0)
    window = window or default_window(longest)
    if png is not None:
        write_png(png, curves, title=f"{run.name} ({run.graph.name})", window=window)
    _print_head(run, console)
    if metrics.num_rows:
        _print_nodes(run, metrics, console)
    if accounts := peer_accounts(metrics):
        _print_accounts(accounts, console)
    for name, (rounds, values) in curves.items():
        lines = braille((rounds, smoothed(values, window).tolist()), width=console.width)
        if len(rounds) > 1 and lines:
            smoothing = f", mean of {window} rounds" if window > 1 else ""
            say(console, (name, "bold"), f"  rounds {rounds[0]} to {rounds[-1]}{smoothing}")
            for text in lines:
                say(console, text)
    if (evaluations := run.evaluations()).num_rows:
        _print_evaluations(run, evaluations, console)


def reward_curves(metrics: pa.Table) -> dict[str, Curve]:
    """Return the curves of the outcome metrics of each stage, by round, as means over the peers."""
    return {name: over_peers(metrics, name) for name in stage_metrics(metrics)}


def over_peers(metrics: pa.Table, name: str) -> Curve:
    """Return the rounds in which a metric was reported, and its mean over the peers in each."""
    mean = metrics.group_by("round").aggregate([(name, "mean")]).sort_by("round")
    known = mean.filter(mean.column(f"{name}_mean").is_valid())
    return known.column("round").to_pylist(), known.column(f"{name}_mean").to_pylist()


def peer_accounts(metrics: pa.Table) -> dict[str, dict[str, float]]:
    """Return what each other peer cost in all rounds, by peer and unit: the sums of `peer/<peer>/<unit>`."""
    sums: dict[str, dict[str, float]] = {}
    for name in metrics.column_names:
        kind, _, rest = name.partition("/")
        peer, _, unit = rest.rpartition("/")
        if kind == "peer" and peer:
            sums.setdefault(peer, {})[unit] = pc.sum(metrics.column(name)).as_py() or 0.0
    return sums


def _print_accounts(accounts: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Print what each other peer cost, those first that took most time."""
    units = list(dict.fromkeys(unit for account in accounts.values() for unit in account))
    by_time = sorted(accounts.items(), key=lambda entry: (-entry[1].get("seconds", 0.0), entry[0]))
    rows = [[line(peer), *(f"{account.get(unit, 0.0):.4g}" for unit in units)] for peer, account in by_time]
    print_table(console, ("peer", *units), rows, title="what other peers cost")


def _print_head(run: StoredRun, console: Console) -> None:
    status, config = RunStatus.of(run), run.graph.run
    where = f"{status.state}, {status.played} of {status.asked} rounds played, last change {ago(status.age_s)}"
    say(console, (line(run.name), "bold"), f": graph {line(run.graph.name)}, {where}")
    say(console, f"peers: {line(', '.join(run.peers) or 'none yet')}")
    options = config.model_dump(exclude_defaults=True)
    say(console, f"options: {line(', '.join(f'{name} {value}' for name, value in options.items()) or 'the defaults')}")
    versions: Mapping[str, object] = {name: value for name, value in run.versions.items() if isinstance(value, str)}
    say(console, f"versions: {line(', '.join(f'{name} {value}' for name, value in versions.items()))}")
    if replayed := run.versions.get("replayed"):
        first, end = replayed["rounds"]
        computed = [name for name, (fate, _) in replayed["nodes"].items() if fate in ("recomputed", "updated")]
        rounds = f"rounds {first} to {end - 1}"
        say(console, line(f"replay of {replayed['run']}, {rounds}; computed: {', '.join(computed) or 'nothing'}"))
    if reports := pending_line([read_outbox(folder) for folder in run.folders]):
        say(console, f"coordinator: {line(reports)}")
    if scripts := run.versions.get("imports"):
        say(console, f"imports: {line(', '.join(scripts))}")


def _print_nodes(run: StoredRun, metrics: pa.Table, console: Console) -> None:
    """Print a row per node with means over the peers: first and last value of rewards, last value of other metrics.

    Versions of peers that differ are listed: their mean is the version of no policy.
    """
    values = {
        (node, name): over_peers(metrics, f"{node}/{name}")[1]
        for node in run.nodes
        for name in SHOWN
        if f"{node}/{name}" in metrics.column_names
    }
    names = [name for name in SHOWN if any(shown == name for _, shown in values)]
    rows = []
    for node in run.played_nodes:
        part = run.graph.nodes[node]
        cells = [_cell(name, values.get((node, name), [])) for name in names if name != "version"]
        cells += [_versions(metrics, node)] if "version" in names else []
        seconds = over_peers(metrics, f"time/{node}")[1] if f"time/{node}" in metrics.column_names else []
        cells.append(f"{np.mean(seconds):.3g}" if seconds else "")
        rows.append([line(node), line(part.type_name), *cells])
    print_table(console, ("node", "type", *names, "seconds"), rows, left=2)


def _versions(metrics: pa.Table, node: str) -> str:
    """Return the versions of a policy's peers in the last round that reports them, each once."""
    if (name := f"{node}/version") not in metrics.column_names:
        return ""
    known = metrics.filter(metrics.column(name).is_valid())
    last = known.filter(pc.equal(known.column("round"), pc.max(known.column("round"))))
    return ", ".join(f"{version:.0f}" for version in sorted(set(last.column(name).to_pylist())))


def _cell(name: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    if name in ("reward", "return") and len(values) > 1:
        return f"{number(values[0])} > {number(values[-1])}"
    return f"{values[-1]:.4g}"


def _print_evaluations(run: StoredRun, evaluations: pa.Table, console: Console) -> None:
    """Print pass@k, mean rewards and stage metrics in the first and last evaluation, over the peers."""
    rewards = [f"eval/{name}/reward" for name, part in run.graph.nodes.items() if part.type_name.startswith("reward.")]
    rows = []
    for name in evaluations.column_names:
        if not (name.rpartition("/")[2].startswith("pass_at_") or name in rewards or STAGE_METRIC.match(name)):
            continue
        rounds, values = over_peers(evaluations, name)
        if not values:
            continue
        first, last = values[0], values[-1]
        again = len(rounds) > 1
        row = [number(first), number(last) if again else "", f"{last - first:+.3f}" if again else ""]
        rows.append([line(name.removeprefix("eval/")), *row])
    print_table(console, ("metric", "baseline", "last", "change"), rows, title="evaluations")
