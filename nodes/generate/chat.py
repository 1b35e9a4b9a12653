"""`generate.chat`: a policy completes one chat per task; and the base class of all chat generators."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Wire
from genrl_graph.contract.origins import Alike, Per
from genrl_graph.contract.policy import Completion, TextPolicy, VisionPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.png import encode_png
from genrl_graph.edge_types.rollouts import Rollouts, Tasks
from genrl_graph.errors import ParamError
from genrl_graph.nodes.generate.prompting.examples import Examples, example_messages
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, check_template, fill, reads_prompts, template_names
from genrl_graph.nodes.generate.prompting.quoting import (
    Prompt,
    PromptLimit,
    Quotable,
    Quotes,
    TooLong,
    branches,
    fit,
)
from genrl_graph.nodes.generate.prompting.rows import rollout_rows
from genrl_graph.nodes.generate.text_generator import TextGenerator


class ChatGenerator(TextGenerator):
    """Completes one chat per task; in a subclass, `run` passes named upstream rollouts to `complete`.

    The chat is system, examples, the task's earlier messages, and `template` (sandboxed Jinja) in place of its last
    message. The template sees `task` (id, question, metadata, messages; never the answer) and each upstream input as
    a list of rows with number, completion, prompt, peer and id; failed rows are left out. `quote` limits the rows per
    peer.

    A prompt must fit in `max_prompt_tokens` and in the policy's context length minus `max_new_tokens`. `too_long` says
    what happens otherwise: `refuse` fails the row, `drop_quoted` leaves out the last quoted rows, `cut_left` drops the
    first tokens. `parent_ids` are the ids of the quoted rows, input by input in the order of their numbers: with one
    input, parent_ids[k - 1] is number k. Inputs that the template does not use are no parents.

    `each` names an input to branch on: a task then has one prompt per row of it, and the template sees that input as a
    list of this one row, under its number. The other inputs stay whole, and `num_generations` counts per prompt. This
    gives each critique its own revisions, from which `advantage.backup` computes which critique helped. Rows of equal
    text give equal prompts and share a group, and so a baseline. `unbranched: skip` leaves out a task without a row to
    branch on, as in a search tree whose branches of the task have all ended.

    `show_image` puts the image of the task before the text of the user message. Rows then keep its PNG in `image`, from
    which updates compute log-probs; other peers do not get it, and their rows are not trained on.
    """

    system: str = Field(default="", description="system message, put before one that the task has; empty: none")
    template: str = Field(
        default="{{ task.question }}",
        description="Jinja template of the user message; reads `task` and the inputs under `context` by name",
    )
    examples: Examples = ()
    num_generations: int = Field(default=1, ge=1, description="completions to sample per prompt, which form a group")
    max_prompt_tokens: int | None = Field(
        default=None,
        ge=1,
        description="most tokens of a prompt; null: the policy's context length minus max_new_tokens",
    )
    too_long: TooLong = "refuse"
    quote: int | None = Field(
        default=None,
        ge=1,
        description="most rows of one peer that a prompt quotes from an input, drawn at random; null: all",
    )
    each: str = Field(
        default="", description="input to branch on: one prompt per row of it; empty: one prompt per task"
    )
    unbranched: Literal["fail", "skip"] = Field(
        default="fail",
        description="a task without a row of `each`: fail its rows, or leave the task out (skip)",
    )
    show_image: bool = Field(
        default=False,
        description="show the image of each task before the user message; wants tasks of source.folder or "
        "source.images, and a policy that sees, such as policy.vlm",
    )
    needs: ClassVar[tuple[str, ...]] = ()  # inputs that a prompt must quote; without a row of each, the prompt fails

    @model_validator(mode="after")
    def _template_is_readable(self) -> Self:
        inputs = [s for s in type(self).signature.inputs if issubclass(s.pattern.bound.base, Rollouts)]
        open_names = any(socket.many == "dict" for socket in inputs)
        check_template(self.template, None if open_names else [socket.name for socket in inputs])
        names = sorted(template_names(self.template))
        if self.each and self.each not in names:
            known = f"one of {', '.join(names)}" if names else "an input that the template quotes; it quotes none"
            raise ValueError(f"each is {self.each!r}, which the template does not quote; name {known}")
        if self.unbranched == "skip" and not self.each:
            raise ValueError(
                "unbranched is skip, but each is empty, so every task has a prompt; set each, or leave it out"
            )
        if self.show_image and self.too_long == "cut_left":
            raise ValueError("too_long is cut_left, which would cut an image; use refuse or drop_quoted")
        return self

    @property
    def group_size(self) -> int:
        """Return `num_generations`."""
        return self.num_generations

    @property
    def branches_on(self) -> str:
        """Return `each`."""
        return self.each

    def alike(self, per: Per) -> Alike | None:
        """Return the param by which a prompt has one row or equal ones; with `each`, a task has several prompts."""
        if self.each and per == "task":
            return None
        if self.num_generations == 1:
            return Alike("a single row", "num_generations", 1, "to 2 or more")
        return Alike("equal rows", "temperature", 0, "above 0") if self.temperature == 0 else None

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy with the number of generations and the temperature of the evaluation, where it sets them."""
        settings = {"num_generations": how.num_generations, "temperature": how.temperature}
        return self.model_copy(update={name: value for name, value in settings.items() if value is not None})

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
        """Sample `num_generations` rows per prompt, in task order, in one call of the policy.

        Prompts that do not fit, or lack a row that they must quote, give failed rows. Raises `ParamError` if
        `max_new_tokens` leaves no room for a prompt.
        """
        limit = self._limit(policy)
        branched = self._branches(tasks, upstream, rng)
        images = self._images(tasks, policy)
        prompts = [self._prompt(task, quotes, policy, limit, images.get(task.id, b"")) for task, quotes in branched]
        completions = self._sample(policy, prompts, rng)
        dropped = _count(quotes for _, quotes in branched) - _count(prompt.quoted for prompt in prompts)
        self._report(log, prompts, completions, dropped=dropped)
        return rollout_rows(
            self.place,
            policy,
            [task.id for task, _ in branched],
            prompts,
            completions,
            num_generations=self.num_generations,
            sampling=self._sampling,
            round=round,
            peer=peer,
        )

    def _branches(
        self, tasks: Tasks, upstream: Mapping[str, Rollouts], rng: np.random.Generator
    ) -> list[tuple[AskedTask, Quotes]]:
        """Return one (task, quotes) pair per prompt."""
        used = template_names(self.template)
        quoted = {name: rows for name, rows in upstream.items() if name in used}
        quotable = Quotable(quoted, with_prompts=reads_prompts(self.template))
        pairs: list[tuple[AskedTask, Quotes]] = []
        for task in map(_asked_task, tasks.rows("id", "messages", "metadata")):
            quotes = quotable.of(task.id, per_peer=self.quote, rng=rng)
            pairs += [(task, branch) for branch in branches(quotes, self.each, skip=self.unbranched == "skip")]
        return pairs

    def _images(self, tasks: Tasks, policy: TextPolicy) -> dict[str, bytes]:
        """Return the encoded image of each task by its id; none unless they are shown."""
        if not self.show_image:
            return {}
        where = f"{self.place.node}.show_image"
        if "image" not in tasks.columns:
            raise ParamError(f"{where}: its tasks have no images; use source.folder or source.images, or leave it out")
        if not isinstance(policy, VisionPolicy):
            raise ParamError(f"{where}: policy {policy.name!r} sees no images; use policy.vlm, or leave it out")
        return dict(zip(tasks.values("id"), map(encode_png, tasks.numpy("image")), strict=True))

    def _sample(
        self, policy: TextPolicy, prompts: list[Prompt], rng: np.random.Generator
    ) -> list[list[Completion] | None]:
        """Return the completions of each prompt, None for prompts with an error."""
        valid = [prompt for prompt in prompts if not prompt.error]
        if not valid:
            return [None] * len(prompts)
        ids, images = [prompt.ids for prompt in valid], [prompt.image for prompt in valid]
        generate = partial(policy.generate, ids)
        if isinstance(policy, VisionPolicy) and any(images):
            generate = partial(policy.generate_with_images, ids, images)
        completions = iter(
            generate(
                num_generations=self.num_generations,
                sampling=self._sampling,
                rng=rng,
                max_batch_tokens=self.max_batch_tokens,
            )
        )
        return [None if prompt.error else next(completions) for prompt in prompts]

    def _limit(self, policy: TextPolicy) -> PromptLimit:
        room = self._room(policy)
        most = self.max_prompt_tokens if policy.counts_tokens else None
        if most is not None and most <= room:
            return PromptLimit(most, "max_prompt_tokens")
        return PromptLimit(room, f"context {policy.context_length} - max_new_tokens {self.max_new_tokens}")

    def _prompt(self, task: AskedTask, quotes: Quotes, policy: TextPolicy, limit: PromptLimit, image: bytes) -> Prompt:
        chat = partial(self._chat, task)
        prompt = fit(policy, chat, quotes, limit=limit, too_long=self.too_long, each=self.each, image=image)
        needs = (*self.needs, self.each) if self.each else self.needs
        missing = [name for name in needs if not prompt.quoted.get(name)]
        if prompt.error or not missing:
            return prompt
        return replace(prompt, error=f"no {missing[0]} of this task to quote", tokens_cut=0)

    def _chat(self, task: AskedTask, quotes: Quotes) -> list[dict[str, str]]:
        earlier = task.messages[:-1]
        system = [self.system] if self.system else []
        if earlier and earlier[0]["role"] == "system":
            system.append(earlier.pop(0)["content"])
        chat = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        text = fill(self.template, task, quotes, where=self.place.node)
        return [*chat, *example_messages(self.examples), *earlier, {"role": "user", "content": text}]

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
        log.metric("prompts_cut", sum(p.tokens_cut > 0 for p in prompts))
        if any(p.tokens_cut for p in prompts):
            log.fact("tokens_cut", [p.tokens_cut for p in prompts])


def _asked_task(row: Mapping[str, object]) -> AskedTask:
    id, messages, metadata = row["id"], row["messages"], row["metadata"]
    assert isinstance(id, str) and isinstance(messages, list) and isinstance(metadata, str)
    question = messages[-1]["content"] if messages else ""
    return AskedTask(id, question, json.loads(metadata) if metadata else {}, messages)


def _count(quotes: Iterable[Quotes]) -> int:
    return sum(len(rows) for quoted in quotes for rows in quoted.values())


class Chat(ChatGenerator, name="chat"):
    """Completes one chat per task; the template may quote the upstream rollouts wired under `context`, by name."""

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
        """Sample completions, in task order; raises `ParamError` if the template uses a name not in `context`.

        Inputs:
            tasks: chats to complete
            policy: policy that samples
            context: upstream rows that the template may quote, by the name it quotes them under
        """
        upstream = context or {}
        for problem in self._unknown_names(upstream):
            raise ParamError(problem)
        return self.complete(tasks, policy, upstream, rng=rng, log=log, round=round, peer=peer)

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Yield a problem for each name that the template uses and `context` does not wire."""
        context = inputs.get("context")
        return self._unknown_names(context if isinstance(context, Mapping) else {})

    def _unknown_names(self, context: Collection[str]) -> list[str]:
        known = ", ".join(["task", *context])
        unknown = sorted(template_names(self.template) - set(context))
        return [f"template reads {name!r}, but is given {known}; wire it under `context`" for name in unknown]
