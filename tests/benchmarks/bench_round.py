"""A round of the three-stage game against the same model work called by hand.

By hand means: the recorded prompts through `policy.generate`, the recorded rows through `policy.logprobs`, the loss,
`policy.backward` and `policy.step`, in the same batches and from a fork of the same policy. That it is the same work
is asserted: it gives the same tokens and the same weights. What the ratio holds beyond 1 is the runner's: tasks,
prompts, exchanges, rewards, advantages, commits, digests, metrics.

GENRL_GRAPH_BENCH_MODEL=tiny plays the game of the tiny policy instead of the real model's.
"""

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measure import Clock, Row, report
from numpy.typing import NDArray

from genrl_graph import Completion, Graph, Rollouts, Sampling, TextPolicy, load, seeds
from genrl_graph.contract.node import Source
from genrl_graph.contract.policy import TokenSequence, micro_batches
from genrl_graph.dag.graph import Part
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.generate.chat import ChatGenerator
from genrl_graph.nodes.generate.prompting.quoting import Quotable
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.steps.losses import Totals, policy_loss
from genrl_graph.nodes.update.steps.training_batch import TrainingBatch
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.trackers import JsonLines, TensorBoard
from genrl_graph.store.run_store import RunStore

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
ALONE = ["run.peers=1", "nodes.answers.params.min_peers=1", "nodes.critiques.params.min_peers=1"]
SMALL = [
    "nodes.tasks.params.num_tasks=2",
    *(f"nodes.{node}.params.num_generations=4" for node in ("answer", "critique", "final")),
    *(f"nodes.{node}.params.max_new_tokens=16" for node in ("answer", "critique", "final")),
]
GAMES = {
    "smollm2": (GRAPHS / "quickstart.yaml", [*ALONE, *SMALL, "carry.policy.params.share_prefixes=false"]),
    "tiny": (GRAPHS / "tiny_multistage.yaml", ALONE),
}
LIMITS = {"smollm2": 1.1, "tiny": None}  # a policy that costs nothing makes everything else look dear
PEER, POLICY, PAIRS = "peer0000", "policy", 5


@dataclass(slots=True)
class Played:
    """A round as the runner played it: seconds in all, of commits and by kind of node, the values of its edges."""

    seconds: float = 0.0
    cpu: float = 0.0
    commits: float = 0.0
    kinds: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> TextPolicy:
        """The policy that leaves the round."""
        after: TextPolicy = self.values[POLICY]
        return after


@dataclass(frozen=True, slots=True)
class Micro:
    """One micro-batch; `old` are the sampler's log-probs where the policy has moved since."""

    sequences: list[TokenSequence]
    temperatures: NDArray[np.float32]
    advantages: torch.Tensor
    mask: torch.Tensor
    old: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Generation:
    """One batched call of `generate`, and the completions that it must give."""

    node: ChatGenerator
    prompts: list[NDArray[np.int32]]
    rng: np.random.Generator
    expected: list[list[int]]

    def run(self, policy: TextPolicy) -> list[list[Completion]]:
        """The model work of a generator."""
        return policy.generate(
            self.prompts,
            num_generations=self.node.num_generations,
            sampling=Sampling(self.node.max_new_tokens, self.node.temperature, self.node.top_p),
            rng=self.rng,
            max_batch_tokens=self.node.max_batch_tokens,
        )


@dataclass(frozen=True, slots=True)
class Training:
    """One optimiser step on micro-batches."""

    node: Grpo
    micros: list[Micro]
    totals: Totals

    def run(self, policy: TextPolicy) -> None:
        """The model work of an update."""
        config = self.node.loss_config()
        for micro in self.micros:
            logprobs = policy.logprobs(micro.sequences, temperatures=micro.temperatures)
            result = policy_loss(
                logprobs=logprobs,
                old_logprobs=logprobs.detach() if micro.old is None else micro.old,
                ref_logprobs=None,
                advantages=micro.advantages,
                mask=micro.mask,
                config=config,
                totals=self.totals,
            )
            policy.backward(result.loss)
        if self.micros:
            policy.step(learning_rate=self.node.learning_rate_at(policy.version), max_grad_norm=self.node.max_grad_norm)

    @property
    def rows(self) -> int:
        """Return the number of rollouts that have a gradient."""
        return sum(len(micro.sequences) for micro in self.micros)


Work = Generation | Training


@dataclass(slots=True)
class ByHand:
    """Time of the model work of a round: CPU seconds, and wall-clock seconds by kind of work."""

    cpu: float = 0.0
    seconds: dict[type[Work], float] = field(default_factory=dict)


@pytest.mark.timeout(3600)
def test_round(folder: Path) -> None:
    model = os.environ.get("GENRL_GRAPH_BENCH_MODEL", "smollm2")
    assert model in GAMES, f"GENRL_GRAPH_BENCH_MODEL={model!r}: use one of {', '.join(GAMES)}"
    path, overrides = GAMES[model]
    graph = load(path, overrides)
    schedule = compile_graph(graph)
    for node in schedule.nodes.values():
        node.prepare()
    carried = graph.carries[POLICY].carry.init(POLICY, seed=graph.run.seed)
    assert isinstance(carried, TextPolicy)
    with RunStore.create(folder / "run", graph.dump(), {}) as store:
        metrics = RoundMetrics([JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "events")])

        def played(number: int, policy: TextPolicy) -> Played:
            return play_round(schedule, number, policy, seed=graph.run.seed, commit=store.commit, metrics=metrics)

        start = played(0, carried).policy  # makes the optimiser state and starts the worker processes

        def pair(number: int) -> tuple[Played, ByHand, list[Work]]:
            runner = played(number, start.fork(POLICY))
            works = works_of(schedule, number, runner.values, start.version, seed=graph.run.seed)
            policy = start.fork(POLICY)
            hand = by_hand(works, policy)
            assert policy.digest() == runner.policy.digest(), "by hand other weights came out"
            runner.values.clear()
            return runner, hand, works

        pairs = [pair(number) for number in range(1, PAIRS + 1)]
        metrics.close()
    done = [work for _, _, works in pairs for work in works]
    sampled = sum(len(ids) for work in done if isinstance(work, Generation) for ids in work.expected)
    trained = sum(work.rows for work in done if isinstance(work, Training))
    assert trained, "no round had anything to train on"
    title = (
        f"Round: {path.name}, {model}, {torch.get_num_threads()} threads; a round samples {sampled / PAIRS:.0f} tokens "
        f"and trains on {trained / PAIRS:.1f} rows (mean of {PAIRS} rounds)"
    )
    report(
        f"round_{model}",
        title,
        rows_of([runner for runner, *_ in pairs], [hand for _, hand, _ in pairs], graph, LIMITS[model]),
    )


def rows_of(rounds: list[Played], hands: list[ByHand], graph: Graph, limit: float | None) -> list[Row]:
    """The whole, the work on the model, and where the rest goes."""
    hand = Row("by hand", [sum(spent.seconds.values()) for spent in hands])
    whole = Row("runner", [played.seconds for played in rounds], hand, at_most_ratio=limit)
    hand_cpu = Row("by hand, CPU of all threads", [spent.cpu for spent in hands])
    whole_cpu = Row("runner, CPU of all threads", [played.cpu for played in rounds], hand_cpu)
    generate = Row("by hand: generate", [spent.seconds[Generation] for spent in hands])
    train = Row("by hand: loss, backward, step", [spent.seconds[Training] for spent in hands])
    kinds = dict.fromkeys(part.node.kind for part in graph.nodes.values())
    bases = {"generate": generate, "update": train}
    parts = [
        Row(f"runner: {kind} nodes", [played.kinds.get(kind, 0.0) for played in rounds], bases.get(kind, whole))
        for kind in kinds
    ]
    commits = Row("runner: commits", [played.commits for played in rounds], whole)
    return [hand, whole, hand_cpu, whole_cpu, generate, train, *parts, commits]


def play_round(
    schedule: Schedule,
    number: int,
    policy: TextPolicy,
    *,
    seed: int,
    commit: Callable[..., object],
    metrics: RoundMetrics,
) -> Played:
    """One round as `play` plays it, with a store and metrics."""
    played, commits = Played(), Clock(commit)
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    peer = Peer(PEER, {POLICY: policy}, TaskBook(sources))

    def watch(done: StepReport) -> None:
        metrics.take(done)
        kind = schedule.nodes[done.step.node].kind
        played.kinds[kind] = played.kinds.get(kind, 0.0) + done.seconds
        played.values.update(peer.values)

    context = RunContext(schedule=schedule, swarm=LocalSwarm([PEER]), seed=seed, commit=commits, watch=watch)

    def whole() -> None:
        started = time.perf_counter()
        run_round(context, [peer], number)
        metrics.end(number, time.perf_counter() - started)

    gc.collect()
    clock = Clock(whole)
    clock()
    played.seconds, played.cpu, played.commits = clock.seconds, clock.cpu, commits.seconds
    played.values.update(peer.carries)
    return played


def by_hand(works: list[Work], policy: TextPolicy) -> ByHand:
    """The time of the model work alone; asserts that the tokens are those of the runner."""
    spent = ByHand()
    made = []
    gc.collect()
    for work in works:
        clock = Clock(work.run)
        made.append((work, clock(policy)))
        spent.cpu += clock.cpu
        spent.seconds[type(work)] = spent.seconds.get(type(work), 0.0) + clock.seconds
    for work, completions in made:
        if isinstance(work, Generation):
            tokens = [row.ids.tolist() for rows in completions for row in rows]
            assert tokens == work.expected, f"{work.node.place.node}: by hand other tokens came out"
    return spent


def works_of(schedule: Schedule, number: int, values: Mapping[str, Any], version: int, *, seed: int) -> list[Work]:
    """The model work of a round, in the order of its steps, from what its edges held."""
    works: list[Work] = []
    for step in schedule.steps:
        node, part = schedule.nodes[step.node], schedule.graph.nodes[step.node]
        if isinstance(node, ChatGenerator):
            works.append(generation(node, part, values, seeds.stream(seed, number, step.node, PEER)))
        elif isinstance(node, Grpo):
            step_work = training(node, part, values, version)
            version += bool(step_work.micros)
            works.append(step_work)
    return works


def generation(node: ChatGenerator, part: Part, values: Mapping[str, Any], rng: np.random.Generator) -> Generation:
    """The call of a generator; `rng` is read as far as the draw of the quotes reads it."""
    inputs = {edge.socket: values[edge.ref] for edge in part.edges()}
    quotable = Quotable({name: value for name, value in inputs.items() if isinstance(value, Rollouts)})
    for task_id in inputs["tasks"].values("id"):
        quotable.of(task_id, per_peer=node.quote, rng=rng)
    rows = values[part.name].finished()
    expected = [ids.tolist() for ids in rows.ragged("completion_ids")]
    return Generation(node, rows.ragged("prompt_ids")[:: node.num_generations], rng, expected)


def training(node: Grpo, part: Part, values: Mapping[str, Any], version: int) -> Training:
    """The optimiser step of an update: its rows with a gradient, in its micro-batches."""
    assert (node.steps, node.epochs, node.minibatches, node.beta) == ("joint", 1, 1, 0), "wants one step without a KL"
    rows = Rollouts.concat([values[edge.ref] for edge in part.edges() if edge.socket == "scored"])
    lengths = np.asarray([len(ids) for ids in rows.ragged("completion_ids")])
    policy = values[POLICY]
    batch = TrainingBatch.of(rows.where(np.isfinite(rows.numpy("advantage")) & (lengths > 0)), policy=policy, peer=PEER)
    needed = np.flatnonzero(batch.advantages)
    tokens = sum(int(mask.sum()) for mask in batch.masks)
    sequences = [batch.sequences[at] for at in needed]
    sizes = [len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in sequences]
    micros = micro_batches(sizes, max_batch_tokens=node.max_batch_tokens)
    totals = Totals(
        sequences=max(len(batch.ids), 1), tokens=max(tokens, 1), max_completion_tokens=node.max_completion_tokens
    )
    return Training(node, [micro(batch, needed[at], version, policy.device) for at in micros], totals)


def micro(batch: TrainingBatch, at: NDArray[np.int64], version: int, device: torch.device) -> Micro:
    """The tensors of one micro-batch."""
    moved = set((batch.versions[at] != version).tolist())
    assert len(moved) == 1, "a micro-batch mixes versions"
    return Micro(
        [batch.sequences[i] for i in at],
        batch.temperatures[at],
        torch.as_tensor(batch.advantages[at], dtype=torch.float32, device=device),
        padded([batch.masks[i] for i in at]).to(device) > 0,
        padded([batch.logprobs[i] for i in at]).to(device) if moved.pop() else None,
    )


def padded(rows: list[NDArray[Any]]) -> torch.Tensor:
    """Rows of different lengths as one tensor, 0 beyond their ends."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row.copy()) for row in rows], batch_first=True)
