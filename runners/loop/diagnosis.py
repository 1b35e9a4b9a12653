"""Why a round taught nothing: no group of rewards varies, or the weights stay as they were."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrl_graph.contract.node import Advantage, Generator, Node, Reward, Select
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame
from genrl_graph.messages import counted
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.failures import FailedRows
from genrl_graph.runners.loop.stage_metrics import totals

Peers = Mapping[str, Mapping[str, float]]
NO_VARIANCE, UNCHANGED = "stalled/no_variance", "stalled/unchanged"
"""Metrics: rounds in a row in which no group had variance, and in which no weights changed."""
TRAINS = frozenset({"optimiser_steps", "trained_rows", "left_out_rows"})
"""Metrics of an update of a policy that was due in a round; one that waits for its round reports none of them."""
LOG_RATIO = "log_ratio_mean"
"""Metric of an update: mean difference of the log-probs of sampler and trainer."""
GRADIENT_SHARE = "/gradient_share"
"""Ending of the metrics of an update that hold the share of a role."""
EVERY_ROUNDS = 10
"""Rounds after which a reason that goes on is told again."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a round taught nothing, and what to try."""

    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.why}; try {self.advice}"


@dataclass(slots=True)
class RoundFacts:
    """Evidence about learning from the steps of one round, of all peers of this process."""

    failed: dict[str, FailedRows] = field(default_factory=dict)  # by generator, or by reward that no other one reads
    kept: dict[str, int] = field(default_factory=dict)  # rows, by select
    sampled: int = 0
    advantages: dict[str, int] = field(default_factory=dict)  # summed metrics of the advantages
    rewards: list[float] = field(default_factory=list)  # the lowest and the highest of each step
    updates: list[Mapping[str, float]] = field(default_factory=list)
    digests: dict[tuple[str, str], str] = field(default_factory=dict)  # by peer and output
    warnings: dict[tuple[str, str], str] = field(default_factory=dict)  # of an update, by its name and a metric

    def failures(self) -> str:
        """Return the failed and unjudged rows as text, with the first reason; empty where there are none."""
        lost = [f"{failed} ({node}: {failed.reason})" for node, failed in self.failed.items() if failed.count]
        return ", ".join(lost)


class Diagnosis:
    """Collects the reports of each round's steps, and says why a round taught nothing, if it did.

    `weights` are the digests of the carries at the start, by peer and carry. A reward of at least `passes` is right.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        weights: Mapping[tuple[str, str], str],
        passes: float,
    ) -> None:
        self._schedule, self._passes = schedule, passes
        self._totals = totals(schedule)
        parts = schedule.graph.carries
        self._trained = {name: p.next for name, p in parts.items() if p.next and _is_policy(schedule, name)}
        self._weights = dict(weights)
        self._streaks = {NO_VARIANCE: 0, UNCHANGED: 0}
        self._told: dict[str, int] = {}  # the round in which a cause was last told
        self._facts = RoundFacts()
        self._rounds = self._stalled = 0
        self._last = ""

    def restore(self, peers: Peers) -> None:
        """Count a round that a previous run played, from its metrics by peer."""
        for name in self._streaks:
            self._streaks[name] = max((int(metrics.get(name, 0)) for metrics in peers.values()), default=0)
        self._count()

    def take(self, done: StepReport) -> None:
        """Add a step of the round."""
        name, facts = done.step.node, self._facts
        node = self._schedule.nodes[name]
        rows = [value for value in done.outputs.values() if isinstance(value, Frame)]
        if isinstance(node, Generator) or name in self._totals:
            facts.failed[name] = facts.failed.get(name, FailedRows()) + done.failed
        if isinstance(node, Generator):
            facts.sampled += sum(map(len, rows))
        if isinstance(node, Reward) and name in self._totals:
            facts.rewards += _extremes(rows)
        if isinstance(node, Select):
            facts.kept[name] = facts.kept.get(name, 0) + sum(map(len, rows))
        if isinstance(node, Advantage):
            for metric in ("rows", "groups", "groups_with_variance"):
                facts.advantages[metric] = facts.advantages.get(metric, 0) + int(done.metrics.get(metric, 0))
        if any(isinstance(value, Policy) for value in done.outputs.values()) and TRAINS & done.metrics.keys():
            facts.updates.append(done.metrics)
            for metric, warn in WARNINGS.items():
                if warning := warn(node, done.metrics):
                    facts.warnings[name, metric] = warning
        facts.digests |= {(done.peer, ref): digest for ref, digest in done.digests.items()}

    def drop(self) -> None:
        """Forget a round that was skipped."""
        self._facts = RoundFacts()

    def end(self, round: int) -> tuple[str, list[str], dict[str, float]]:
        """End a round; return its failed rows as text, lines to print, and the metrics of stalls.

        The lines say why the round taught nothing, which role takes over a policy, and where sampler and trainer
        differ: in the first such round, and in every tenth while it goes on.
        """
        facts, self._facts = self._facts, RoundFacts()
        no_variance = bool(facts.advantages.get("groups")) and not facts.advantages["groups_with_variance"]
        stalls = {NO_VARIANCE: no_variance, UNCHANGED: self._unchanged(facts)}
        for name, stalled in stalls.items():
            self._streaks[name] = self._streaks[name] + 1 if stalled else 0
        self._count()
        stall = self._stall(facts, round, no_variance=no_variance) if any(stalls.values()) else ""
        lines = [line for line in (stall, *self._warnings(facts, round)) if line]
        return facts.failures(), lines, {name: float(streak) for name, streak in self._streaks.items()}

    def summary(self) -> str:
        """Return a line on all rounds that taught nothing, or an empty one."""
        if not self._stalled:
            return ""
        because = f"; the last because {self._last}" if self._last else ""
        return f"nothing was learned in {self._stalled} of {counted(self._rounds, 'round')}{because}"

    def _count(self) -> None:
        self._rounds += 1
        self._stalled += any(self._streaks.values())

    def _stall(self, facts: RoundFacts, round: int, *, no_variance: bool) -> str:
        """Return the line on a stall; empty where the same was told in the last ten rounds."""
        cause = self._cause(facts, no_variance=no_variance)
        self._last = str(cause)
        name = UNCHANGED if self._streaks[UNCHANGED] else NO_VARIANCE
        what = "the weights did not change" if name == UNCHANGED else "no group of rewards varies"
        streak = self._streaks[name]
        if streak % EVERY_ROUNDS and round - self._told.get(cause.advice, -EVERY_ROUNDS) < EVERY_ROUNDS:
            return ""
        self._told[cause.advice] = round
        when = f"round {round + 1}" if streak == 1 else f"{streak} rounds in a row, up to round {round + 1}"
        return f"{when}: {what}, because {cause}"

    def _warnings(self, facts: RoundFacts, round: int) -> Iterable[str]:
        """Yield a line for each warning of an update, unless it was told in the last ten rounds."""
        for (name, metric), what in facts.warnings.items():
            told = f"{name}/{metric}"
            if round - self._told.get(told, -EVERY_ROUNDS) >= EVERY_ROUNDS:
                self._told[told] = round
                yield f"round {round + 1}: nodes.{name}: {what}"

    def _unchanged(self, facts: RoundFacts) -> bool:
        """Return whether an update was due, or nothing to train on was left, and no trained policy has new weights."""
        now = {(peer, carry): d for (peer, ref), d in facts.digests.items() for carry in self._carries(ref)}
        changed = [self._weights.get(key) != digest for key, digest in now.items()]
        self._weights |= now
        return bool(changed) and not any(changed) and bool(facts.updates)

    def _carries(self, ref: str) -> Iterable[str]:
        return [carry for carry, next in self._trained.items() if next == ref]

    def _cause(self, facts: RoundFacts, *, no_variance: bool) -> Cause:
        """Return the first step on the way from samples to weights at which nothing was left."""
        if any(failed.total and failed.count == failed.total for failed in facts.failed.values()):
            return Cause(f"no row was judged: {facts.failures()}", "mending that first")
        if any(2 * failed.count > failed.total for failed in facts.failed.values()):
            return Cause(f"few rows were judged: {facts.failures()}", "mending that first")
        if no_variance or (facts.rewards and min(facts.rewards) == max(facts.rewards)):
            return self._equal_rewards(facts, no_variance=no_variance)
        for name, kept in facts.kept.items():
            if not kept and facts.sampled:
                return Cause(f"the select {name!r} kept none of the rows", "a looser select")
        return _not_trained(facts.updates)

    def _equal_rewards(self, facts: RoundFacts, *, no_variance: bool) -> Cause:
        groups = facts.advantages.get("groups", 0)
        if no_variance and facts.advantages["rows"] <= groups:
            return Cause("every group has a single row (G = 1)", "a larger num_generations, or scope: batch")
        low, high = min(facts.rewards, default=0.0), max(facts.rewards, default=0.0)
        if low < high:
            why = f"in each of {counted(groups, 'group')} all rewards are equal, from {low:g} to {high:g}"
            return Cause(why, "a larger num_generations, a higher temperature, or tasks of middling difficulty")
        if low >= self._passes:
            return Cause(f"every reward is {low:g} (all right)", "harder tasks")
        if low <= 0:
            advice = (
                "easier tasks, examples in the prompt, a larger max_new_tokens, or a reward for parts of the answer"
            )
            return Cause(f"every reward is {low:g} (all wrong)", advice)
        return Cause(f"every reward is {low:g} (all alike)", "a reward that tells completions apart")


def _takeover(node: Node, metrics: Mapping[str, float]) -> str:
    """Return which of several roles has more of an update's gradient than its `max_gradient_share`, or ""."""
    ending, limit = GRADIENT_SHARE, float(getattr(node, "max_gradient_share", 1.0))
    shares = {name.removesuffix(ending): value for name, value in metrics.items() if name.endswith(ending)}
    role = max(shares, key=lambda role: shares[role], default="")
    if len(shares) < 2 or shares[role] <= limit:
        return ""
    others = counted(len(shares) - 1, "other role")
    return (
        f"{shares[role]:.0%} of the gradient is that of {role}, which takes the policy over from {others} "
        f"(max_gradient_share {limit:g}); give it a policy of its own, or fewer rows"
    )


def _sampler_gap(node: Node, metrics: Mapping[str, float]) -> str:
    """Return how far an update's log-probs are from the sampler's if that is beyond its `max_log_ratio`, or ""."""
    gap, limit = metrics.get(LOG_RATIO, 0.0), float(getattr(node, "max_log_ratio", math.inf))
    if gap <= limit:
        return ""
    corrected = getattr(node, "importance_correction", "none") != "none"
    advice = "compute both in one precision" if corrected else "set importance_correction, or compute both in float32"
    return (
        f"the log-probs of sampler and trainer differ by {gap:.2g} nats a token (max_log_ratio {limit:g}), "
        f"effective sample size {metrics.get('effective_sample_size', math.nan):.0%}; {advice}"
    )


WARNINGS: Mapping[str, Callable[[Node, Mapping[str, float]], str]] = {
    "gradient_share": _takeover,
    LOG_RATIO: _sampler_gap,
}
"""Warnings about an update by the metric that they are about: why its metrics are beyond its limits, or "" """


def _not_trained(updates: list[Mapping[str, float]]) -> Cause:
    def total(metric: str) -> float:
        return sum(metrics.get(metric, 0.0) for metrics in updates)

    if not total("trained_rows"):
        left_out = int(total("left_out_rows"))
        why = f"the update left all {left_out} rows out" if left_out else "no row reached the update with a gradient"
        return Cause(why, "the metrics of the update, which count rows by reason")
    if not any(metrics.get("learning_rate", 1.0) for metrics in updates):
        return Cause("the learning rate is 0", "a later end of its decay (decay_steps)")
    if not any(metrics.get("grad_norm", 1.0) for metrics in updates):
        return Cause("every gradient is 0", "another loss, or looser clipping")
    rate = max(metrics.get("learning_rate", 0.0) for metrics in updates)
    return Cause(
        f"the optimiser steps are too small for the weights (learning_rate {rate:g})", "a larger learning_rate"
    )


def _extremes(frames: Iterable[Frame]) -> list[float]:
    """Return the lowest and the highest finite reward, or nothing."""
    values: Any = np.concatenate([np.empty(0), *(rows.numpy("reward") for rows in frames)])
    judged = values[np.isfinite(values)]
    return [float(judged.min()), float(judged.max())] if len(judged) else []


def _is_policy(schedule: Schedule, carry: str) -> bool:
    return issubclass(schedule.types[carry].base, Policy)
