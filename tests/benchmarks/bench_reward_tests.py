"""Time of `reward.tests` for a thousand rows of five tests, against bare starts of Python in bubblewrap."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from measure import Row, interleaved, report

from genrl_graph import Rollouts
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.code_tests import results
from genrl_graph.nodes.reward.tests import TestsReward
from genrl_graph.nodes.sandbox.python import run_python
from genrl_graph.nodes.source.list import ListSource

ROWS, TESTS, CORES = 1000, 5, 2
KINDS: dict[str, tuple[str, list[Any]]] = {
    "functions": ("def f(x):\n    return x * x + {at} - {at}", [f"assert f({n}) == {n * n}" for n in range(TESTS)]),
    "input and output": (
        "print(int(input()) ** 2 + {at} - {at})",
        [{"input": f"{n}\n", "output": f"{n * n}\n"} for n in range(TESTS)],
    ),
}
"""Programs, each row's another one, and the tests that they pass."""


def rollouts(program: str) -> Rollouts:
    """Rows of a thousand different programs."""
    return Rollouts.from_rows(
        [
            {
                "id": f"{at:032x}",
                "task_id": "tasks/0",
                "group_id": "0" * 32,
                "parent_ids": [],
                "peer": "peer0000",
                "node": "answer",
                "stage": 0,
                "round": 0,
                "sample": at,
                "policy": "policy",
                "policy_version": 0,
                "tokenizer_fingerprint": "t" * 32,
                "temperature": 1.0,
                "messages": [{"role": "user", "content": "Square."}],
                "prompt_ids": [1],
                "completion_ids": [2],
                "completion_mask": [1],
                "logprobs": [0.0],
                "completion": program.format(at=at),
                "finish_reason": "stop",
                "error": "",
            }
            for at in range(ROWS)
        ]
    )


def starts(count: int) -> None:
    """Run an empty program so many times, on as many threads as the reward has."""
    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(lambda _: run_python("pass"), range(count)))


def test_reward_tests() -> None:
    shown: list[Row] = []
    for what, (program, tests) in KINDS.items():
        listed: Sequence[Any] = [{"question": "Square.", "metadata": {"tests": tests}}]
        tasks = TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})
        rows, reward = rollouts(program), TestsReward(workers=CORES).placed(Place("score"))

        def judged(rows: Rollouts = rows, reward: TestsReward = reward, tasks: TaskBook = tasks) -> None:
            results.RESULTS.clear()
            scored = reward.run(rows, tasks=tasks, log=Log())
            assert set(scored.values("reward")) == {1.0}

        def again(rows: Rollouts = rows, reward: TestsReward = reward, tasks: TaskBook = tasks) -> None:
            reward.run(rows, tasks=tasks, log=Log())

        calls: dict[str, Callable[[], object]] = {
            "rows": lambda: starts(ROWS),
            "tests": lambda: starts(ROWS * TESTS),
            "judged": judged,
            "again": again,
        }
        timings = interleaved(calls, times=1)
        base = Row(f"{ROWS * TESTS} bare starts", timings["tests"])
        shown += [
            base,
            Row(f"{ROWS} bare starts", timings["rows"], base),
            Row(f"reward.tests: {what}", timings["judged"], base),
            Row("the same again", timings["again"], base),
        ]
    report("reward_tests", f"reward.tests: {ROWS} rows of {TESTS} tests, {CORES} at a time", shown)
