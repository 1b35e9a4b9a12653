"""Rollouts as they are stored, and what the rewards and advantages of the same rounds say of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.edge_types import trajectories
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.inherit import IN_FULL
from genrl_graph.records.stored_run import Rounds, StoredRun
from genrl_graph.records.write import EVAL_PREFIX

Row = Mapping[str, Any]
assert trajectories  # its type is known once it is imported


@dataclass(slots=True)
class RewardVerdict:
    """What was found of one rollout: its reward (of rewards in a chain, the last), the terms, the advantage."""

    reward: float | None = None
    advantage: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # by reward, why it could not judge

    def __str__(self) -> str:
        parts = [f"reward {self.reward:.3f}" if self.reward is not None else "no reward"]
        if self.terms:
            parts.append(f"({', '.join(f'{name} {value:.3f}' for name, value in self.terms.items())})")
        if self.advantage is not None:
            parts.append(f"advantage {self.advantage:+.3f}")
        return " ".join(parts)


class RewardVerdicts:
    """The verdicts of some rounds by rollout; a row that several peers judged has that of the holder asked for."""

    def __init__(self, run: StoredRun, rounds: Rounds, *, evaluation: bool = False) -> None:
        self._found: dict[tuple[str, str], RewardVerdict] = {}
        self._by_id: dict[str, RewardVerdict] = {}
        for group in run.groups:
            if group.startswith(EVAL_PREFIX) != evaluation:
                continue
            if group.endswith("/failures"):
                self._take_failures(group.removeprefix(EVAL_PREFIX).removesuffix("/failures"), run.table(group, rounds))
            elif {"id", "holder"} <= set(_columns(run, group)):
                self._take(run.table(group, rounds))

    def of(self, row: Row, holder: str | None = None) -> RewardVerdict:
        """The verdict of a row, in the copy of `holder` if given, else of its author."""
        own = self._found.get((row["id"], holder or row["peer"]))
        return own or self._by_id.get(row["id"]) or RewardVerdict()

    def over(self, rows: Iterable[Row], holder: str | None = None) -> RewardVerdict:
        """The verdict of rows that tell something together: sums of rewards and terms, the mean advantage."""
        found = [self.of(row, holder) for row in rows]
        if len(found) == 1:
            return found[0]
        rewards = [verdict.reward for verdict in found if verdict.reward is not None]
        advantages = [verdict.advantage for verdict in found if verdict.advantage is not None]
        terms = {name: sum(v.terms.get(name, 0.0) for v in found) for verdict in found for name in verdict.terms}
        reasons = {node: reason for verdict in found for node, reason in verdict.reasons.items()}
        mean = float(np.mean(advantages)) if advantages else None
        return RewardVerdict(sum(rewards) if rewards else None, mean, terms, reasons)

    def _take(self, table: pa.Table) -> None:
        """Groups come in the order of the steps, so what a later step of a chain says stands."""
        names = [name for name in table.column_names if name in ("reward", "advantage") or name.startswith("reward_")]
        if not names:
            return
        for row in table.select(["id", "holder", *names]).to_pylist():
            verdict = self._verdict(row["id"], row["holder"])
            verdict.reward = row.get("reward", verdict.reward)
            verdict.advantage = row.get("advantage", verdict.advantage)
            verdict.terms |= {name.removeprefix("reward_"): row[name] for name in names if name.startswith("reward_")}

    def _take_failures(self, node: str, table: pa.Table) -> None:
        if {"id", "reason"} <= set(table.column_names):
            for row in table.to_pylist():
                self._verdict(row["id"], row["holder"]).reasons[node] = row["reason"]

    def _verdict(self, id: str, holder: str) -> RewardVerdict:
        verdict = self._found.setdefault((id, holder), RewardVerdict())
        return self._by_id.setdefault(id, verdict) and verdict


@dataclass(frozen=True, slots=True)
class RolloutText:
    """What some rows tell together: they in their order, without tensors, and the words for it."""

    name: str
    rows: list[Row]
    facts: str
    gist: str
    parts: tuple[tuple[str, str], ...]


def told_by(columns: Iterable[str]) -> type[Frame] | None:
    """The type whose rows these stored columns hold, of those that people read; None where there is none."""
    known = set(columns)
    fits = [kind for kind in _told(Frame) if kind.columns and set(kind.columns) <= known]
    return max(fits, key=lambda kind: len(kind.columns), default=None)


def stories(kind: type[Frame], table: pa.Table) -> Iterator[RolloutText]:
    """What stored rows of a type tell, by holder; a peer that shares a store may hold the same rows as another."""
    plain = [field.name for field in table.schema if not isinstance(field.type, pa.BaseExtensionType)]
    holders = table.column("holder").unique().to_pylist()
    for holder in holders:
        part = table.filter(pc.equal(table.column("holder"), holder)) if len(holders) > 1 else table
        scored = "reward" in part.column_names
        names = [*kind.columns, *(name for name in part.column_names if scored and name.startswith("reward"))]
        frame = kind(part.select(names), marks=[SCORED] if scored else [])
        rows = part.select(plain).to_pylist()
        for told in frame.transcripts():
            chosen = [rows[at] for at in told.rows.tolist()]
            yield RolloutText(kind.story(chosen[0]["id"]), chosen, told.facts, told.gist, told.parts)


def rollout_groups(run: StoredRun) -> dict[str, type[Frame]]:
    """The groups whose rows tell something: of generators and of exchanges, in training and in evaluations."""
    groups = [group for group in run.groups if not group.endswith(f"/{IN_FULL}")]
    found = {group: told_by(_columns(run, group)) for group in groups}
    return {group: kind for group, kind in found.items() if kind is not None}


def _told(kind: type[Frame]) -> Iterator[type[Frame]]:
    for below in kind.__subclasses__():
        if below.transcripts is not Frame.transcripts:
            yield below
        yield from _told(below)


def _columns(run: StoredRun, group: str) -> list[str]:
    names: list[str] = run.table(group, range(0)).column_names
    return names
