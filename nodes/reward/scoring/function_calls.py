"""Base class of rewards that call a function, in this process or in workers, with limits on time and memory."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from genrl_graph.contract.graph_values import GraphValues
from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.nodes.functions.callables import call_here, worker_target
from genrl_graph.nodes.functions.named import NamedFunction
from genrl_graph.nodes.reward.scoring.arguments import split_calls
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.returned import numbers_of
from genrl_graph.nodes.reward.scoring.rows import Term, Verdict, call_until, judgeable, score_rows
from genrl_graph.nodes.worker.worker import Failure, WorkerError, WorkerRaised
from genrl_graph.nodes.worker.worker_main import call_factory, load_target
from genrl_graph.nodes.worker.worker_pool import Pool, shared_pool

Keywords = Mapping[str, list[Any]]
"""Keyword arguments of a function: for each name a list of one value per row."""


class CallingReward(Reward):
    """The value of `function(**columns)`: one number per row, None for "cannot judge".

    With `factory`, each process calls the factory once and uses the function that it returns. With `isolated` it runs
    in `workers` processes of at most `memory_mb` of address space each; a process that takes more than `timeout_s`
    seconds for a call is killed. In this process there are no limits. A call receives all rows of one peer, or
    `rows_per_call` of them, and never rows of two peers.
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

    def scored(self, rows: R, keywords: Callable[[R], Keywords], *, log: Log, peer: str) -> Scored[R]:
        """Add `reward` and `reward_<term>` to the rows; `keywords` are the arguments for some of them.

        The default term is the function's name. Raises `RewardFailed` if the function cannot be loaded or leaves more
        rows unjudged than `max_unjudged` allows.
        """
        term = self.term or re.sub(r"\W", "_", self._function_name.rpartition(".")[2]).strip("_")

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            calls = split_calls(keywords(rows.take(positions)), self.rows_per_call)
            sizes = [len(next(iter(call.values()))) for call in calls]
            returned = zip(self._call(calls, until), sizes, strict=True)
            values = [value for result, size in returned for value in numbers_of(result, size)]
            terms = [value if isinstance(value, Failure) else {term: value} for value in values]
            return dict(zip(positions, terms, strict=True))

        verdicts = judge_by_author(rows, judgeable(rows), judge, peer=peer, seconds=self.peer_seconds, log=log)
        return score_rows(rows, verdicts, weights={term: self.weight}, node=self, log=log, peer=peer)

    @property
    def _function_name(self) -> str:
        if isinstance(self.function, str):
            return self.function.rpartition(":")[2]
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    @property
    def _in_worker(self) -> bool:
        return self.isolated and isinstance(self.function, str)

    def _call(self, calls: Sequence[Keywords], until: float) -> list[object]:
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
        place = Path(worker_target(self.function).rpartition(":")[0])
        target, factory = self._worker_function()
        return shared_pool(
            target,
            self.timeout_s or math.inf,
            size=self.workers,
            memory_mb=self.memory_mb,
            factory=None if factory is None else json.dumps(factory, sort_keys=True),
            changed=place.stat().st_mtime_ns if place.suffix == ".py" else 0,
        )

    def _worker_function(self) -> tuple[str, Mapping[str, Any] | None]:
        """Return the target that a worker runs, and the arguments if that is a factory."""
        assert isinstance(self.function, str)
        return worker_target(self.function), self.factory

    def _function_here(self) -> Callable[..., Any]:
        """Load the function into this process; raises `WorkerRaised` if that fails, as a worker does."""
        if self._loaded is None:
            try:
                target = load_target(self.function) if isinstance(self.function, str) else self.function
                self._loaded = target if self.factory is None else call_factory(target, self.factory)
            except Exception as error:
                raise WorkerRaised.of(error) from error
        return self._loaded


def _call_or_failure(function: Callable[..., Any], keywords: Keywords) -> object:
    try:
        return call_here(function, keywords)
    except Exception as error:  # the rows are recorded as not judged, with this reason
        return Failure(str(WorkerRaised.of(error)))
