"""`reward.regex`: reward completions that match a pattern."""

import re
from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import Regex, Term, Texts, Verdict, call_together, judgeable, score_rows
from genrl_graph.nodes.worker.worker import Failure


def matches(completion: str, pattern: str, answer: str | None) -> bool:
    """Return True if the pattern matches somewhere; with `answer`, if group 1 of its last match equals the answer."""
    if answer is None:
        return re.search(pattern, completion) is not None
    groups = [match[1] for match in re.finditer(pattern, completion)]
    return bool(groups) and (groups[-1] or "").strip() == answer.strip()


def match_each(calls: list[dict[str, str | None]]) -> list[bool]:
    """Return `matches` for each call's keywords; runs in a worker process."""
    return [matches(**call) for call in calls]  # type: ignore[arg-type]  # only `answer` may be None


class RegexReward(Reward, name="regex"):
    """Rewards `match` if `pattern` matches somewhere in the completion, else `miss`.

    With `compare`, group 1 of the last match must also equal the task's answer, apart from surrounding space. A pattern
    may backtrack without end, so a worker process judges all rows of a peer in one call of at most `timeout_s`
    seconds, and each row separately if that call fails. None judges in this process, without a limit.
    """

    pattern: Regex = Field(description="regular expression that is searched anywhere in the completion")
    compare: bool = Field(False, description="whether group 1 of the last match must also equal the task's answer")
    match: float = Field(1.0, description="reward term of a completion that matches")
    miss: float = Field(0.0, description="reward term of a completion that does not")
    weight: float = Field(1.0, description="weight of the term in the reward")
    term: Term = Field("regex", description="name of the term, whose column is reward_<term>")
    timeout_s: float | None = Field(
        5.0,
        gt=0,
        description="seconds for all rows, then for each alone, in a worker process; null: in this "
        "process, without a limit",
    )

    @model_validator(mode="after")
    def _has_group(self) -> Self:
        if self.compare and re.compile(self.pattern).groups < 1:
            raise ValueError(f"compare needs a group in the pattern {self.pattern!r}: put (...) around the answer")
        return self

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward` and `reward_<term>` to the rollouts.

        Inputs:
            rollouts: rows to judge
        """

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            return self._judge(rollouts, positions, tasks, until)

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        return score_rows(rollouts, verdicts, weights={self.term: self.weight}, node=self, log=log, peer=peer)

    def _judge(self, rollouts: Rollouts, positions: list[int], tasks: TaskBook, until: float) -> dict[int, Verdict]:
        """Judge the rows at these positions until a monotonic time."""
        ids, completions = rollouts.values("task_id"), rollouts.values("completion")
        calls: dict[int, Mapping[str, object]] = {}
        verdicts: dict[int, Verdict] = {}
        for at in positions:
            answer = tasks[ids[at]].answer if self.compare else None
            verdicts[at] = Failure(f"task {ids[at]!r} has no reference answer")
            if answer != "":
                calls[at] = {"completion": completions[at], "pattern": self.pattern, "answer": answer}
        target = f"{__name__}:match_each"
        node = self.place.node
        for at, value in call_together(target, calls, timeout_s=self.timeout_s, node=node, until=until).items():
            reward = self.match if value else self.miss
            verdicts[at] = value if isinstance(value, Failure) else {self.term: reward}
        return verdicts
