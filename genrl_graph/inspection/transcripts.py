"""Print rollouts for people: the rendered prompt, the completion, reward and advantage, and what it quotes."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.inspection.judged import RewardVerdict, RewardVerdicts, RolloutText, Row, rollout_groups, rollout_texts
from genrl_graph.inspection.text import line, say, short, truncated
from genrl_graph.messages import did_you_mean, escaped
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.write import EVAL_PREFIX

CHARACTERS = 600
"""Length to which messages and completions are truncated, without `--full`."""
Order = Literal["stored", "top", "worst", "failed"]


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """The rollouts to print: all that match the names given, in an order, and at most `limit`."""

    round: int | None = None
    node: str | None = None
    task: str | None = None
    peer: str | None = None
    order: Order = "stored"
    limit: int = 4

    def matches(self, row: Row) -> bool:
        """Return whether a rollout has the task and the peer of the filter."""
        return (self.task is None or row["task_id"] == self.task) and (self.peer is None or row["peer"] == self.peer)


@dataclass(frozen=True, slots=True)
class JudgedRollout:
    """A rollout or episode, the group that holds it, and its verdict."""

    rollout: RolloutText
    group: str
    verdict: RewardVerdict

    @property
    def failed(self) -> bool:
        """True where sampling failed, or a node could not judge the rollout."""
        return any(row["finish_reason"] == "failed" for row in self.rollout.rows) or bool(self.verdict.reasons)


def print_rollouts(run: StoredRun, query: RolloutFilter, console: Console, *, full: bool = False) -> None:
    """Print the rollouts that a query selects, and how many match; raises `ParamError` for unknown names."""
    selected, count = select_rollouts(run, query)
    for judged in selected:
        print_rollout(judged, console, limit=None if full else CHARACTERS)
    say(console, f"{len(selected)} of {count} rollouts")


def select_rollouts(run: StoredRun, query: RolloutFilter) -> tuple[list[JudgedRollout], int]:
    """Return the rollouts that a query selects, and how many match; raises `ParamError` for unknown names."""
    return _select(matching_rollouts(run, query), query)


def matching_rollouts(run: StoredRun, query: RolloutFilter, *, with_exchanges: bool = False) -> Iterator[JudgedRollout]:
    """Yield the rollouts that match a query, of the last round where it names neither round nor task.

    Those of other peers come with the exchanges. Raises `ParamError` for unknown names.
    """
    groups = _groups(run, query, with_exchanges=with_exchanges)
    _check_peer(run, query)
    run.require_rounds(query.round)
    return _matching(run, groups, query)


def print_rollout(judged: JudgedRollout, console: Console, *, limit: int | None = CHARACTERS) -> None:
    """Print one rollout, with messages and completion truncated to `limit` characters."""
    rollout, verdict = judged.rollout, judged.verdict
    row = rollout.rows[0]
    head = f"{line(judged.group)}  round {row['round']}  {line(row['peer'])}  {short(row['id'])}"
    console.print(Rule(Text(head, style="bold"), align="left")) if console.is_terminal else say(console, f"--- {head}")
    policy = f"{line(row['policy'])} version {row['policy_version']}"
    say(console, f"task {line(row['task_id'])}  policy {policy}  {line(rollout.facts)}")
    if row.get("parent_ids"):
        say(console, f"quotes {' '.join(map(short, row['parent_ids']))}")
    say(console, (line(str(verdict)), "green" if (verdict.reward or 0) > 0 else "yellow"))
    for node, reason in verdict.reasons.items():
        say(console, (f"not judged by {line(node)}: {line(truncated(reason, limit))}", "red"))
    if row["error"]:
        say(console, (f"error: {line(truncated(row['error'], limit))}", "red"))
    for heading, text in rollout.parts:
        say(console, (line(heading), "cyan"))
        say(console, escaped(truncated(text, limit)))
    console.print()


def _groups(run: StoredRun, query: RolloutFilter, *, with_exchanges: bool) -> dict[str, type[Frame]]:
    """Return the groups to search: that of the node in the query, else those of all generators in training.

    Those of exchanges where the roles of the run play no generator.
    """
    known = rollout_groups(run)
    if query.node is not None:
        group = query.node.replace(".", "/")
        if group not in known:
            bare = query.node.removeprefix(EVAL_PREFIX).partition(".")[0]
            if bare in run.graph.nodes and bare not in run.played_nodes:
                role = run.graph.nodes[bare].role
                raise ParamError(f"{run.folder}: {query.node!r} is played by role {role!r}, which no peer of it plays")
            hint = did_you_mean(query.node, known) or f"; nodes with rollouts: {', '.join(known) or 'none'}"
            raise ParamError(f"{run.folder}: no rollouts of {query.node!r}{hint}")
        return {group: known[group]}
    kinds = {name: part.type_name.partition(".")[0] for name, part in run.graph.nodes.items()}
    generators = {name for name, kind in kinds.items() if kind == "generate" and name in run.played_nodes}
    exchanges = {name for name, kind in kinds.items() if kind == "exchange"}
    shown = generators | exchanges if with_exchanges else generators or exchanges  # a role may only judge
    return {name: kind for name, kind in known.items() if name.partition("/")[0] in shown}


def _check_peer(run: StoredRun, query: RolloutFilter) -> None:
    peers = run.peers
    if query.peer is not None and query.peer not in peers:
        hint = did_you_mean(query.peer, peers) or f"; peers: {', '.join(peers) or 'none'}"
        raise ParamError(f"{run.folder}: no peer named {query.peer!r}{hint}")


def _matching(run: StoredRun, groups: dict[str, type[Frame]], query: RolloutFilter) -> Iterator[JudgedRollout]:
    """Yield the rollouts that match a query, reading a few rounds at a time."""
    for group, kind in groups.items():
        rounds: range | int | None = query.round
        if rounds is None and query.task is None and query.order != "failed":
            rounds = max((span.stop - 1 for span in run.spans(group, rows=1)), default=None)
        for span in run.spans(group, rounds, rows=1024):
            verdicts = RewardVerdicts(run, span, evaluation=group.startswith(EVAL_PREFIX))
            for rollout in rollout_texts(kind, run.table(group, span)):
                if query.matches(row := rollout.rows[0]):
                    judged = JudgedRollout(rollout, group, verdicts.combined(rollout.rows, row["holder"]))
                    if query.order != "failed" or judged.failed:
                        yield judged


def _select(matches: Iterator[JudgedRollout], query: RolloutFilter) -> tuple[list[JudgedRollout], int]:
    """Return the first, best or worst matches up to the limit, and the number of matches; the others are not kept."""
    count = 0

    def counted() -> Iterator[JudgedRollout]:
        nonlocal count
        for item in matches:
            count += 1
            if query.order in ("stored", "failed") or _reward(item) is not None:
                yield item

    if query.order == "top":
        return heapq.nlargest(query.limit, counted(), key=lambda item: _reward(item) or 0.0), count
    if query.order == "worst":
        return heapq.nsmallest(query.limit, counted(), key=lambda item: _reward(item) or 0.0), count
    first: list[JudgedRollout] = []
    for item in counted():
        if len(first) < query.limit:
            first.append(item)
    return first, count


def _reward(judged: JudgedRollout) -> float | None:
    reward = judged.verdict.reward
    return None if reward is None or reward != reward else reward
