"""A rehearsal: rounds with the real sources, templates, exchanges, advantages and selects, and stand-ins elsewhere.

Policies only count tokens, rewards are random, and updates only record the work that they would do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrl_graph.contract.node import Coordinate, Exchange, Fork, Generator, Node, Reward, Source, Update
from genrl_graph.contract.policy import Carried, TokenSequence
from genrl_graph.contract.resources import Log
from genrl_graph.dag.graph import Part
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.edge_types.rollouts import Rollouts, score
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.text_ppo import TextPpo
from genrl_graph.runners.estimate.costs import MicroBatchWork, Work
from genrl_graph.runners.estimate.stand_ins import Assumptions, CountingPolicy, RandomRewards
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.node_resources import node_resources
from genrl_graph.runners.loop.outputs import named_outputs


@dataclass(frozen=True, slots=True)
class RehearsedStep:
    """A rehearsed step of one peer: rows, tokens of distinct prompts and of completions, and work by policy."""

    round: int
    step: Step
    peer: str
    rows: int
    prompt_tokens: int
    completion_tokens: float
    works: tuple[Work, ...]


@dataclass(slots=True)
class _Player:
    name: str
    carries: dict[str, Carried]
    tasks: TaskBook
    values: dict[str, Any] = field(default_factory=dict)


class Rehearsal:
    """Rehearses the rounds of a schedule for all peers; `make` makes the carries by name."""

    def __init__(
        self,
        schedule: Schedule,
        names: Sequence[str],
        *,
        seed: int,
        assumed: Assumptions,
        make: Callable[[str], Carried],
    ) -> None:
        self._schedule, self._seed, self._assumed = schedule, seed, assumed
        self._swarm, self._rewards = LocalSwarm(names), RandomRewards(assumed)
        sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
        carries = schedule.graph.carries
        self._players = [_Player(name, {c: make(c) for c in carries}, TaskBook(sources)) for name in names]

    def rounds(self, count: int) -> Iterator[RehearsedStep]:
        """Yield every step of every peer in the first `count` rounds."""
        for number in range(count):
            for player in self._players:
                player.values = dict(player.carries)
            for step in self._schedule.steps:
                for player in self._players:
                    yield self._step(step, number, player)

    def _step(self, step: Step, round: int, player: _Player) -> RehearsedStep:
        """Rehearse a step and collect the work that the counting policies recorded; errors name the node."""
        node, part = self._schedule.nodes[step.node], self._schedule.graph.nodes[step.node]
        policies = [value for value in player.values.values() if isinstance(value, CountingPolicy)]
        for policy in policies:
            policy.works, policy.prompt_tokens, policy.sampled = [], 0, 0.0
            policy.length = lambda most: self._assumed.length(step.node, most)
        try:
            rows, works = self._rehearse(step, node, part, round, player)
        except GenrlGraphError as error:
            raise type(error)(f"nodes.{step.node}: {error}") from error
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise NodeFailed(f"nodes.{step.node}: cannot be rehearsed for an estimate: {what}") from error
        counted = {id(policy): policy for policy in policies}.values()
        works = [*works, *(work for policy in counted for work in policy.works)]
        prompts = sum(policy.prompt_tokens for policy in counted)
        sampled = sum(policy.sampled for policy in counted)
        return RehearsedStep(round, step, player.name, rows, prompts, sampled, tuple(works))

    def _rehearse(self, step: Step, node: Node, part: Part, round: int, player: _Player) -> tuple[int, list[Work]]:
        """Run a node or its stand-in; returns the number of rows and, of an update, its work."""
        if isinstance(node, Coordinate):
            return 0, []
        inputs = {} if step.action == "close" else part.bind(player.values)
        frames = [frame for value in inputs.values() for frame in frames_of(value)]
        if isinstance(node, Exchange) and node.returns_carried():
            inputs = part.bind(player.values)
            player.values.update(_passed_on(node, inputs))
            return 0, []
        if step.action == "open":
            assert isinstance(node, Exchange)
            offer = node.offer(**inputs)  # type: ignore[attr-defined]
            self._swarm.open(node, round=round, peer=player.name, offer=offer)
            return len(offer), []
        if isinstance(node, Fork):
            player.values[step.node] = next(value for value in inputs.values() if isinstance(value, Carried))
            return sum(map(len, frames)), []
        if isinstance(node, Update):
            return sum(map(len, frames)), self._updated(step, node, inputs, frames, player)
        resources = node_resources(node, self._seed, round, player.name, player.tasks, Log())
        if step.action == "close":
            assert isinstance(node, Exchange)
            exchanged = self._swarm.close(node, round=round, peer=player.name, tasks=player.tasks, vocabularies={})
            output = node.admit(list(exchanged.packets), **resources)  # type: ignore[attr-defined]
        elif isinstance(node, Reward):
            output = self._rewarded(node, inputs, frames, resources)
        else:
            # words of a counting policy are no moves: as in dry play, a game goes on with others
            played = node.dry() if isinstance(node, Generator) else node
            output = played.run(**inputs, **resources)  # type: ignore[attr-defined]
        outputs = named_outputs(node, output, self._schedule.types)
        player.values.update(outputs)
        return sum(len(value) for value in outputs.values() if isinstance(value, Frame)), []

    def _updated(
        self, step: Step, node: Update, inputs: Mapping[str, Any], frames: Sequence[Frame], player: _Player
    ) -> list[Work]:
        """Pass the inputs that an update would replace on as its outputs, and return the work that it would do."""
        outputs = _passed_on(node, inputs)
        rows = [frame for frame in frames if isinstance(frame, Rollouts)]
        works: list[Work] = []
        for value in outputs.values():
            if isinstance(value, CountingPolicy):
                works += update_works(node, value, rows, reference=inputs.get("reference"), peer=player.name)
        player.values.update(outputs)
        return works

    def _rewarded(
        self, node: Reward, inputs: Mapping[str, Any], frames: Sequence[Frame], resources: Mapping[str, Any]
    ) -> Frame:
        """Return the first input rows with random rewards; a judge that is a policy runs, to count its tokens."""
        if any(isinstance(value, CountingPolicy) for value in inputs.values()):
            with suppress(RewardFailed):  # the stand-in's words are no verdicts, but its tokens are counted
                node.run(**inputs, **resources)  # type: ignore[attr-defined]
        rows = frames[0]
        return rows if SCORED in rows.marks else score(rows, {"made_up": self._rewards.rewards(rows)})


def _passed_on(node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that a node would replace as its outputs, by reference."""
    name = node.place.node
    return {f"{name}.{field}" if field else name: inputs[socket] for field, socket in node.signature.replaced.items()}


def update_works(
    node: Update, policy: CountingPolicy, rows: Sequence[Rollouts], *, reference: object, peer: str
) -> list[Work]:
    """Return the work of an update with its input rows, for the policy and its reference.

    An update of another library may lack params such as `epochs`: then defaults count. It trains on all rows with
    tokens, unless these have advantages.
    """
    joint = getattr(node, "steps", "joint") == "joint"
    budget, epochs = getattr(node, "max_batch_tokens", 8192), getattr(node, "epochs", 1)
    works = [Work(policy.name, digested=True)]
    inputs = [Rollouts.concat(list(rows))] if joint and rows else list(rows)
    plans = [_trained_on(node, policy, part) for part in inputs]
    many = epochs * sum(len(parts) for parts in plans) > 1
    for parts in plans:
        micros = [micro for part in parts for micro in _micros(policy, part, budget)]
        if isinstance(node, TextPpo) and policy.critic is not None and not policy.critic.head:
            micros += [MicroBatchWork(micro.rows, micro.width, 0) for micro in micros]  # the critic's own model
        steps = epochs * sum(len(part) > 0 for part in parts)
        works.append(Work(policy.name, micros=tuple(micros) * epochs, steps=steps))
        if isinstance(node, Grpo | TextPpo) and node.correction().active and (many or node.correction().rejects):
            works.append(Work(policy.name, forwards=tuple(micros)))
        elif isinstance(node, Grpo | TextPpo) and many:
            foreign = [part.where([name != peer for name in part.values("peer")]) for part in parts]
            works.append(
                Work(policy.name, forwards=tuple(m for part in foreign for m in _micros(policy, part, budget)))
            )
        if isinstance(reference, CountingPolicy):
            works.append(Work(reference.name, forwards=tuple(micros) * epochs))
    return works


def _trained_on(node: Update, policy: CountingPolicy, rows: Rollouts) -> list[Rollouts]:
    """Return the rows of each optimiser step of one epoch: those with a gradient, or that a KL term needs."""
    lengths = np.asarray([len(ids) for ids in rows.ragged("completion_ids")])
    usable = (lengths > 0) & np.asarray(
        [name == policy.tokenizer_fingerprint for name in rows.values("tokenizer_fingerprint")], dtype=bool
    )
    if "advantage" in rows.table.column_names:
        advantage = rows.numpy("advantage")
        usable &= np.isfinite(advantage)
        if not (isinstance(node, Grpo) and node.beta > 0) and not isinstance(node, TextPpo):
            usable &= advantage != 0
    trained = rows.where(usable)
    size = getattr(node, "batch_size", None)
    parts = -(-len(trained) // size) if size else getattr(node, "minibatches", 1)
    batches = np.array_split(np.arange(len(trained)), max(parts, 1))
    return [trained.take(list(map(int, at))) for at in batches if len(at)]


def _micros(policy: CountingPolicy, rows: Rollouts, budget: int) -> list[MicroBatchWork]:
    """Return the micro-batches that rows are split into, at most `budget` tokens each."""
    sequences = TokenSequence.of(rows)
    batches = policy.micro_batches(sequences, max_batch_tokens=budget)
    return [policy.micro([sequences[i] for i in at]) for at in batches]
