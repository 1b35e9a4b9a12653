"""`generate.chat`: a policy completes one chat a task, and what every generator of chats shares."""

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Generator, Wire
from genrl_graph.contract.policy import Completion, Sampling, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Tasks
from genrl_graph.errors import ParamError
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, check_template, fill, template_names
from genrl_graph.nodes.generate.prompting.quoting import Limit, Prompt, Quotable, Quotes, TooLong, branches, fit
from genrl_graph.nodes.generate.prompting.rows import rollout_rows


class Example(BaseModel):
    """A turn shown before the question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    assistant: str


class ChatGenerator(Generator):
    """Completes one chat a task; subclass it and let `run` pass named upstream rollouts to `complete`.

    The chat is system, examples, the task's earlier messages, and `template` (sandboxed Jinja) in place of its last
    message. The template sees `task` (id, question, metadata, messages; never the answer) and each upstream input as
    a list of rows with number, completion, peer and id; failed rows are left out. `quote` limits the rows per peer.

    A prompt must fit in `max_prompt_tokens` and in the policy's context less `max_new_tokens`; `too_long` names what
    happens where it does not: `refuse` fails the row, `drop_quoted` leaves out the last quoted rows, `cut_left`
    drops the first tokens. `parent_ids` of a row are the ids of what its prompt quotes, input by input in the order of
    the numbers, so with one input parent_ids[k - 1] is number k; an input that the template leaves out is no parent.

    `each` names an input that branches: a task then has one prompt for every row of it, which the template sees as
    a list of that row alone, under its number; other inputs are whole, and `num_generations` counts per prompt. So
    each critique gets revisions of its own, and `advantage.backup` tells which critique helped. Rows of equal text
    give equal prompts, which are one group: what the policy cannot tell apart has one baseline.
    """

    system: str = ""
    template: str = "{{ task.question }}"
    examples: tuple[Example, ...] = ()
    num_generations: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    too_long: TooLong = "refuse"
    quote: int | None = Field(default=None, ge=1)
    each: str = ""
    max_batch_tokens: int = Field(default=16384, ge=1)

    needs: ClassVar[tuple[str, ...]] = ()  # inputs without which there is nothing to say about a task

    @model_validator(mode="after")
    def _template_is_readable(self) -> Self:
        inputs = [s for s in type(self).signature.inputs if issubclass(s.pattern.bound.base, Rollouts)]
        open_names = any(socket.many == "dict" for socket in inputs)
        check_template(self.template, None if open_names else [socket.name for socket in inputs])
        shown = sorted(template_names(self.template))
        if self.each and self.each not in shown:
            known = f"one of {', '.join(shown)}" if shown else "an input that the template quotes; it quotes none"
            raise ValueError(f"each is {self.each!r}, which the template does not quote; name {known}")
        return self

    def evaluated(self, how: Evaluation) -> Self:
        """This generator with the number of generations and the temperature of an evaluation, where it has them."""
        asked = {"num_generations": how.num_generations, "temperature": how.temperature}
        return self.model_copy(update={name: value for name, value in asked.items() if value is not None})

    def dry(self) -> Self:
        """No limit of prompt tokens: only the model's own tokenizer could count them."""
        return self.model_copy(update={"max_prompt_tokens": None})

    def complete(
        self,
        tasks: Tasks,
        policy: TextPolicy,
        upstream: Mapping[str, Rollouts],
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        """`num_generations` rows a prompt, in the order of the tasks, from one call of the policy."""
        limit = self._limit(policy)
        shown = template_names(self.template)
        quotable = Quotable({name: rows for name, rows in upstream.items() if name in shown})
        asked: list[tuple[AskedTask, Quotes]] = []
        for task in map(_asked, tasks.rows("id", "messages", "metadata")):
            quotes = quotable.of(task.id, per_peer=self.quote, rng=rng)
            asked += [(task, branch) for branch in branches(quotes, self.each)]
        prompts = [self._prompt(task, quotes, policy, limit) for task, quotes in asked]
        fitting = [prompt.ids for prompt in prompts if not prompt.error]
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_p)
        made = iter(
            policy.generate(
                fitting,
                num_generations=self.num_generations,
                sampling=sampling,
                rng=rng,
                max_batch_tokens=self.max_batch_tokens,
            )
            if fitting
            else ()
        )
        completions = [None if prompt.error else next(made) for prompt in prompts]
        dropped = _count(quotes for _, quotes in asked) - _count(prompt.quoted for prompt in prompts)
        self._report(log, prompts, completions, dropped=dropped)
        return rollout_rows(
            self.place,
            policy,
            [task.id for task, _ in asked],
            prompts,
            completions,
            num_generations=self.num_generations,
            temperature=self.temperature,
            round=round,
            peer=peer,
        )

    def _limit(self, policy: TextPolicy) -> Limit:
        room = policy.context - self.max_new_tokens
        if room < 1:
            raise ParamError(
                f"{self.place.node}.max_new_tokens: {self.max_new_tokens} leave no room for a prompt in the "
                f"{policy.context} tokens of policy {policy.name!r}"
            )
        if self.max_prompt_tokens is not None and self.max_prompt_tokens <= room:
            return Limit(self.max_prompt_tokens, "max_prompt_tokens")
        return Limit(room, f"context {policy.context} - max_new_tokens {self.max_new_tokens}")

    def _prompt(self, task: AskedTask, quotes: Quotes, policy: TextPolicy, limit: Limit) -> Prompt:
        chat = partial(self._chat, task)
        prompt = fit(policy, chat, quotes, limit=limit, too_long=self.too_long, each=self.each)
        needs = (*self.needs, self.each) if self.each else self.needs
        missing = [name for name in needs if not prompt.quoted.get(name)]
        if prompt.error or not missing:
            return prompt
        return Prompt(prompt.messages, prompt.ids, prompt.quoted, f"no {missing[0]} of this task to quote")

    def _chat(self, task: AskedTask, quotes: Quotes) -> list[dict[str, str]]:
        earlier = task.messages[:-1]
        system = [self.system] if self.system else []
        if earlier and earlier[0]["role"] == "system":
            system.append(earlier.pop(0)["content"])
        chat = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        for example in self.examples:
            chat.append({"role": "user", "content": example.user})
            chat.append({"role": "assistant", "content": example.assistant})
        text = fill(self.template, task, quotes, where=self.place.node)
        return [*chat, *earlier, {"role": "user", "content": text}]

    def _report(
        self, log: Log, prompts: list[Prompt], completions: list[list[Completion] | None], *, dropped: int
    ) -> None:
        """Log what the runner does not compute from the rows, as it does tokens, lengths and truncated completions."""
        log.metric("prompt_tokens", float(np.mean([len(p.ids) for p in prompts])) if prompts else 0.0)
        logprobs = [row.logprobs for rows in completions if rows is not None for row in rows if len(row.ids)]
        if logprobs:
            log.metric("entropy", -float(np.mean(np.concatenate(logprobs))))
        log.metric("failed", float(np.mean([bool(p.error) for p in prompts])) if prompts else 0.0)
        log.metric("quotes_dropped", dropped)
        log.metric("prompts_cut", sum(p.cut > 0 for p in prompts))
        if any(p.cut for p in prompts):
            log.fact("tokens_cut", [p.cut for p in prompts])


def _asked(row: Mapping[str, object]) -> AskedTask:
    id, messages, metadata = row["id"], row["messages"], row["metadata"]
    assert isinstance(id, str) and isinstance(messages, list) and isinstance(metadata, str)
    question = messages[-1]["content"] if messages else ""
    return AskedTask(id, question, json.loads(metadata) if metadata else {}, messages)


def _count(quotes: Iterable[Quotes]) -> int:
    return sum(len(rows) for quoted in quotes for rows in quoted.values())


class Chat(ChatGenerator, name="chat"):
    """Completes a chat a task whose template may quote upstream rollouts by the names that `context` gives them."""

    def run(
        self,
        tasks: Tasks,
        policy: TextPolicy,
        context: dict[str, Rollouts] | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        """Rows in the order of the tasks; raises `ParamError` where the template reads what is not in `context`."""
        upstream = context or {}
        for problem in self._unknown_names(upstream):
            raise ParamError(problem)
        return self.complete(tasks, policy, upstream, rng=rng, log=log, round=round, peer=peer)

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """What the template reads must be wired under `context`."""
        context = inputs.get("context")
        return self._unknown_names(context if isinstance(context, Mapping) else {})

    def _unknown_names(self, context: Collection[str]) -> list[str]:
        given = ", ".join(["task", *context])
        unknown = sorted(template_names(self.template) - set(context))
        return [f"template reads {name!r}, but is given {given}; wire it under `context`" for name in unknown]
