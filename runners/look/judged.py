"""Rollouts as they are stored, and what the rewards and advantages of the same rounds say of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from genrl_graph.inherited import IN_FULL
from genrl_graph.joined import EVAL
from genrl_graph.reading import Rounds, StoredRun

Row = Mapping[str, Any]
_SHOWN = ("id", "task_id", "parent_ids", "peer", "node", "round", "policy", "policy_version", "completion", "finish")


@dataclass(slots=True)
class Verdict:
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


class Verdicts:
    """The verdicts of some rounds by rollout; a row that several peers judged has that of the holder asked for."""

    def __init__(self, run: StoredRun, rounds: Rounds, *, evaluation: bool = False) -> None:
        self._found: dict[tuple[str, str], Verdict] = {}
        self._by_id: dict[str, Verdict] = {}
        for group in run.groups:
            if group.startswith(EVAL) != evaluation:
                continue
            if group.endswith("/failures"):
                self._take_failures(group.removeprefix(EVAL).removesuffix("/failures"), run.table(group, rounds))
            elif not is_rollouts(columns := _columns(run, group)) and {"id", "holder"} <= set(columns):
                self._take(run.table(group, rounds))

    def of(self, row: Row, holder: str | None = None) -> Verdict:
        """The verdict of a row, in the copy of `holder` if given, else of its author."""
        own = self._found.get((row["id"], holder or row["peer"]))
        return own or self._by_id.get(row["id"]) or Verdict()

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

    def _verdict(self, id: str, holder: str) -> Verdict:
        verdict = self._found.setdefault((id, holder), Verdict())
        return self._by_id.setdefault(id, verdict) and verdict


def is_rollouts(columns: list[str]) -> bool:
    """Whether stored columns are those of whole rollouts."""
    return set(_SHOWN) <= set(columns)


def rollout_groups(run: StoredRun) -> list[str]:
    """The groups that hold whole rollouts: of generators and of exchanges, in training and in evaluations."""
    groups = [group for group in run.groups if not group.endswith(f"/{IN_FULL}")]
    return [group for group in groups if is_rollouts(_columns(run, group))]


def _columns(run: StoredRun, group: str) -> list[str]:
    names: list[str] = run.table(group, range(0)).column_names
    return names
