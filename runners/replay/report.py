"""What a replay read, what became of each node and how rewards and advantages moved, for a terminal."""

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
    """Everything that one page says of a replay."""
    rounds, peers = f"rounds {replay.rounds[0]} to {replay.rounds[-1]}", ", ".join(replay.peers)
    read = f"{counted(replay.groups, 'group')}, {counted(replay.rows, 'row')}"
    say(console, ("read", "bold"), f" {line(str(replay.source))}: {rounds} of {line(peers)}; {read}")
    console.print(_node_table(replay))
    if shown := [move for move in replay.moves if move.changed or move.column in ("reward", "advantage")]:
        console.print(_move_table(shown))
    for move in replay.moves:
        for told in _counts(move):
            say(console, f"{line(move.node)} {line(move.column)}: {told}")
    for note in replay.notes:
        say(console, line(note))
    for (peer, carry), digest in replay.before.items():
        say(console, f"{line(peer)} {line(carry)}: weights {digest[:16]} -> {replay.after[peer, carry][:16]}")
    done = [f"{counted(len(nodes), 'node')} {fate}" for fate in STYLES if (nodes := _of(replay, fate))]
    what = ", ".join(done) or "nothing changed: every row is as it was"
    say(console, ("made", "bold"), f" {line(str(replay.folder))}: {what}; {_tokens(replay)}")


def _tokens(replay: Replay) -> str:
    """Generators never run; only a reward that is computed with a policy at hand, a judge, may let it write."""
    computed = [replay.graph.nodes[name] for name in _of(replay, "recomputed")]
    live = {*replay.graph.carries, *_of(replay, "updated")}
    judged = any(edge.origin in live for part in computed for edge in part.edges())
    return "no rollout sampled" if judged else "0 tokens generated"


def _of(replay: Replay, fate: str) -> list[str]:
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


def _move_table(moves: Sequence[ColumnDelta]) -> Table:
    """One line a column; of advantages, whose mean is 0, the mean size. Only groups whose values vary train."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("node", "column", "mean", "rows changed", "largest", "rank", "varied groups"):
        table.add_column(name, justify="left" if name in ("node", "column") else "right", no_wrap=True)
    for move in moves:
        sized = move.column == "advantage"
        varied = f"{_arrow(*map(str, move.varied))} of {move.groups}" if move.groups else ""
        table.add_row(
            Text(line(move.node)),
            "|advantage|" if sized else Text(line(move.column)),
            _arrow(*(f"{value:.4g}" for value in (move.size if sized else move.mean))),
            f"{move.changed} of {move.rows}",
            f"{move.largest:+.4g}" if move.largest else "",
            "" if move.rank is None else f"{move.rank:.3f}",
            varied,
        )
    return table


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _counts(move: ColumnDelta) -> list[str]:
    """What the table has no room for: rows that could not be judged, and rows that only one side has."""
    told = []
    if move.unjudged[0] != move.unjudged[1]:
        told.append(f"{counted(move.unjudged[1], 'row')} unjudged, {move.unjudged[0]} in the run")
    if move.gone or move.come:
        told.append(f"{move.gone} of the run's rows are gone, {move.come} came")
    return told
