"""`reward.tests`: run the program in a completion against the tests of its task, in a sandbox."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import DataError
from genrl_graph.nodes.reward.code_tests.programs import extract_code, program_of
from genrl_graph.nodes.reward.code_tests.results import Trial, run_trials
from genrl_graph.nodes.reward.code_tests.run_tests import PASSED, Rules
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import Texts, Verdict, judgeable, score_rows
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.python import prepare_sandbox, sandbox_problems
from genrl_graph.nodes.source.data.code_task import code_task_of
from genrl_graph.nodes.worker.worker import Failure


class TestsReward(Reward, name="tests"):
    """Rewards `passed` times the share of the task's tests that a program passes, and `correct` if it passes all.

    The program is the last code block of the completion, or all of it. It runs in a sandbox, where each test is a
    process of its own. The tests are not in there: outputs are compared in this process, and tests that are code run in
    a second sandbox, which gets the program's values as plain data. So a program can return or print what it likes, but
    no verdict. A test that it does not pass pays 0, and the table `tests` names the rule.

    The tests are those of `source.code`, or a task's metadata: `tests`, a list of code or of {input, output}, and
    `setup`, `prompt`, `entry_point` as texts. They come from this peer's own source. A program that was tested before,
    with these tests and limits, is not run again.
    """

    __test__ = False

    passed: float = Field(default=1.0, description="factor on the share of the tests that pass, 0 to 1")
    correct: float = Field(default=0.0, description="reward of a program that passes all tests")
    limits: SandboxLimits = Field(
        default=SandboxLimits(wall_s=60.0), description="what a program may use at most, in all tests of a row"
    )
    test_s: float = Field(default=10.0, gt=0, le=86400, description="seconds of one test, whatever the program does")
    max_tests: int = Field(
        default=256, ge=1, le=2**16, description="most tests of a task; rows of a task with more stay unjudged (NaN)"
    )
    workers: int | None = Field(
        default=None, ge=1, le=1024, description="programs that are tested at a time; null: as many as cores"
    )

    def prepare(self) -> None:
        """Try whether the sandbox contains code here; raises `DataError` if not."""
        prepare_sandbox()

    def check_data(self) -> Iterable[str]:
        """Return why the sandbox cannot contain code here."""
        return sandbox_problems()

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward`, `reward_passed` and `reward_correct` to the rollouts.

        Inputs:
            rollouts: rows to judge
        """
        rules: dict[int, Rules] = {}

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            ended = self._judge(rollouts, positions, tasks, until)
            rules.update({at: value for at, value in ended.items() if not isinstance(value, Failure)})
            return {at: value if isinstance(value, Failure) else _paid(value) for at, value in ended.items()}

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        _report(rollouts, rules, log)
        weights = {"passed": self.passed, "correct": self.correct}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log, peer=peer)

    def _judge(
        self, rollouts: Texts, positions: list[int], tasks: TaskBook, until: float
    ) -> dict[int, Rules | Failure]:
        """Test the rows at these positions until a monotonic time."""
        ids, completions = rollouts.values("task_id"), rollouts.values("completion")
        trials: dict[int, Trial] = {}
        ended: dict[int, Rules | Failure] = {}
        for at in positions:
            try:
                task = code_task_of(tasks[ids[at]])
            except DataError as error:
                ended[at] = Failure(str(error))
                continue
            if len(task.tests) > self.max_tests:
                ended[at] = Failure(f"task {ids[at]!r} has {len(task.tests)} tests (max_tests is {self.max_tests})")
                continue
            trials[at] = Trial(program_of(extract_code(completions[at]), task), task, self.limits, self.test_s)
        return ended | run_trials(trials, workers=self.workers, until=until)


def _paid(rules: Rules) -> Mapping[str, float]:
    share = sum(rule == PASSED for rule in rules) / len(rules)
    return {"passed": share, "correct": float(share == 1)}


def _report(rows: Texts, rules: Mapping[int, Rules], log: Log) -> None:
    """Log the table `tests`, with the rule of the first test that did not pass, and the number of rows by that rule."""
    ids, first = rows.values("id"), {at: _first_failure(ended) for at, ended in sorted(rules.items())}
    for rule, count in sorted(Counter(first.values()).items()):
        log.metric(f"tests/{rule}", count)
    log.rows(
        "tests",
        {
            "id": [ids[at] for at in first],
            "passed": [sum(rule == PASSED for rule in rules[at]) for at in first],
            "total": [len(rules[at]) for at in first],
            "rule": list(first.values()),
        },
    )


def _first_failure(rules: Sequence[str]) -> str:
    return next((rule for rule in rules if rule != PASSED), PASSED)
