"""One contender of `bench_speed`: a process that plays a round of a job whenever a line comes, and prints its figures.

Called with the contender's name, the job as JSON, and the file of the prompts: `ours` writes it, the others read it.
Before it says that it is ready it makes the optimiser state: `ours` by a first round, the others by a step.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from measure import Clock
from speed_game import LEARNING_RATE, STAGES, Job, distinct, endless, game
from torch.nn.utils.rnn import pad_sequence

from genrl_graph.allocator import release_memory
from genrl_graph.contract.node import Source
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.tracking.memory import memory, settle_memory
from genrl_graph.store.run_store import RunStore

PEER, POLICY = "peer0000", "policy"
Prompts = list[list[list[int]]]
"""Ids by stage and task."""


@dataclass(slots=True)
class Reading:
    """Counts of the positions that a model reads, and of the padding among them, since the last call of `figures`."""

    places: int = 0
    padding: int = 0

    def watch(self, model: torch.nn.Module) -> None:
        """Count what the model, or a copy of it, reads from now on."""

        def count(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._count(args, kwargs)  # a function is the same in every copy, a method is not

        cast(Any, model).base_model.register_forward_pre_hook(count, with_kwargs=True)

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, mask = kwargs["input_ids"] if "input_ids" in kwargs else args[0], kwargs.get("attention_mask")
        self.places += ids.numel()
        if mask is not None and mask.dim() == 2:
            self.padding += int((mask[:, -ids.shape[1] :] == 0).sum())

    def figures(self, job: Job, prompts: Prompts) -> dict[str, float]:
        """The share of padding, and of prompt tokens that a pass (sampling a stage, training) reads once more.

        Of a completion all tokens but the last are counted as read by each pass; some contenders also read the last.
        """
        own = self.places - self.padding - 2 * job.rows * len(job.prompts) * (job.new_tokens - 1)
        needed = sum(map(distinct, prompts)) + distinct([prompt for stage in prompts for prompt in stage])
        padding = self.padding / self.places
        self.places = self.padding = 0
        return {"padding": padding, "twice": max(0.0, 1 - needed / own)}


@dataclass(slots=True)
class Spent:
    """The seconds of a round, in all and of sampling and training."""

    whole: float = 0.0
    sampling: float = 0.0
    training: float = 0.0
    prompts: Prompts = field(default_factory=list)


class Ours:
    """This project: the runner plays the game, with a store."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.policy = policy_of(job, ours=True)
        self.schedule = compile_graph(game(job, self.policy))
        for node in self.schedule.nodes.values():
            node.prepare()
        self.store = RunStore.create(folder / "run", self.schedule.graph.dump(), {})
        sources = {name: node for name, node in self.schedule.nodes.items() if isinstance(node, Source)}
        self.peer = Peer(PEER, {POLICY: self.policy}, TaskBook(sources))
        self.number, self.spent, self.job = 0, Spent(), job
        swarm = LocalSwarm([PEER])
        self.context = RunContext(
            schedule=self.schedule, swarm=swarm, seed=0, commit=self.store.commit, watch=self._watch
        )

    def round(self) -> Spent:
        """A round of the game."""
        self.spent = Spent()
        clock = Clock(run_round)
        clock(self.context, [self.peer], self.number)
        self.number += 1
        self.spent.whole = clock.seconds
        return self.spent

    def _watch(self, done: StepReport) -> None:
        kind = self.schedule.nodes[done.step.node].kind
        self.spent.sampling += done.seconds * (kind == "generate")
        self.spent.training += done.seconds * (kind == "update")
        if done.step.node in STAGES:
            rows = done.outputs[done.step.node]
            assert not rows.values("error")[0], rows.values("error")
            prompts = [ids.tolist() for ids in rows.ragged("prompt_ids")]
            self.spent.prompts.append(prompts[:: self.job.generations])


class ByHand:
    """The same in transformers: padded; `apart` makes a call of its own for each completion, `bfloat16` is autocast."""

    def __init__(self, job: Job, prompts: Prompts, *, apart: bool, bfloat16: bool) -> None:
        self.policy = policy_of(job, ours=False)
        self.model, self.job, self.prompts = cast(Any, self.policy.model), job, prompts
        self._apart, self._bfloat16 = apart, bfloat16
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def round(self) -> Spent:
        """All stages, then one optimiser step over them."""
        sample, train = Clock(self._sample), Clock(self._train)
        train(sample())
        return Spent(sample.seconds + train.seconds, sample.seconds, train.seconds, self.prompts)

    def warm(self) -> Spent:
        """A step over the first stage with any completions: it makes the optimiser state."""
        fixed = [torch.tensor(prompt[-self.job.new_tokens :]) for prompt in self.prompts[0]]
        self._train([[row for row in fixed for _ in range(self.job.generations)]])
        return Spent(prompts=self.prompts)

    def _sample(self) -> list[list[torch.Tensor]]:
        with self._computing(), torch.no_grad():
            return [self._stage(prompts) for prompts in self.prompts]

    def _stage(self, prompts: list[list[int]]) -> list[torch.Tensor]:
        rows = [torch.tensor(prompt) for prompt in prompts for _ in range(self.job.generations)]
        calls = [[row] for row in rows] if self._apart else [rows]
        return [completion for call in calls for completion in self._generate(call)]

    def _generate(self, rows: list[torch.Tensor]) -> torch.Tensor:
        ids, mask = left_padded(rows)
        new = self.job.new_tokens
        made: torch.Tensor = self.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=new, min_new_tokens=new, pad_token_id=0
        )
        return made[:, ids.shape[1] :]

    def _train(self, completions: list[list[torch.Tensor]]) -> None:
        """A pass over the completions of each prompt, then a step."""
        group, new = self.job.generations, self.job.new_tokens
        advantages = torch.tensor([-1.0, 1.0]).repeat(group)[:group, None]
        for prompts, made in zip(self.prompts, completions, strict=False):
            for at, prompt in enumerate(prompts):
                rows = [torch.cat([torch.tensor(prompt), row]) for row in made[at * group : (at + 1) * group]]
                ids, mask = left_padded(rows)
                with self._computing():
                    logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=new + 1).logits[:, :-1]
                chosen = logits.float().log_softmax(-1).gather(-1, ids[:, -new:, None])[..., 0]
                loss = -(torch.exp(chosen - chosen.detach()) * advantages).mean() / (len(prompts) * len(self.prompts))
                loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _computing(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self._bfloat16 else nullcontext()


def left_padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [rows, longest], ends aligned."""
    ids = pad_sequence(rows, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids, mask


def policy_of(job: Job, *, ours: bool) -> CausalPolicy:
    """The model of a job, without an end token."""
    policy = job.carry(ours=ours).init(POLICY, seed=0)
    assert isinstance(policy, CausalPolicy)
    return endless(policy)


def serve(
    policy: CausalPolicy, job: Job, play: Callable[[], Spent], prompts: Path | None, warm: Callable[[], Spent]
) -> None:
    """Play rounds on demand; what warms up, before that, is not told of, but its prompts are written."""
    reading = Reading()
    reading.watch(policy.model)
    played = warm()
    if prompts is not None:
        prompts.write_text(json.dumps(played.prompts))
    reading.figures(job, played.prompts)
    say({"ready": True})
    for _ in sys.stdin:
        say(told(play(), reading, job))


def told(spent: Spent, reading: Reading, job: Job) -> dict[str, Any]:
    """The figures of a round; peak memory is that of the process so far."""
    tokens = job.rows * len(job.prompts) * job.new_tokens
    return {
        "seconds": spent.whole,
        "generated_per_s": tokens / spent.sampling,
        "trained_per_s": tokens / spent.training,
        "peak_gb": memory()["memory/peak_gb"],
        "prompts": [len(stage[0]) for stage in spent.prompts],
        **reading.figures(job, spent.prompts),
    }


def say(figures: dict[str, Any]) -> None:
    """A line for the benchmark."""
    release_memory()  # those that wait leave room for the one whose turn it is
    print(json.dumps(figures), file=sys.__stdout__, flush=True)


def main() -> None:
    name, text, file = sys.argv[1:]
    if name == "ours":
        settle_memory()  # as the command line does
    job, prompts = Job.of(json.loads(text)), Path(file)
    if name == "ours":
        with TemporaryDirectory(dir=prompts.parent) as folder:
            ours = Ours(job, Path(folder))
            serve(ours.policy, job, ours.round, prompts, ours.round)
        return
    known: Prompts = json.loads(prompts.read_text())
    if name == "trl":
        from speed_trl import serve_trl

        serve_trl(policy_of(job, ours=False), job, known)
        return
    hand = ByHand(job, known, apart=name == "apart", bfloat16=name == "batched")
    serve(hand.policy, job, hand.round, None, hand.warm)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what libraries print is no answer
    main()
