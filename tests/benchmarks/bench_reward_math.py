"""Time of `reward.math` for a thousand rows, against math-verify alone on the same pairs in one process."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

from math_verify import parse, verify
from measure import Row, interleaved, report

from genrl_graph import Rollouts
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.source.list import ListSource

ROWS = 1000
PAIRS = {
    "numbers, as in gsm8k": [("72", "72"), ("1,234", "1234"), ("5", "6"), ("18", "$18"), ("0.5", r"\frac{1}{2}")],
    "formulas, as in MATH": [
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("x^2+1", "1+x^2"),
        ("(1,2)", "(2,1)"),
        (r"\frac{\pi}{3}", r"\frac{\pi}{6}"),
        (r"(-\infty,3]", r"(-\infty,3)"),
    ],
    "choices, dates and words": [("A", "(A)"), ("2024-05-01", "May 2, 2024"), ("Paris", "London"), ("3-1", "4-2")],
}


def rollouts(pairs: Sequence[tuple[str, str]]) -> Rollouts:
    """Rows of the size that a generator gives, with the answer after some reasoning."""
    rows = [
        {
            "id": f"{at:032x}",
            "task_id": f"tasks/{at % len(pairs)}",
            "group_id": f"{at // 4:032x}",
            "parent_ids": [],
            "peer": "peer0000",
            "node": "answer",
            "stage": 0,
            "round": 0,
            "sample": at % 4,
            "policy": "policy",
            "policy_version": 0,
            "tokenizer_fingerprint": "t" * 32,
            "temperature": 1.0,
            "messages": [{"role": "user", "content": "What is it? End with #### and the answer."}],
            "prompt_ids": [1, 2],
            "completion_ids": [3],
            "completion_mask": [1],
            "logprobs": [0.0],
            "completion": "We add 48 and 24, which gives the sum. " * 20 + f"\n#### {answer}",
            "finish_reason": "stop",
            "error": "",
        }
        for at, (_, answer) in enumerate(islice(cycle(pairs), ROWS))
    ]
    return Rollouts.from_rows(rows)


def test_reward_math() -> None:
    shown = []
    for what, pairs in PAIRS.items():
        listed = [{"question": "?", "answer": reference} for reference, _ in pairs]
        tasks = TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})
        rows, reward = rollouts(pairs), MathReward().placed(Place("score"))

        def judged(rows: Rollouts = rows, reward: MathReward = reward, tasks: TaskBook = tasks) -> object:
            return reward.run(rows, tasks=tasks, log=Log())

        def alone(pairs: Sequence[tuple[str, str]] = pairs) -> object:
            for reference, answer in islice(cycle(pairs), ROWS):
                verify(parse(f"\\boxed{{{reference}}}"), parse(f"\\boxed{{{answer}}}"))
            return None

        calls: dict[str, Callable[[], object]] = {"judged": judged, "alone": alone}
        interleaved(calls, times=1)
        timings = interleaved(calls, times=3)
        base = Row(f"math-verify alone: {what}", timings["alone"])
        shown += [base, Row(f"reward.math: {what}", timings["judged"], base)]
    report("reward_math", f"reward.math: {ROWS} rows, in its worker process", shown)
