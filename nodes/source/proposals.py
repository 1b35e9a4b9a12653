"""Base class of sources whose tasks a policy proposes: rows of a generator become tasks of the next one."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any, Self
from urllib.parse import quote, unquote

from pydantic import Field, PrivateAttr

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source, Wire
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.epoch import as_rows
from genrl_graph.nodes.update.level import Level

MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class Proposal:
    """A task that was proposed: what `Task` has but its id."""

    messages: list[dict[str, str]]
    answer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    raw: object = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A text that is no task: the rule by which it was dropped, and what is wrong with it."""

    rule: str
    reason: str


_KNOWN: OrderedDict[tuple[str, str], Proposal | Dropped] = OrderedDict()
"""Proposals by the params of the source and the text; the oldest are forgotten first."""
_LOCK = Lock()


class ProposalSource(Source):
    """Provides the tasks that completions propose, each once; those that are none are dropped by a rule, as recorded.

    The key of a task is the text that proposes it, so that every peer can make the task again, and by its own judgement
    alone. An evaluation uses `eval_proposals`, at any level.
    """

    max_chars: int = Field(default=4000, ge=1, le=2**16, description="most characters of a proposal; it is part of ids")
    max_answer: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description="most characters of an answer at each value of the input `level`; above the last, the last counts",
    )
    eval_proposals: tuple[str, ...] = Field(default=(), description="proposals whose tasks evaluations use")

    _evaluating: bool = PrivateAttr(default=False)

    def judge(self, texts: Sequence[str]) -> list[Proposal | Dropped]:
        """Return what each text proposes; the same text must always give the same. Override this."""
        raise NotImplementedError

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Report a limit of each level without a level, and a level that limits nothing."""
        if bool(self.max_answer) != ("level" in inputs):
            has, lacks = ("max_answer", "input `level`") if self.max_answer else ("input `level`", "max_answer")
            yield f"has {has}, but no {lacks}; give both, or neither"

    def run(self, rollouts: Rollouts, level: Level | None = None, *, log: Log) -> Tasks:
        """Return the tasks that the completions propose, in their order.

        Inputs:
            rollouts: completions of the proposer
            level: difficulty that `max_answer` refers to; without it answers are of any length
        """
        if self._evaluating:
            return as_rows([self.resolve(self.task_id(quote(text))) for text in self.eval_proposals])
        rows = rollouts.rows("id", "completion", "finish_reason")
        texts = {row["id"]: row["completion"] for row in rows if row["finish_reason"] != "failed"}
        judged = self._within(level, self._judged(list(dict.fromkeys(texts.values()))))
        dropped = {id: said for id, text in texts.items() if isinstance(said := judged[text], Dropped)}
        tasks = [self._task(text, said) for text, said in judged.items() if isinstance(said, Proposal)]
        log.metric("proposed", len(texts))
        log.metric("tasks", len(tasks))
        for rule in sorted({each.rule for each in dropped.values()}):
            log.metric(f"dropped/{rule}", sum(each.rule == rule for each in dropped.values()))
        columns = {
            "id": list(dropped),
            "rule": [each.rule for each in dropped.values()],
            "reason": [each.reason for each in dropped.values()],
        }
        log.rows("dropped", columns)
        return as_rows(tasks)

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for an id whose text proposes none."""
        node = self.place.node
        key = task_id.removeprefix(f"{node}/")
        text = proposed_text(key)
        if key == task_id or quote(text) != key:
            raise DataError(
                f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/<quoted proposal>"
            )
        said = self._judged([text])[text]
        if isinstance(said, Dropped):
            raise DataError(f"{node}: task {task_id[:200]!r}: {said.rule}: {said.reason}")
        return self._task(text, said)

    def prepare_to_resolve(self) -> None:
        """Do nothing: a task follows from its id."""

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that provides the tasks of `eval_proposals`, at most all."""
        if not self.eval_proposals:
            raise ParamError(f"{self.type_name}: has no tasks to evaluate on; give eval_proposals")
        copy = self.model_copy(update={"eval_proposals": self.eval_proposals[: how.num_tasks]})
        copy._evaluating = True
        return copy

    def _task(self, text: str, said: Proposal) -> Task:
        key = self.task_id(quote(text))
        return Task(key, said.messages, said.answer, said.metadata, raw=said.raw, kind=said.kind)

    def _within(
        self, level: Level | None, judged: Mapping[str, Proposal | Dropped]
    ) -> Mapping[str, Proposal | Dropped]:
        """Drop proposals whose answer is longer than the level allows."""
        if level is None:
            return judged
        most = self.max_answer[min(level.value, len(self.max_answer) - 1)]
        above = Dropped("above_level", f"the answer is longer than {most} characters, the most at level {level.value}")
        return {
            text: above if isinstance(said, Proposal) and len(said.answer) > most else said
            for text, said in judged.items()
        }

    def _judged(self, texts: Sequence[str]) -> Mapping[str, Proposal | Dropped]:
        """Return what each text proposes; one that was judged before is not judged again."""
        params = repr(self)
        with _LOCK:
            known = {text: _KNOWN[params, text] for text in texts if (params, text) in _KNOWN}
        fresh = [text for text in texts if text not in known]
        short = [text for text in fresh if len(text) <= self.max_chars]
        judged = dict(zip(short, self.judge(short), strict=True))
        long = f"is longer than max_chars, {self.max_chars}"
        judged |= {text: Dropped("too_long", long) for text in fresh if len(text) > self.max_chars}
        with _LOCK:
            _KNOWN.update({(params, text): said for text, said in judged.items() if not _may_change(said)})
            while len(_KNOWN) > MOST_KNOWN:
                _KNOWN.popitem(last=False)
        return {text: known.get(text) or judged[text] for text in texts}


TRANSIENT = ("wall", "not_run")
"""Rules by which a busy machine drops a text: another try may keep it."""


def _may_change(said: Proposal | Dropped) -> bool:
    return isinstance(said, Dropped) and said.rule in TRANSIENT


def proposed_text(key: str) -> str:
    """Return the proposal in the key of a task, "" if it is none."""
    try:
        return unquote(key, errors="strict")
    except UnicodeDecodeError:
        return ""
