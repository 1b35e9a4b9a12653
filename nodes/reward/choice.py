"""`reward.choice`: reward a critique for choosing the student whose answer is correct."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, Literal

from pydantic import Field, field_validator

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import PeerRollouts, Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.math import judge_maths
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import (
    Regex,
    Texts,
    Verdict,
    call_together,
    extract_answers,
    judgeable,
    score_rows,
)
from genrl_graph.nodes.worker.worker import Failure

_CHOICE = re.compile(
    r"\bchoice\W{0,4}:\W{0,4}(?:(?P<none>none)\b|student\s{0,4}#\s{0,4}(?P<number>[0-9]{1,9}))", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice of a critique: Student #`number`, or none (number 0)."""

    number: int


def read_choice(critique: str, pattern: str | None = None) -> Choice | None:
    """Parse the last "Choice: Student #k" or "Choice: none" of a critique; None if there is no well-formed one.

    With `pattern`, read the number in the first group of its last match instead; 0 means none.
    """
    if pattern is not None:
        numbers = [match[1] for match in re.finditer(pattern, critique)]
        return Choice(int(numbers[-1])) if numbers and numbers[-1].isdecimal() else None
    matches = list(_CHOICE.finditer(critique))
    if not matches:
        return None
    last = matches[-1]
    number = 0 if last["none"] else int(last["number"])
    return Choice(number) if last["none"] or number > 0 else None


def read_numbers(calls: list[dict[str, str]]) -> list[int | None]:
    """Return the chosen number for each call's keywords of `read_choice`; runs in a worker process."""
    choices = [read_choice(call["critique"], call["pattern"]) for call in calls]
    return [None if choice is None else choice.number for choice in choices]


class ChoiceReward(Reward, name="choice"):
    """Rewards a critique for a well-formed choice (`format`), for one that `exists`, and for a `correct` one.

    Student #k is the row of `answers` with id `parent_ids[k - 1]`. This node judges its answer against the task of the
    reader's own source, by math-verify or by exact match. "none" earns no `exists`, and is correct if no quoted answer
    is. Patterns and math-verify run in worker processes with a limit of `timeout_s` seconds per row.
    """

    format: float = Field(0.5, description="reward of a well-formed choice")
    exists: float = Field(0.5, description="reward of choosing a student that was quoted")
    correct: float = Field(1.0, description="reward of choosing a correct answer, or none where all are wrong")
    judge: Literal["math", "exact"] = Field(
        "math", description="how answers are compared with the task's: by math-verify, or as equal text (exact)"
    )
    choice_pattern: Regex | None = Field(
        None,
        description="regular expression whose first group is the chosen number, 0 for none; null: Choice: Student #k",
    )
    answer_pattern: Regex | None = Field(
        None,
        description="regular expression of the answer in a completion: its first group, or the whole "
        "match; null: built in",
    )
    timeout_s: float = Field(10.0, gt=0, description="seconds to judge a row; after that it stays unjudged (NaN)")

    @field_validator("choice_pattern")
    @classmethod
    def _with_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and re.compile(pattern).groups < 1:
            raise ValueError(f"{pattern!r} has no group; put (...) around the number")
        return pattern

    def run(
        self, rollouts: Texts, answers: PeerRollouts, *, tasks: TaskBook, log: Log, peer: str = ""
    ) -> Scored[Texts]:
        """Add `reward`, `reward_format`, `reward_exists` and `reward_correct` to the critiques.

        Inputs:
            rollouts: critiques, each with the ids of the answers that it quotes
            answers: the answers that they quote
        """
        parents = rollouts.values("parent_ids")
        by_author = partial(judge_by_author, peer=peer, seconds=self.peer_seconds, log=log)
        choices = by_author(rollouts, judgeable(rollouts), partial(self._choices, rollouts))
        needed = {id for at, choice in choices.items() for id in _answers_to_judge(choice, parents[at])}
        ids = answers.values("id")
        judge = partial(self._exact if self.judge == "exact" else self._by_math, answers, tasks)
        judged = by_author(answers, [at for at, id in enumerate(ids) if id in needed], judge)
        correctness = {ids[at]: verdict for at, verdict in judged.items()}
        verdicts = {at: _verdict(choice, parents[at], correctness) for at, choice in choices.items()}
        foreign = {id for id, author in zip(ids, answers.values("peer"), strict=True) if author != peer} if peer else ()
        excused = [
            at
            for at, choice in choices.items()
            if isinstance(verdicts[at], Failure) and _quotes_unjudged(choice, parents[at], correctness, foreign)
        ]
        weights = {"format": self.format, "exists": self.exists, "correct": self.correct}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log, peer=peer, excused=excused)

    def _choices(self, rollouts: Rollouts, positions: list[int], until: float) -> dict[int, Choice | Failure | None]:
        """Read the choices of the critiques at these positions until a monotonic time."""
        completions = rollouts.values("completion")
        if self.choice_pattern is None:  # the built-in pattern needs no time limit
            return {at: read_choice(completions[at]) for at in positions}
        calls = {at: {"critique": completions[at], "pattern": self.choice_pattern} for at in positions}
        target = f"{__name__}:read_numbers"
        numbers = call_together(target, calls, timeout_s=self.timeout_s, node=self.place.node, until=until)
        return {at: Choice(value) if isinstance(value, int) else _no_choice(value) for at, value in numbers.items()}

    def _by_math(
        self, answers: Rollouts, tasks: TaskBook, positions: list[int], until: float
    ) -> dict[int, float | Failure]:
        """Return, by position of an answer, 1 (correct), 0 (wrong), or why it could not be judged."""
        verdicts = judge_maths(
            answers,
            positions,
            tasks=tasks,
            pattern=self.answer_pattern,
            timeout_s=self.timeout_s,
            node=self.place.node,
            until=until,
        )
        return {at: verdict if isinstance(verdict, Failure) else verdict["correct"] for at, verdict in verdicts.items()}

    def _exact(
        self, answers: Rollouts, tasks: TaskBook, positions: list[int], until: float
    ) -> dict[int, float | Failure]:
        """Return the same by exact match."""
        rows = answers.rows("id", "task_id", "completion")
        completions = {at: rows[at]["completion"] for at in positions}
        limits: dict[str, Any] = {"timeout_s": self.timeout_s, "node": self.place.node, "until": until}
        extracted = extract_answers(completions, self.answer_pattern, **limits)
        return {at: _exact_match(extracted[at], rows[at], tasks) for at in positions}


def _exact_match(answer: str | Failure | None, row: Mapping[str, str], tasks: TaskBook) -> float | Failure:
    """Return 1 if the extracted answer, or else the whole completion, equals the task's answer; 0 if not."""
    reference = tasks[row["task_id"]].answer.strip()
    if not reference:
        return Failure(f"task {row['task_id']!r} has no reference answer")
    return answer if isinstance(answer, Failure) else float((answer or row["completion"].strip()) == reference)


def _no_choice(value: object) -> Failure | None:
    assert isinstance(value, Failure | None)
    return value


def _answers_to_judge(choice: Choice | Failure | None, parents: list[str]) -> list[str]:
    """Return the ids of the answers that decide whether a choice is correct."""
    if not isinstance(choice, Choice) or choice.number > len(parents):
        return []
    return parents[choice.number - 1 : choice.number] if choice.number else parents


def _verdict(choice: Choice | Failure | None, parents: list[str], correctness: dict[str, float | Failure]) -> Verdict:
    if isinstance(choice, Failure):
        return choice
    if choice is None:
        return {"format": 0.0, "exists": 0.0, "correct": 0.0}
    if choice.number > len(parents):
        return {"format": 1.0, "exists": 0.0, "correct": 0.0}
    judged = [_judged(id, correctness) for id in _answers_to_judge(choice, parents)]
    if choice.number:
        correct = judged[0]
        return correct if isinstance(correct, Failure) else {"format": 1.0, "exists": 1.0, "correct": correct}
    unknown = next((value for value in judged if isinstance(value, Failure)), None)
    if unknown is not None and 1.0 not in judged:
        return unknown
    return {"format": 1.0, "exists": 0.0, "correct": float(1.0 not in judged)}


def _quotes_unjudged(
    choice: Choice | Failure | None,
    parents: list[str],
    correctness: dict[str, float | Failure],
    foreign: Collection[str],
) -> bool:
    """Return whether a choice depends on an answer of another peer that could not be judged."""
    answers = [id for id in _answers_to_judge(choice, parents) if id in foreign]
    return any(isinstance(_judged(id, correctness), Failure) for id in answers)


def _judged(id: str, correctness: dict[str, float | Failure]) -> float | Failure:
    value = correctness.get(id, Failure(f"the quoted answer {id!r} is not among the answers"))
    unjudged = not isinstance(value, Failure) and isnan(value)
    return Failure(f"the quoted answer {id!r} could not be judged") if unjudged else value
