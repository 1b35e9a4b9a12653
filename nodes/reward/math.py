"""`reward.math`: reward a well-formed and a correct answer to a maths task."""

import math
from collections.abc import Mapping

from pydantic import Field

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.scoring.answer_types import AnswerType
from genrl_graph.nodes.reward.scoring.answers import marks_asked_for
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import Regex, Texts, Verdict, call_each, judgeable, number, score_rows
from genrl_graph.nodes.worker.worker import Failure

TARGET = "genrl_graph.nodes.reward.scoring.math_judge:math_score"


def judge_maths(
    rollouts: Rollouts,
    positions: list[int],
    *,
    tasks: TaskBook,
    pattern: str | None,
    timeout_s: float,
    node: str,
    answer_type: AnswerType = "auto",
    until: float = math.inf,
) -> dict[int, Verdict]:
    """Return, by row position, the terms `format` and `correct`, judged in a worker process.

    Rows that are not judged at the monotonic time `until` get `OutOfTime`.
    """
    ids, completions, marks = rollouts.values("task_id"), rollouts.values("completion"), _marks(rollouts)
    limit_s = 0.8 * timeout_s  # a comparison ends before its worker is killed, which costs the start of another one
    calls: dict[int, Mapping[str, object]] = {}
    verdicts: dict[int, Verdict] = {}
    for at in positions:
        answer = tasks[ids[at]].answer
        verdicts[at] = Failure(f"task {ids[at]!r} has no reference answer")
        if answer:
            calls[at] = {
                "completion": completions[at],
                "answer": answer,
                "pattern": pattern,
                "answer_type": answer_type,
                "marks": marks[at],
                "limit_s": limit_s,
            }
    for at, value in call_each(TARGET, calls, timeout_s=timeout_s, node=node, until=until).items():
        assert isinstance(value, Failure | dict)
        verdicts[at] = value if isinstance(value, Failure) else {term: number(v) for term, v in value.items()}
        if isinstance(value, dict) and math.isnan(value["correct"]):
            why = f"is blank, too large to compute, or takes more than {limit_s:g} s to compare with; simplify it"
            verdicts[at] = Failure(f"task {ids[at]!r}: its reference answer {calls[at]['answer']!r:.80} {why}")
    return verdicts


def _marks(rollouts: Rollouts) -> list[list[str]]:
    """Return the answer marks that each row's prompt asks for."""
    if "messages" not in rollouts.table.column_names:
        return [marks_asked_for("")] * len(rollouts)
    prompts = ("\n".join(message["content"] for message in chat) for chat in rollouts.values("messages"))
    return [marks_asked_for(prompt) for prompt in prompts]


class MathReward(Reward, name="math"):
    """Rewards `format` if the completion has an answer, and `correct` if that is the task's.

    The answer is the last that the completion marks as the prompt asks for (`answers.extract_answer`), or the match of
    `pattern`. `answer_type` says how it is compared; `auto` decides by the reference (`answer_types.type_of`):

    - `number`: exactly, with or without a unit, a percent sign or separators of thousands; 1/3 is 0.333333;
    - `formula`: by math-verify; tuples, intervals, lists and sets part by part;
    - `choice`: the letter, as A, (A) or A.;
    - `date`: the day, however it is written; `code` (addresses, versions, scores, times) and `text`: sign by sign.

    A row that cannot be judged within `timeout_s` seconds, or whose task has no reference answer, gets NaN. Powers and
    factorials beyond any task are not computed: such an answer is wrong.
    """

    format: float = Field(default=0.5, description="reward of a completion in which an answer is found")
    correct: float = Field(default=1.0, description="reward of an answer that is the task's")
    pattern: Regex | None = Field(
        default=None,
        description="regular expression of the answer: its first group, or the whole match; null: "
        "the last <answer>, \\boxed or ####",
    )
    answer_type: AnswerType = Field(
        default="auto",
        description="how the answer is compared: as a number, formula, choice, date, code (sign by sign) or text; "
        "auto: by the reference",
    )
    timeout_s: float = Field(
        default=10.0, gt=0, description="seconds to judge a row; after that it stays unjudged (NaN)"
    )

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward`, `reward_format` and `reward_correct` to the rollouts.

        Inputs:
            rollouts: rows to judge
        """

        def judge(positions: list[int], until: float) -> Mapping[int, Verdict]:
            return judge_maths(
                rollouts,
                positions,
                tasks=tasks,
                pattern=self.pattern,
                timeout_s=self.timeout_s,
                node=self.place.node,
                answer_type=self.answer_type,
                until=until,
            )

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        weights = {"format": self.format, "correct": self.correct}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log, peer=peer)
