"""`reward.math`: reward a well-formed and a correct answer to a maths task."""

from collections.abc import Mapping

from pydantic import Field

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.scoring.rows import Regex, Texts, Verdict, call_each, judgeable, number, score_rows
from genrl_graph.nodes.reward.worker.worker import Failure

TARGET = "genrl_graph.nodes.reward.scoring.math_judge:math_score"


def judge_maths(
    rollouts: Rollouts, positions: list[int], *, tasks: TaskBook, pattern: str | None, timeout_s: float, node: str
) -> dict[int, Verdict]:
    """Return, by row position, the terms `format` and `correct`, judged by math-verify in a worker process."""
    ids, completions = rollouts.values("task_id"), rollouts.values("completion")
    # a third: math-verify applies its limit to two parses and a comparison, and must stop before the worker is killed
    limit_s = max(1, int(timeout_s / 3))
    calls: dict[int, Mapping[str, object]] = {}
    verdicts: dict[int, Verdict] = {}
    for at in positions:
        answer = tasks[ids[at]].answer
        verdicts[at] = Failure(f"task {ids[at]!r} has no reference answer")
        if answer:
            calls[at] = {"completion": completions[at], "answer": answer, "pattern": pattern, "limit_s": limit_s}
    for at, value in call_each(TARGET, calls, timeout_s=timeout_s, node=node).items():
        assert isinstance(value, Failure | dict)
        verdicts[at] = value if isinstance(value, Failure) else {term: number(v) for term, v in value.items()}
    return verdicts


class MathReward(Reward, name="math"):
    r"""Rewards `format` if the completion has an answer, and `correct` if math-verify finds it equal to the task's.

    The answer is the last `<answer>...</answer>`, else the last `\boxed{...}`, else the line after the last `####`;
    `pattern` finds another. Formulas are compared by math-verify (<https://github.com/huggingface/Math-Verify>). A row
    that cannot be judged within `timeout_s` seconds, or whose task has no reference answer, gets NaN.
    """

    format: float = Field(0.5, description="reward of a completion in which an answer is found")
    correct: float = Field(1.0, description="reward of an answer that math-verify finds equal to the task's")
    pattern: Regex | None = Field(
        None,
        description="regular expression of the answer: its first group, or the whole match; null: "
        "<answer>, \\boxed or ####",
    )
    timeout_s: float = Field(10.0, gt=0, description="seconds to judge a row; after that it stays unjudged (NaN)")

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log) -> Scored[Texts]:
        """Add `reward`, `reward_format` and `reward_correct` to the rollouts.

        Inputs:
            rollouts: rows to judge
        """
        node = self.place.node
        verdicts = judge_maths(
            rollouts, judgeable(rollouts), tasks=tasks, pattern=self.pattern, timeout_s=self.timeout_s, node=node
        )
        weights = {"format": self.format, "correct": self.correct}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log)
