"""`reward.reasoning_gym`: score answers with the verifier of the task's own data set."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from pydantic import Field

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import (
    Regex,
    Texts,
    Verdict,
    call_each,
    extract_answers,
    judgeable,
    number,
    score_rows,
)
from genrl_graph.nodes.source.data.gym_entries import GymEntry
from genrl_graph.nodes.worker.worker import Failure

TARGET = "genrl_graph.nodes.reward.scoring.gym_judge:score_entry"


class ReasoningGymReward(Reward, name="reasoning_gym"):
    r"""Rewards `format` for an answer, and `correct` times its score, 0 to 1, by reasoning-gym (arXiv 2505.24760).

    The data set of the task scores the answer: the last `<answer>...</answer>`, else the last `\boxed{...}`, else the
    line after the last `####`, or what `pattern` finds; without an answer the score is 0. A worker process judges each
    row within `timeout_s` seconds, because data sets may evaluate model output.
    """

    format: float = Field(0.0, description="reward of a completion in which an answer is found")
    correct: float = Field(1.0, description="factor on the data set's score of the answer, 0 to 1")
    pattern: Regex | None = Field(
        None,
        description="regular expression of the answer: its first group, or the whole match; null: "
        "<answer>, \\boxed or ####",
    )
    timeout_s: float | None = Field(
        10.0, gt=0, description="seconds to judge a row in a worker process; null: in this process, without a limit"
    )

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward`, `reward_format` and `reward_correct` to the rollouts.

        Inputs:
            rollouts: rows to judge, of tasks of a `source.reasoning_gym`
        """

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            return self._judge(rollouts, positions, tasks, until)

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        weights = {"format": self.format, "correct": self.correct}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log, peer=peer)

    def _judge(self, rollouts: Rollouts, positions: list[int], tasks: TaskBook, until: float) -> dict[int, Verdict]:
        """Judge the rows at these positions until a monotonic time."""
        limits: dict[str, Any] = {"timeout_s": self.timeout_s, "node": self.place.node, "until": until}
        ids, completions = rollouts.values("task_id"), rollouts.values("completion")
        calls: dict[int, Mapping[str, object]] = {}
        verdicts: dict[int, Verdict] = {}
        texts = {at: completions[at] for at in positions}
        for at, answer in extract_answers(texts, self.pattern, **limits).items():
            entry = tasks[ids[at]].raw
            verdicts[at] = {"format": 0.0, "correct": 0.0}
            if not isinstance(entry, GymEntry):
                verdicts[at] = Failure(f"task {ids[at]!r} is from no source.reasoning_gym")
            elif isinstance(answer, Failure):
                verdicts[at] = answer
            elif answer is not None:
                key = {"dataset": entry.dataset, "config": entry.config, "seed": entry.seed, "index": entry.index}
                calls[at] = {"answer": answer, **key}
        for at, value in call_each(TARGET, calls, **limits).items():
            verdicts[at] = _verdict(value)
        return verdicts


def _verdict(value: object) -> Verdict:
    if isinstance(value, Failure):
        return value
    if not isfinite(number(value)):
        return Failure(f"the data set scored {value!r}")
    return {"format": 1.0, "correct": number(value)}
