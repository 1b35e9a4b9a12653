"""Stored rollouts with their rewards and advantages, as text."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.edge_types import images, trajectories, turns
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.inherit import IN_FULL
from genrl_graph.records.stored_run import Rounds, StoredRun
from genrl_graph.records.write import EVAL_PREFIX

Row = Mapping[str, Any]
assert images and trajectories and turns  # imported to define their edge types, which `readable_type` searches


@dataclass(slots=True)
class RewardVerdict:
    """The reward of a rollout (of a chain of rewards, the last), all reward terms, and its advantage.

    `seats` is the number of seats of an episode over which they are summed.
    """

    reward: float | None = None
    advantage: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # why a node could not judge it, by node
    seats: int = 1

    def __str__(self) -> str:
        of = f"sum over {self.seats} seats: " if self.seats > 1 else ""
        parts = [f"{of}reward {self.reward:.3f}" if self.reward is not None else "no reward"]
        if self.terms:
            parts.append(f"({', '.join(f'{name} {value:.3f}' for name, value in self.terms.items())})")
        if self.advantage is not None:
            parts.append(f"{'mean ' * (self.seats > 1)}advantage {self.advantage:+.3f}")
        return " ".join(parts)


class RewardVerdicts:
    """The verdicts of all rollouts in some rounds, by rollout and by the holder whose nodes judged it."""

    def __init__(self, run: StoredRun, rounds: Rounds, *, evaluation: bool = False) -> None:
        self._by_id_and_holder: dict[tuple[str, str], RewardVerdict] = {}
        self._by_id: dict[str, RewardVerdict] = {}
        for group in run.groups:
            if group.startswith(EVAL_PREFIX) != evaluation:
                continue
            if group.endswith("/failures"):
                self._add_failures(group.removeprefix(EVAL_PREFIX).removesuffix("/failures"), run.table(group, rounds))
            elif {"id", "holder"} <= set(_columns(run, group)):
                self._add_rows(run.table(group, rounds))

    def of(self, row: Row, holder: str | None = None) -> RewardVerdict:
        """Return the verdict of a row by its `holder`, if given, else by its author, else by any holder."""
        own = self._by_id_and_holder.get((row["id"], holder or row["peer"]))
        return own or self._by_id.get(row["id"]) or RewardVerdict()

    def combined(self, rows: Collection[Row], holder: str | None = None) -> RewardVerdict:
        """Return the verdict of the rows of one episode: sums of rewards and terms, and the mean advantage."""
        verdicts = [self.of(row, holder) for row in rows]
        if len(verdicts) == 1:
            return verdicts[0]
        rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
        advantages = [verdict.advantage for verdict in verdicts if verdict.advantage is not None]
        terms = {name: sum(v.terms.get(name, 0.0) for v in verdicts) for verdict in verdicts for name in verdict.terms}
        reasons = {node: reason for verdict in verdicts for node, reason in verdict.reasons.items()}
        mean = float(np.mean(advantages)) if advantages else None
        seats = len({row.get("seat", 0) for row in rows})
        return RewardVerdict(sum(rewards) if rewards else None, mean, terms, reasons, seats)

    def _add_rows(self, table: pa.Table) -> None:
        """Add the rewards and advantages of a group; called in the order of the steps, so the last of a chain wins."""
        names = [name for name in table.column_names if name in ("reward", "advantage") or name.startswith("reward_")]
        if not names:
            return
        for row in table.select(["id", "holder", *names]).to_pylist():
            verdict = self._verdict(row["id"], row["holder"])
            verdict.reward = row.get("reward", verdict.reward)
            verdict.advantage = row.get("advantage", verdict.advantage)
            verdict.terms |= {name.removeprefix("reward_"): row[name] for name in names if name.startswith("reward_")}

    def _add_failures(self, node: str, table: pa.Table) -> None:
        if {"id", "reason"} <= set(table.column_names):
            for row in table.to_pylist():
                self._verdict(row["id"], row["holder"]).reasons[node] = row["reason"]

    def _verdict(self, id: str, holder: str) -> RewardVerdict:
        verdict = self._by_id_and_holder.setdefault((id, holder), RewardVerdict())
        return self._by_id.setdefault(id, verdict) and verdict


@dataclass(frozen=True, slots=True)
class RolloutText:
    """The rows of one rollout or episode, in order and without tensors, and its text (see `Transcript`)."""

    name: str
    rows: list[Row]
    facts: str
    gist: str
    parts: tuple[tuple[str, str], ...]
    boards: tuple[tuple[str, ...], ...] = ()
    image: bytes = b""


def readable_type(columns: Iterable[str]) -> type[Frame] | None:
    """Return the type with transcripts whose columns are all present, the one with most columns; None for none."""
    known = set(columns)
    fits = [kind for kind in _readable_types(Frame) if kind.columns and set(kind.columns) <= known]
    return max(fits, key=lambda kind: len(kind.columns), default=None)


def rollout_texts(kind: type[Frame], table: pa.Table) -> Iterator[RolloutText]:
    """Yield the rollouts or episodes in stored rows, holder by holder: peers that share a store may hold equal rows."""
    plain = [field.name for field in table.schema if not isinstance(field.type, pa.BaseExtensionType)]
    holders = table.column("holder").unique().to_pylist()
    for holder in holders:
        part = table.filter(pc.equal(table.column("holder"), holder)) if len(holders) > 1 else table
        has_reward = "reward" in part.column_names
        names = [*kind.columns, *(name for name in part.column_names if has_reward and name.startswith("reward"))]
        frame = kind(part.select(names), marks=[SCORED] if has_reward else [])
        rows = part.select(plain).to_pylist()
        for transcript in frame.transcripts():
            chosen = [rows[at] for at in transcript.rows.tolist()]
            name = kind.trajectory_id(chosen[0]["id"])
            shown = (transcript.facts, transcript.gist, transcript.parts, transcript.boards, transcript.image)
            yield RolloutText(name, chosen, *shown)


def rollout_groups(run: StoredRun) -> dict[str, type[Frame]]:
    """Return the type of each group that holds rollouts: of generators and exchanges, in training and evaluation."""
    groups = [group for group in run.groups if not group.endswith(f"/{IN_FULL}")]
    kinds = {group: readable_type(_columns(run, group)) for group in groups}
    return {group: kind for group, kind in kinds.items() if kind is not None}


def _readable_types(kind: type[Frame]) -> Iterator[type[Frame]]:
    """Yield the subclasses of a type that define transcripts."""
    for below in kind.__subclasses__():
        if below.transcripts is not Frame.transcripts:
            yield below
        yield from _readable_types(below)


def _columns(run: StoredRun, group: str) -> list[str]:
    names: list[str] = run.table(group, range(0)).column_names
    return names
