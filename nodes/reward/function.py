"""`reward.function`: a plain function with TRL's signature as a reward."""

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from genrl_graph import registry
from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.frames import Scored
from genrl_graph.node import Reward
from genrl_graph.nodes.reward.callables import call_here, find, importable_name, worker_target
from genrl_graph.nodes.reward.rows import Term, Texts, Verdict, judgeable, score_rows, shared_worker
from genrl_graph.nodes.reward.worker import Failure, WorkerError
from genrl_graph.resources import Log, Task, TaskBook

PASSED = (
    "id",
    "task_id",
    "group_id",
    "parent_ids",
    "peer",
    "node",
    "stage",
    "round",
    "sample",
    "policy_version",
    "finish",
    "prompt_ids",
    "completion_ids",
)
_NAME = re.compile(r"(?!.*\.py:)[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


class FunctionReward(Reward, name="function"):
    """Pays what `function(prompts, completions, **columns)` returns: one number a completion, None for "cannot judge".

    The function may be async. It is `module:name`, or in Python the function itself; one without an importable
    name (a lambda, a notebook cell) runs in this process and cannot be dumped. `format: chat` passes messages, as TRL
    does for chat data, so that TRL's own rewards run unchanged; `text` passes strings, the messages of a prompt
    joined by blank lines. Columns are `answer`, the keys of the tasks' metadata, ids, token ids (`PASSED`), and
    further names for these given in `columns`, such as `{solution: answer}`. `isolated` runs it in a worker process
    that is killed when a batch takes `timeout_s` seconds; in this process no limit can be kept.
    """

    function: str | Callable[..., Any]
    weight: float = 1.0
    term: Term | None = None
    format: Literal["chat", "text"] = "chat"
    columns: dict[str, str] = {}
    isolated: bool = True
    timeout_s: float | None = Field(60.0, gt=0)

    @field_validator("function", mode="before")
    @classmethod
    def _by_name(cls, function: object) -> object:
        return (importable_name(function) or function) if callable(function) else function

    @field_validator("function")
    @classmethod
    def _nameable(cls, function: object, info: ValidationInfo) -> object:
        if not isinstance(function, str):
            return function
        if not _NAME.fullmatch(function):
            raise ValueError(
                f"{function!r} is no function name; write module:name (a file: --import it, then stem:name)"
            )
        if info.context is not None:  # a graph file, perhaps a stranger's
            _may_run(*function.split(":"))
        return function

    def plain_params(self) -> dict[str, Any]:
        """The params as YAML has them; raises `ParamError` for a function that no file can name."""
        if not isinstance(self.function, str):
            what = f"{self.type_name}.function: {self._shown} has no importable name"
            raise ParamError(f"{what}; define it at the top of a module to write this graph to a file")
        return super().plain_params()

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log) -> Scored[Texts]:
        """The rollouts with `reward` and `reward_<term>`; the default term is the function's name.

        Raises `RewardFailed` where the function raises, hangs, or returns anything but one finite number or None a row.
        """
        positions = judgeable(rollouts)
        verdicts: dict[int, Verdict] = {}
        term = self.term or re.sub(r"\W", "_", self._shown.rpartition(".")[2]).strip("_")
        if positions:
            rows = rollouts.take(positions)
            keywords = self._keywords(rows.rows(*PASSED, "messages", "completion"), tasks)
            values = self._numbers(self._call(keywords), len(positions))
            nothing = Failure(f"{self._shown} returned None or NaN")
            paid = [nothing if value is None else {term: value} for value in values]
            verdicts = dict(zip(positions, paid, strict=True))
        return score_rows(rollouts, verdicts, weights={term: self.weight}, node=self, log=log)

    @property
    def _shown(self) -> str:
        if isinstance(self.function, str):
            return self.function.rpartition(":")[2]
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def _keywords(self, rows: list[dict[str, Any]], tasks: TaskBook) -> dict[str, Any]:
        known = [tasks[row["task_id"]] for row in rows]
        chat = self.format == "chat"
        keywords: dict[str, Any] = {
            "prompts": [row["messages"] if chat else _text(row["messages"]) for row in rows],
            "completions": [_reply(row["completion"]) if chat else row["completion"] for row in rows],
            "answer": [task.answer for task in known],
            **{name: [row[name] for row in rows] for name in PASSED},
        }
        keywords = _metadata(known) | keywords
        for name, source in self.columns.items():
            if source not in keywords:
                there = ", ".join(keywords)
                raise RewardFailed(
                    f"{self.place.node}: columns.{name}: no column {source!r} to pass; there are {there}"
                )
            keywords[name] = keywords[source]
        return keywords

    def _call(self, keywords: Mapping[str, Any]) -> object:
        where = f"{self.place.node}: {self._shown}"
        if self.isolated and isinstance(self.function, str):
            target = worker_target(self.function)
            place = Path(target.rpartition(":")[0])
            changed = place.stat().st_mtime_ns if place.suffix == ".py" else 0
            try:
                return shared_worker(target, self.timeout_s or math.inf, changed).call((), keywords)
            except WorkerError as error:
                raise RewardFailed(f"{where}: {error}") from error
        try:
            function = find(self.function) if isinstance(self.function, str) else self.function
            return call_here(function, keywords)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RewardFailed(f"{where}: {reason}") from error

    def _numbers(self, returned: object, rows: int) -> list[float | None]:
        where = f"{self.place.node}: {self._shown}"
        to_list = getattr(returned, "tolist", None)
        values = to_list() if callable(to_list) else returned
        if not isinstance(values, list | tuple):
            raise RewardFailed(f"{where}: returned {type(returned).__name__}; return a list of numbers")
        if len(values) != rows:
            raise RewardFailed(f"{where}: returned {len(values)} values for {rows} completions; return one for each")
        return [self._number(value, where) for value in values]

    def _number(self, value: object, where: str) -> float | None:
        item = getattr(value, "item", None)
        plain = item() if callable(item) else value
        if plain is None or (isinstance(plain, float) and math.isnan(plain)):
            return None
        if not isinstance(plain, int | float) or math.isinf(plain):
            raise RewardFailed(f"{where}: returned {value!r}; return finite numbers, or None for what it cannot judge")
        return float(plain)


def _may_run(module: str, qualname: str) -> None:
    """Raise `ValueError` for a module that nobody allowed, and for a name that an imported one does not have."""
    if not registry.consented(module):
        advice = f"add `--import {module}`, or `--import` and the path of {module}.py, to allow it"
        raise ValueError(f"a graph file may not run {module!r} by itself; {advice}")
    first, known = qualname.partition(".")[0], sys.modules.get(module)
    if known is not None and first not in dir(known) and not hasattr(known, first):
        raise ValueError(f"module {module!r} has no {first!r}{registry.did_you_mean(first, dir(known))}")


def _text(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _reply(completion: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion}]


def _metadata(tasks: list[Task]) -> dict[str, list[Any]]:
    """One list a metadata key; None where a task does not have it."""
    names = dict.fromkeys(name for task in tasks for name in task.metadata)
    return {name: [task.metadata.get(name) for task in tasks] for name in names}
