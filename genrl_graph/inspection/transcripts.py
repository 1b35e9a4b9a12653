"""Rollouts as a person reads them: the prompt as it was rendered, the completion, what it earned, what it quotes."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.inspection.judged import RewardVerdict, RewardVerdicts, RolloutText, Row, rollout_groups, stories
from genrl_graph.inspection.text import cut, line, say, short, shown
from genrl_graph.messages import did_you_mean
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.write import EVAL_PREFIX

CHARACTERS = 600
"""Of each message and completion, unless all is asked for."""
Order = Literal["stored", "top", "worst", "failed"]


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Which rollouts are asked for."""

    round: int | None = None
    node: str | None = None
    task: str | None = None
    peer: str | None = None
    order: Order = "stored"
    limit: int = 4

    def takes(self, row: Row) -> bool:
        """Whether a rollout is one of them, as far as its own columns say."""
        return (self.task is None or row["task_id"] == self.task) and (self.peer is None or row["peer"] == self.peer)


@dataclass(frozen=True, slots=True)
class FoundRollout:
    """A rollout, or the steps of an episode, the group that holds it, and its verdict."""

    story: RolloutText
    group: str
    verdict: RewardVerdict

    @property
    def failed(self) -> bool:
        """Whether it was not made, or not judged."""
        return any(row["finish"] == "failed" for row in self.story.rows) or bool(self.verdict.reasons)


def print_rollouts(run: StoredRun, wanted: RolloutFilter, console: Console, *, full: bool = False) -> None:
    """Print what is asked for and how much that is of what there is; raises `ParamError` where names are wrong."""
    groups = _groups(run, wanted)
    _check_peer(run, wanted)
    shown_rows, count = _chosen(_matching(run, groups, wanted), wanted)
    for found in shown_rows:
        print_rollout(found, console, limit=None if full else CHARACTERS)
    say(console, f"{len(shown_rows)} of {count} rollouts")


def print_rollout(found: FoundRollout, console: Console, *, limit: int | None = CHARACTERS) -> None:
    """One rollout; `limit` cuts its messages and its completion to so many characters."""
    story, verdict = found.story, found.verdict
    row = story.rows[0]
    head = f"{line(found.group)}  round {row['round']}  {line(row['peer'])}  {short(row['id'])}"
    console.print(Rule(Text(head, style="bold"), align="left")) if console.is_terminal else say(console, f"--- {head}")
    policy = f"{line(row['policy'])} version {row['policy_version']}"
    say(console, f"task {line(row['task_id'])}  policy {policy}  {line(story.facts)}")
    if row.get("parent_ids"):
        say(console, f"quotes {' '.join(map(short, row['parent_ids']))}")
    say(console, (line(str(verdict)), "green" if (verdict.reward or 0) > 0 else "yellow"))
    for node, reason in verdict.reasons.items():
        say(console, (f"not judged by {line(node)}: {line(cut(reason, limit))}", "red"))
    if row["error"]:
        say(console, (f"error: {line(cut(row['error'], limit))}", "red"))
    for heading, text in story.parts:
        say(console, (line(heading), "cyan"))
        say(console, shown(cut(text, limit)))
    console.print()


def _groups(run: StoredRun, wanted: RolloutFilter) -> dict[str, type[Frame]]:
    """The groups to look at: that of the node, else those of all generators in training."""
    known = rollout_groups(run)
    if wanted.node is not None:
        group = wanted.node.replace(".", "/")
        if group not in known:
            hint = did_you_mean(wanted.node, known) or f"; nodes with rollouts: {', '.join(known) or 'none'}"
            raise ParamError(f"{run.folder}: no rollouts of {wanted.node!r}{hint}")
        return {group: known[group]}
    kinds = {name: part.type_name.partition(".")[0] for name, part in run.graph.nodes.items()}
    return {name: kind for name, kind in known.items() if kinds.get(name.partition("/")[0]) == "generate"}


def _check_peer(run: StoredRun, wanted: RolloutFilter) -> None:
    peers = run.peers
    if wanted.peer is not None and wanted.peer not in peers:
        hint = did_you_mean(wanted.peer, peers) or f"; peers: {', '.join(peers) or 'none'}"
        raise ParamError(f"{run.folder}: no peer named {wanted.peer!r}{hint}")


def _matching(run: StoredRun, groups: dict[str, type[Frame]], wanted: RolloutFilter) -> Iterator[FoundRollout]:
    """All that is asked for, a few rounds at a time."""
    for group, kind in groups.items():
        rounds: range | int | None = wanted.round
        if rounds is None and wanted.task is None and wanted.order != "failed":
            rounds = max((span.stop - 1 for span in run.spans(group, rows=1)), default=None)
        for span in run.spans(group, rounds, rows=1024):
            verdicts = RewardVerdicts(run, span, evaluation=group.startswith(EVAL_PREFIX))
            for story in stories(kind, run.table(group, span)):
                if wanted.takes(row := story.rows[0]):
                    found = FoundRollout(story, group, verdicts.over(story.rows, row["holder"]))
                    if wanted.order != "failed" or found.failed:
                        yield found


def _chosen(found: Iterator[FoundRollout], wanted: RolloutFilter) -> tuple[list[FoundRollout], int]:
    """The first, best or worst so many, and how many there are; only those are held."""
    count = 0

    def counted() -> Iterator[FoundRollout]:
        nonlocal count
        for item in found:
            count += 1
            if wanted.order in ("stored", "failed") or _reward(item) is not None:
                yield item

    if wanted.order == "top":
        return heapq.nlargest(wanted.limit, counted(), key=lambda item: _reward(item) or 0.0), count
    if wanted.order == "worst":
        return heapq.nsmallest(wanted.limit, counted(), key=lambda item: _reward(item) or 0.0), count
    first: list[FoundRollout] = []
    for item in counted():
        if len(first) < wanted.limit:
            first.append(item)
    return first, count


def _reward(found: FoundRollout) -> float | None:
    reward = found.verdict.reward
    return None if reward is None or reward != reward else reward
