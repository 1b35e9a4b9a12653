"""Print a replay to the terminal: what it read, the decision for each node, the deltas of rewards and advantages."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrl_graph.inspection.text import line, say
from genrl_graph.messages import counted
from genrl_graph.runners.replay.deltas import ColumnDelta
from genrl_graph.runners.replay.replay import Replay

STYLES = {"recomputed": "bold", "updated": "bold", "left out": "yellow"}


def print_replay(replay: Replay, console: Console) -> None:
    """Print a replay on one page."""
    rounds, peers = f"rounds {replay.rounds[0]} to {replay.rounds[-1]}", ", ".join(replay.peers)
    read = f"{counted(replay.groups, 'group')}, {counted(replay.rows, 'row')}"
    say(console, ("read", "bold"), f" {line(str(replay.source))}: {rounds} of {line(peers)}; {read}")
    console.print(_node_table(replay))
    if shown := [delta for delta in replay.moves if delta.changed or delta.column in ("reward", "advantage")]:
        console.print(_delta_table(shown))
    for delta in replay.moves:
        for text in _counts(delta):
            say(console, f"{line(delta.node)} {line(delta.column)}: {text}")
    for note in replay.notes:
        say(console, line(note))
    for (peer, carry), digest in replay.before.items():
        say(console, f"{line(peer)} {line(carry)}: weights {digest[:16]} -> {replay.after[peer, carry][:16]}")
    done = [f"{counted(len(nodes), 'node')} {fate}" for fate in STYLES if (nodes := _nodes_with(replay, fate))]
    what = ", ".join(done) or "nothing changed: every row is as it was"
    say(console, ("made", "bold"), f" {line(str(replay.folder))}: {what}; {_tokens(replay)}")


def _tokens(replay: Replay) -> str:
    """Say that nothing was sampled; a recomputed judge that reads a policy may have sampled tokens, but no rollouts."""
    computed = [replay.graph.nodes[name] for name in _nodes_with(replay, "recomputed")]
    live = {*replay.graph.carries, *_nodes_with(replay, "updated")}
    judged = any(edge.origin in live for part in computed for edge in part.edges())
    return "no rollout sampled" if judged else "0 tokens generated"


def _nodes_with(replay: Replay, fate: str) -> list[str]:
    return [name for name, verdict in replay.verdicts.items() if verdict.fate == fate]


def _node_table(replay: Replay) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("node", "type", "what", "why"):
        table.add_column(name, no_wrap=name != "why", overflow="fold" if name == "why" else "ellipsis")
    for name, verdict in replay.verdicts.items():
        kind = replay.graph.nodes[name].type_name
        fate = Text(verdict.fate, STYLES.get(verdict.fate, "dim"))
        table.add_row(Text(line(name)), Text(line(kind), "dim"), fate, Text(line(verdict.why)))
    return table


def _delta_table(deltas: Sequence[ColumnDelta]) -> Table:
    """Return one row per column; advantages, whose mean is 0, show their mean absolute value."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("node", "column", "mean", "rows changed", "largest", "rank", "varied groups"):
        table.add_column(name, justify="left" if name in ("node", "column") else "right", no_wrap=True)
    for delta in deltas:
        absolute = delta.column == "advantage"
        table.add_row(
            Text(line(delta.node)),
            "|advantage|" if absolute else Text(line(delta.column)),
            _arrow(*(f"{value:.4g}" for value in (delta.size if absolute else delta.mean))),
            f"{delta.changed} of {delta.rows}",
            f"{delta.largest:+.4g}" if delta.largest else "",
            "" if delta.rank is None else f"{delta.rank:.3f}",
            f"{_arrow(*map(str, delta.varied))} of {delta.groups}" if delta.groups else "",
        )
    return table


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _counts(delta: ColumnDelta) -> list[str]:
    """Return lines about rows that could not be judged, and rows that only the run or only the replay has."""
    lines = []
    if delta.unjudged[0] != delta.unjudged[1]:
        lines.append(f"{counted(delta.unjudged[1], 'row')} unjudged, {delta.unjudged[0]} in the run")
    if delta.removed or delta.added:
        lines.append(f"{counted(delta.removed, 'row')} only in the run, {delta.added} only in the replay")
    return lines
