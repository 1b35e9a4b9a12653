"""`reward.judge`: score completions with a language model and a rubric."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, JsonValue, PrivateAttr, field_validator, model_validator

from genrl_graph.contract.node import Reward, Wire
from genrl_graph.contract.policy import Sampling, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError
from genrl_graph.nodes.endpoint.client import (
    BaseUrl,
    Concurrency,
    Endpoint,
    Reply,
    Retries,
    RetryWait,
    TrySeconds,
    key_variable,
    read_key,
)
from genrl_graph.nodes.reward.llm_judge.judge_policy import ask_policy
from genrl_graph.nodes.reward.llm_judge.judge_prompt import TEMPLATE, Question, ask, check_rubric
from genrl_graph.nodes.reward.llm_judge.judge_replies import (
    PATTERN,
    CachePath,
    MemoryReplies,
    Replies,
    read_scores,
    replies_in,
)
from genrl_graph.nodes.reward.scoring.answers import extract_answer
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import Regex, Term, Texts, Verdict, judgeable, score_rows
from genrl_graph.nodes.worker.worker import Failure, OutOfTime
from genrl_graph.seeds import digest

MAX_STORED_CHARACTERS = 2000
QUESTIONS_AT_ONCE = 32  # to a wired policy, about rows of another peer
_SET_BY_NODE = ("messages", "model", "n", "stream")

Answers = Mapping[Question, Sequence[Reply | Failure]]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Judge(Reward, name="judge"):
    """Score that a language model gives a completion (arXiv 2306.05685), mapped from `scale` to 0..1.

    The judge is either a policy of the graph, wired as `judge` (such as a frozen carry), or a `model` behind an
    `endpoint`, the base URL of an OpenAI-compatible API. Its prompt is `system` and `template` (sandboxed Jinja). The
    template can use `task` (id, question, metadata, messages), the reference `answer`, the `completion`, a `mark` that
    the completion cannot contain, and the ends of the scale `low` and `high`. The score is the group of the last match
    of `pattern` in the judge's reply. A missing score, one outside the scale and a failed call give NaN, never 0. With
    `samples` above 1 the mean of the readable scores counts. Equal questions are asked once.

    A `request` of `{max_tokens: null, max_completion_tokens: 512}` suits an endpoint that wants the newer name. A
    request that fails for a while is tried again; the reply of an endpoint is kept for later rounds, in `cache` for
    later runs too.
    """

    endpoint: BaseUrl | None = Field(
        default=None,
        description="base URL of an OpenAI-compatible API, such as https://host/v1; null: the policy wired as `judge`",
    )
    model: str | None = Field(default=None, min_length=1, description="name under which the endpoint serves the judge")
    system: str = Field(default="", description="system message of the judge; empty: none")
    template: str = Field(
        default=TEMPLATE,
        description="Jinja template of the question; reads task, answer, completion, mark, low and high",
    )
    pattern: Regex = Field(
        default=PATTERN,
        description="regular expression whose one group is the score; its last match in the reply counts",
    )
    scale: tuple[Finite, Finite] = Field(
        default=(1.0, 10.0), description="worst and best score that the judge may give, mapped to 0 and 1"
    )
    weight: float = Field(default=1.0, description="weight of the term in the reward")
    term: Term = Field(default="judge", description="name of the term, whose column is reward_<term>")
    max_new_tokens: int = Field(default=512, ge=1, description="most tokens of the judge's reply")
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature of the judge; 0 is greedy")
    samples: int = Field(
        default=1,
        ge=1,
        description="replies per question, whose readable scores are averaged; above 1 it needs a temperature",
    )
    max_batch_tokens: int = Field(
        default=16384, ge=1, description="wired judge: most tokens of a sampling batch, rows times the longest"
    )
    api_key_env: str | None = Field(
        default=None, description="environment variable of the API key, JUDGE_...; null: no key"
    )
    request: dict[str, JsonValue] = Field(default={}, description="further keys of the request body; null removes one")
    timeout_s: TrySeconds = 60.0
    retries: Retries = 3
    retry_wait_s: RetryWait = 1.0
    concurrency: Concurrency = 8
    cache: CachePath | None = Field(
        default=None,
        description="sqlite file that keeps replies for later runs; null: they are kept in memory for later rounds",
    )

    _memory: MemoryReplies | None = PrivateAttr(default=None)
    _is_dry: bool = PrivateAttr(default=False)

    @field_validator("template")
    @classmethod
    def _shows_the_completion(cls, template: str) -> str:
        check_rubric(template)
        return template

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, pattern: str) -> str:
        if re.compile(pattern).groups != 1:
            raise ValueError("a pattern of a verdict has one group: put (...) around the number, (?:...) elsewhere")
        return pattern

    @field_validator("scale")
    @classmethod
    def _ascends(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] >= scale[1]:
            raise ValueError("a scale is [worst, best] with worst < best")
        return scale

    _has_prefix = field_validator("api_key_env")(key_variable("JUDGE_"))

    @field_validator("request")
    @classmethod
    def _keeps_node_keys(cls, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in request:
            if name in _SET_BY_NODE:
                raise ValueError(f"{name!r} is set by this node; leave it out")
        return request

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples is {self.samples}, but greedy verdicts are all alike; set temperature above 0")
        if self.endpoint is not None and self.model is None:
            raise ValueError("endpoint needs `model`, the name under which it serves the judge")
        for name in ("model", "api_key_env", "request", "cache"):
            if self.endpoint is None and getattr(self, name):
                raise ValueError(f"{name} is for an endpoint, but none is set; set endpoint, or leave {name} out")
        return self

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Report two judges or none: the node needs either a policy or an endpoint."""
        return self._judge_problems(wired="judge" in inputs)

    def prepare(self) -> None:
        """Check the API key and open the cache; raises `ParamError` or `StoreError` if one is missing or unusable."""
        if self.endpoint is not None and not self._is_dry:
            read_key(self.api_key_env)
            with self._replies():
                pass

    def dry(self) -> "Judge":
        """Return a copy that asks no model: each score is one end of the scale, chosen by the question's digest.

        A pattern that cannot read "Score: <number>" is replaced by the default one.
        """
        readable = all(extract_answer(_score_line(end), self.pattern) == f"{end:.17g}" for end in self.scale)
        copy = self.model_copy(update={} if readable else {"pattern": PATTERN})
        copy._is_dry = True
        return copy

    def run(
        self,
        rollouts: Texts,
        judge: TextPolicy | None = None,
        *,
        rng: np.random.Generator,
        tasks: TaskBook,
        log: Log,
        peer: str = "",
    ) -> Scored[Texts]:
        """Add `reward` and `reward_<term>` to the rollouts; log the judge's replies in the table `verdicts`.

        Inputs:
            rollouts: rows to judge
            judge: policy that judges; without it `endpoint` does
        """
        for problem in self._judge_problems(wired=judge is not None):
            raise ParamError(f"{self.place.node}: {problem}")
        counts = Counter[str]()
        question_of: dict[int, Question] = {}
        answers: dict[Question, Sequence[Reply | Failure]] = {}
        scores: dict[Question, list[float | Failure]] = {}

        def judge_rows(positions: list[int], until: float) -> dict[int, Verdict]:
            asked = self._questions(rollouts, positions, tasks)
            fresh = [question for question in dict.fromkeys(asked.values()) if not _is_answered(question, answers)]
            replies = self._ask(judge, fresh, until, rng, counts)
            scores.update(self._scores(replies))
            answers.update(replies)
            question_of.update(asked)
            return {at: self._verdict(scores[question]) for at, question in asked.items()}

        by_author = partial(judge_by_author, peer=peer, seconds=self.peer_seconds, log=log)
        verdicts = by_author(rollouts, judgeable(rollouts), judge_rows)
        for name in () if self._is_dry else ("requests", "retries", "cache_hits")[:: 1 if judge is None else 2]:
            hits = len(question_of) * self.samples - counts["missing"]
            log.metric(name, hits if name == "cache_hits" else counts[name])
        _record(rollouts, question_of, answers, scores, log)
        return score_rows(rollouts, verdicts, weights={self.term: self.weight}, node=self, log=log, peer=peer)

    def _ask(
        self,
        judge: TextPolicy | None,
        questions: Sequence[Question],
        until: float,
        rng: np.random.Generator,
        counts: Counter[str],
    ) -> Answers:
        """Return the replies to the questions, `OutOfTime` for those that come after the monotonic time `until`."""
        if self._is_dry:
            return {question: [_dry_reply(question, self.scale)] for question in questions}
        if judge is None:
            return self._ask_endpoint(questions, until, counts)
        counts["missing"] += len(questions) * self.samples
        return self._ask_policy(judge, questions, until, rng, counts)

    def _judge_problems(self, *, wired: bool) -> list[str]:
        if wired and self.endpoint is not None:
            return ["has a policy as `judge` and an endpoint; leave one of the two out"]
        if not wired and self.endpoint is None:
            return ["has no judge; wire a policy as input `judge`, or set the params endpoint and model"]
        return []

    def _questions(self, rollouts: Rollouts, positions: Iterable[int], tasks: TaskBook) -> dict[int, Question]:
        ids, completions = rollouts.values("task_id"), rollouts.values("completion")
        return {
            at: ask(
                tasks[ids[at]],
                completions[at],
                system=self.system,
                template=self.template,
                scale=self.scale,
                where=self.place.node,
            )
            for at in positions
        }

    def _ask_policy(
        self,
        judge: TextPolicy,
        questions: Sequence[Question],
        until: float,
        rng: np.random.Generator,
        counts: Counter[str],
    ) -> Answers:
        """Ask the wired policy; replies are not cached across rounds, so a resumed run gives the same ones.

        With a time limit it is asked in pieces: nothing can end a piece.
        """
        size = len(questions) if math.isinf(until) else QUESTIONS_AT_ONCE
        answers: dict[Question, Sequence[Reply | Failure]] = {}
        for start in range(0, len(questions), max(size, 1)):
            piece = questions[start : start + size]
            if time.monotonic() >= until:
                answers |= {question: [OutOfTime()] for question in piece}
                continue
            counts["requests"] += len(piece) * self.samples
            answers |= ask_policy(
                judge,
                piece,
                samples=self.samples,
                sampling=Sampling(self.max_new_tokens, self.temperature),
                rng=rng,
                max_batch_tokens=self.max_batch_tokens,
                node=self.place.node,
            )
        return answers

    def _ask_endpoint(self, questions: Sequence[Question], until: float, counts: Counter[str]) -> Answers:
        """Ask the endpoint for the replies that the cache lacks."""
        bodies = {question: self._body(question) for question in questions}
        keys = {question: [self._key(body, at) for at in range(self.samples)] for question, body in bodies.items()}
        endpoint = self._client()
        with self._replies() as replies:
            requests = {key: bodies[question] for question in questions for key in keys[question]}
            cached = {key: reply for key in requests if (reply := replies.get(key)) is not None}
            missing = {key: body for key, body in requests.items() if key not in cached}
            answers = cached | endpoint.ask(missing, keep=replies.put, until=until)
        counts.update(requests=endpoint.requests, retries=endpoint.retries, missing=len(missing))
        return {question: [answers[key] for key in keys[question]] for question in questions}

    def _body(self, question: Question) -> dict[str, JsonValue]:
        """Return the request body for one reply, without the keys that `request` sets to null."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": question.messages,
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
        }
        return {name: value for name, value in (body | self.request).items() if value is not None}

    def _key(self, body: Mapping[str, JsonValue], sample: int) -> str:
        assert self.endpoint is not None
        return digest(("judge", self.endpoint, json.dumps(body, sort_keys=True), sample))

    def _client(self) -> Endpoint:
        assert self.endpoint is not None
        return Endpoint.of(self.endpoint, self, who="the judge")

    def _replies(self) -> AbstractContextManager[Replies]:
        if self.cache is not None:
            return replies_in(Path(self.cache))
        if self._memory is None:
            self._memory = MemoryReplies()
        return nullcontext(self._memory)

    def _scores(self, answers: Answers) -> dict[Question, list[float | Failure]]:
        """Return, by question, the score of each reply in 0..1, or why it has none."""
        replies = list(dict.fromkeys(a for samples in answers.values() for a in samples if isinstance(a, Reply)))
        values = read_scores(replies, pattern=self.pattern, scale=self.scale, node=self.place.node)
        scores = dict(zip(replies, values, strict=True))
        return {q: [scores[a] if isinstance(a, Reply) else a for a in samples] for q, samples in answers.items()}

    def _verdict(self, scores: Sequence[float | Failure]) -> Verdict:
        """Return the mean of the readable scores, or the first failure if there are none."""
        numbers = [score for score in scores if not isinstance(score, Failure)]
        failures = [score for score in scores if isinstance(score, Failure)]
        return {self.term: float(np.mean(numbers))} if numbers else failures[0]


def _is_answered(question: Question, answers: Answers) -> bool:
    """Return whether a question was asked; one that lacked time is asked again for another author."""
    return question in answers and not any(isinstance(answer, OutOfTime) for answer in answers[question])


def _record(
    rollouts: Rollouts,
    question_of: Mapping[int, Question],
    answers: Answers,
    scores: Mapping[Question, Sequence[float | Failure]],
    log: Log,
) -> None:
    """Log the table `verdicts`: row id, sample, the judge's reply and the score read from it (or NaN)."""
    table: list[tuple[str, int, str, float]] = []
    ids = rollouts.values("id")
    for at, question in question_of.items():
        for sample, (reply, score) in enumerate(zip(answers[question], scores[question], strict=True)):
            if isinstance(reply, Reply):
                number = math.nan if isinstance(score, Failure) else score
                table.append((ids[at], sample, _shortened(reply.text), number))
    log.metric("unparsable", sum(math.isnan(score) for *_, score in table))
    names = ("id", "sample", "verdict", "score")
    log.rows("verdicts", {name: [row[at] for row in table] for at, name in enumerate(names)})


def _shortened(text: str) -> str:
    half = MAX_STORED_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"


def _dry_reply(question: Question, scale: tuple[float, float]) -> Reply:
    return Reply(_score_line(scale[int(digest((question.system, question.text)), 16) % 2]))


def _score_line(number: float) -> str:
    return f"Score: {number:.17g}"
