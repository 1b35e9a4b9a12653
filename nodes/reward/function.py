"""`reward.function`: a plain function with TRL's signature as a reward."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from genrl_graph.contract.graph_values import GraphValues
from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.nodes.functions.callables import call_here, worker_target
from genrl_graph.nodes.functions.named import NamedFunction
from genrl_graph.nodes.reward.scoring.arguments import arguments, split_calls
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.returned import numbers_of
from genrl_graph.nodes.reward.scoring.rows import Term, Texts, Verdict, call_until, judgeable, score_rows
from genrl_graph.nodes.worker.worker import Failure, WorkerError, WorkerRaised
from genrl_graph.nodes.worker.worker_main import call_factory, load_target
from genrl_graph.nodes.worker.worker_pool import Pool, shared_pool


class FunctionReward(Reward, name="function"):
    """The value of `function(prompts, completions, **columns)`: one number per completion, None for "cannot judge".

    It is called as TRL calls a reward (<https://huggingface.co/docs/trl/grpo_trainer>), and may be async. A function
    without an importable name (a lambda, a notebook cell) runs in this process and cannot be dumped. With `factory`,
    each process calls the factory once and uses the function that it returns. `format: chat` passes messages, as TRL
    does for chat data, so TRL's own rewards run unchanged; `text` passes strings, the messages of a prompt joined by
    blank lines. Columns are `answer`, the keys of the tasks' metadata, and ids, stage, round, finish reason and token
    ids of the rows.

    With `isolated` it runs in `workers` processes of at most `memory_mb` of address space each; a process that takes
    more than `timeout_s` seconds for a call is killed. In this process there are no limits. A call receives all rows
    of one peer, or `rows_per_call` of them, and never rows of two peers. If it raises, hangs, dies or does not return
    a list of that length, these rows are unjudged; a value that is not a finite number leaves its row unjudged. A
    worker runs one call at a time, async functions included: use more `workers` for parallel calls, or await the rows
    of one call together.
    """

    function: NamedFunction = Field(
        description="module:name of a function with TRL's signature, or of its factory; in Python the function itself"
    )
    factory: GraphValues | None = Field(
        default=None,
        description="keyword arguments of the factory that `function` then names; null: it is the function",
    )
    weight: float = Field(default=1.0, description="weight of the term in the reward")
    term: Term | None = Field(
        default=None, description="name of the term, whose column is reward_<term>; null: the function's name"
    )
    format: Literal["chat", "text"] = Field(
        default="chat", description="how prompts and completions are passed: as chat messages or as text"
    )
    columns: dict[str, str] = Field(
        default={}, description="further argument names and the columns that they pass, such as {solution: answer}"
    )
    isolated: bool = Field(
        default=True,
        description="whether it runs in worker processes, with limits; false: in this process, without any",
    )
    rows_per_call: int | None = Field(
        default=None, ge=1, description="rows that one call receives; null: the whole batch"
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="worker processes that calls are spread over; needs rows_per_call"
    )
    memory_mb: int | None = Field(
        default=None, ge=64, description="most address space of a worker in MiB; null: no limit"
    )
    timeout_s: float | None = Field(
        default=60.0,
        gt=0,
        description="seconds for a call, then the worker is killed and the rows stay unjudged (NaN); null: no limit",
    )
    _loaded: Callable[..., Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _workers_have_work(self) -> Self:
        if self.workers > 1 and self.rows_per_call is None:
            raise ValueError(f"workers is {self.workers}, but the whole batch is one call; set rows_per_call")
        for name, value, unlimited in (("workers", self.workers, 1), ("memory_mb", self.memory_mb, None)):
            if value != unlimited and not self._in_worker:
                reason = "isolated is false" if not self.isolated else f"{self._function_name} has no importable name"
                raise ValueError(f"{name} is {value}, but the function runs in this process: {reason}")
        return self

    @property
    def overlaps(self) -> bool:
        """Return True if a worker runs the function; in this process it may need the main thread (math-verify does)."""
        return self._in_worker

    def plain_params(self) -> dict[str, Any]:
        """Return the params as YAML writes them; raises `ParamError` for a function without an importable name."""
        if not isinstance(self.function, str):
            problem = f"{self.type_name}.function: {self._function_name} has no importable name"
            raise ParamError(f"{problem}; define it in a module that the script imports to write the graph to a file")
        return super().plain_params()

    def prepare(self) -> None:
        """Load the function; raises `RewardFailed` if that fails."""
        try:
            if self._in_worker:
                self._pool().start()
            else:
                self._function_here()
        except WorkerError as error:
            raise RewardFailed(f"{self._function_name}: {error}") from error

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward` and `reward_<term>` to the rollouts; the default term is the function's name.

        Raises `RewardFailed` if the function cannot be loaded or leaves more rows unjudged than `max_unjudged` allows.

        Inputs:
            rollouts: rows to judge
        """
        term = self.term or re.sub(r"\W", "_", self._function_name.rpartition(".")[2]).strip("_")

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            rows = rollouts.take(positions)
            keywords = arguments(rows, tasks, form=self.format, renamed=self.columns, where=self.place.node)
            calls = split_calls(keywords, self.rows_per_call)
            sizes = [len(call["completions"]) for call in calls]
            returned = zip(self._call(calls, until), sizes, strict=True)
            values = [value for result, size in returned for value in numbers_of(result, size)]
            terms = [value if isinstance(value, Failure) else {term: value} for value in values]
            return dict(zip(positions, terms, strict=True))

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        return score_rows(rollouts, verdicts, weights={term: self.weight}, node=self, log=log, peer=peer)

    @property
    def _function_name(self) -> str:
        if isinstance(self.function, str):
            return self.function.rpartition(":")[2]
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    @property
    def _in_worker(self) -> bool:
        return self.isolated and isinstance(self.function, str)

    def _call(self, calls: list[dict[str, list[Any]]], until: float) -> list[object]:
        """Return the value of each call, `Failure` for a call that raised, was killed or came after `until`."""
        try:
            if self._in_worker:
                return self._pool().map_rows(calls, until=until)
            function = self._function_here()
        except WorkerError as error:
            raise RewardFailed(f"{self.place.node}: {self._function_name}: {error}") from error
        return [call_until(until, _call_or_failure, function, keywords) for keywords in calls]

    def _pool(self) -> Pool:
        assert isinstance(self.function, str)
        target = worker_target(self.function)
        place = Path(target.rpartition(":")[0])
        return shared_pool(
            target,
            self.timeout_s or math.inf,
            size=self.workers,
            memory_mb=self.memory_mb,
            factory=None if self.factory is None else json.dumps(self.factory, sort_keys=True),
            changed=place.stat().st_mtime_ns if place.suffix == ".py" else 0,
        )

    def _function_here(self) -> Callable[..., Any]:
        """Load the function into this process; raises `WorkerRaised` if that fails, as a worker does."""
        if self._loaded is None:
            try:
                target = load_target(self.function) if isinstance(self.function, str) else self.function
                self._loaded = target if self.factory is None else call_factory(target, self.factory)
            except Exception as error:
                raise WorkerRaised.of(error) from error
        return self._loaded


def _call_or_failure(function: Callable[..., Any], keywords: dict[str, list[Any]]) -> object:
    try:
        return call_here(function, keywords)
    except Exception as error:  # the rows are recorded as not judged, with this reason
        return Failure(str(WorkerRaised.of(error)))
