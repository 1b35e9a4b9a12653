"""`reward.function`: arguments, return values, failures, limits and factories."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Scored
from genrl_graph.contract.node import Place
from genrl_graph.contract.registry import import_file
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.nodes.source.list import ListSource

MODULE = """
import asyncio, os, sys, time

def length(prompts, completions, **columns):
    print("what a function prints does no harm")
    return [float(len(reply[0]["content"])) for reply in completions]

async def slow_length(completions, **columns):
    await asyncio.sleep(0.01)
    return length(None, completions)

def process(completions, **columns):
    return [os.getpid()] * len(completions)

def everything(prompts, completions, answer, level, solution, completion_ids, prompt_ids, id, **columns):
    assert columns["round"] == [0, 0] and "logprobs" not in columns
    assert prompts == ["What is it?"] * 2 and completions == ["a", "bb"]
    assert answer == solution == ["1", ""] and level == [3, None] and id == ["id0", "id1"]
    return [len(ids) for ids in completion_ids]

def some(completions, **columns):
    return [None, float("nan"), True][: len(completions)]

def nothing(completions, **columns):
    return [None] * len(completions)

def raises(**columns):
    raise KeyError("no such thing")

def hangs(**columns):
    time.sleep(60)

def dies(**columns):
    os._exit(3)

def too_few(completions, **columns):
    return [1.0]

def text(completions, **columns):
    return ["1.0"] * len(completions)

def one(completions, **columns):
    return 1.0

def liar(completions, **columns):
    return ["abc", float("inf"), [1.0], 10**400, {}, float("nan"), None, True, 2][: len(completions)]

def by_content(completions, **columns):
    for completion in completions:
        bad = {"hang": hangs, "die": dies, "raise": raises}.get(completion[0]["content"])
        if bad:
            bad()
    return [float(os.getpid())] * len(completions)

def grows(completions, **columns):
    if completions[0][0]["content"] == "grow":
        KEPT.append(bytearray(2**31))
    return [1.0] * len(completions)

KEPT = []

def meets(completions, folder, **columns):
    place = os.path.join(folder[0], completions[0][0]["content"])
    open(place, "w").close()
    while len(os.listdir(folder[0])) < 2:
        time.sleep(0.01)
    return [1.0]

BUILT = []

def make_power(exponent, base=2.0):
    BUILT.append(exponent)
    return lambda completions, **columns: [base ** exponent + len(BUILT)] * len(completions)

def make_nothing():
    return 3

NOT_A_FUNCTION = 3
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Import a user's script as `--import judges_for_test.py` does."""
    path = tmp_path_factory.mktemp("user") / "judges_for_test.py"
    path.write_text(MODULE)
    import_file(path)
    return sys.modules["judges_for_test"]


@pytest.fixture
def tasks() -> TaskBook:
    listed = [{"question": "?", "answer": 1, "metadata": {"level": 3, "id": "not this"}}, {"question": "!"}]
    return TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})


Paid = Callable[..., Scored]


@pytest.fixture
def paid(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, judges: ModuleType) -> Paid:
    def of(
        function: Any,
        completions: Sequence[str] = ("a", "bb"),
        finish_reason: str | list[str] = "stop",
        metadata: dict[str, Any] | None = None,
        **params: Any,
    ) -> Scored:
        ids = ["tasks/0", "tasks/1", *["tasks/0"] * len(completions)][: len(completions)]
        rows = make_rollouts(list(completions), task_id=ids, finish_reason=finish_reason)
        name = f"judges_for_test:{function}" if isinstance(function, str) else function
        listed = [{"question": "?", "metadata": metadata}] * 2
        book = TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))}) if metadata else tasks
        return FunctionReward(function=name, **params).run(rows, tasks=book, log=log)

    return of


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("name", ["length", "slow_length"])
def test_pays_what_the_function_returns(paid: Paid, name: str, isolated: bool) -> None:
    scored = paid(name, ("a", "bb", "cc"), finish_reason=["stop", "length", "failed"], weight=0.5, isolated=isolated)
    assert np.array_equal(scored.numpy("reward"), [0.5, 1.0, np.nan], equal_nan=True)
    assert scored.values(f"reward_{name}")[:2] == [1.0, 2.0]


def test_isolated_is_another_process_and_the_same_one_each_round(paid: Paid) -> None:
    first, second = (paid("process", term="p").values("reward_p")[0] for _ in range(2))
    assert first == second != os.getpid()
    assert paid("process", term="p", isolated=False).values("reward_p")[0] == os.getpid()


@pytest.mark.parametrize("isolated", [True, False])
def test_columns(paid: Paid, isolated: bool) -> None:
    scored = paid("everything", format="text", columns={"solution": "answer"}, isolated=isolated)
    assert scored.values("reward") == [2.0, 2.0]
    with pytest.raises(RewardFailed, match=r"columns\.solution: no column 'answers' to pass .did you mean 'answer'"):
        paid("everything", columns={"solution": "answers"})
    with pytest.raises(RewardFailed, match=r"columns\.x: no column 'zzz' to pass; there are .*completion_ids"):
        paid("everything", columns={"x": "zzz"})


@pytest.mark.parametrize("isolated", [True, False])
def test_none_is_not_judged(paid: Paid, log: Log, isolated: bool) -> None:
    scored = paid("some", ("a", "b", "c"), isolated=isolated)
    assert np.array_equal(scored.numpy("reward"), [np.nan, np.nan, 1.0], equal_nan=True)
    assert log.tables["failures"] == {"id": ["id0", "id1"], "reason": ["returned None", "returned NaN"]}
    with pytest.raises(RewardFailed, match=r"none of 2 rows could be judged \(.*\); the first: returned None"):
        paid("nothing", isolated=isolated)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            r"reward.function: none of 2 rows .* KeyError: 'no such thing' \(judges_for_test.py:\d+ in raises\)",
        ),
        ("too_few", "none of 2 rows .* returned 1 values for 2 completions"),
        ("text", "none of 2 rows .* returned '1.0'"),
        ("one", "none of 2 rows .* returned 1.0; return a list"),
        ("missing", "missing: .*has no attribute 'missing'"),
        ("NOT_A_FUNCTION", "not a function"),
    ],
)
def test_a_wrong_function_is_named(paid: Paid, name: str, message: str, isolated: bool) -> None:
    with pytest.raises(RewardFailed, match=message) as raised:
        paid(name, isolated=isolated)
    assert "\n" not in str(raised.value)


def test_one_that_hangs_or_dies_ends_in_time(paid: Paid) -> None:
    started = time.monotonic()
    with pytest.raises(RewardFailed, match=r"the first: no answer within 0\.5 s"):
        paid("hangs", timeout_s=0.5)
    with pytest.raises(RewardFailed, match="the first: the worker process died with exit code 3"):
        paid("dies", timeout_s=None)
    assert time.monotonic() - started < 30.0


@pytest.mark.parametrize("isolated", [True, False])
def test_a_value_that_is_no_number_costs_its_row(paid: Paid, log: Log, isolated: bool) -> None:
    scored = paid("liar", tuple("abcdefghi"), isolated=isolated)
    assert np.array_equal(scored.numpy("reward"), [np.nan] * 7 + [1.0, 2.0], equal_nan=True)
    reasons = log.tables["failures"]["reason"]
    assert reasons[0] == "returned 'abc'; return finite numbers, or None for what cannot be judged"
    assert [reason.partition(";")[0][:12] for reason in reasons[1:]] == [
        "returned inf",
        "returned [1.",
        "returned 100",
        "returned {}",
        "returned NaN",
        "returned Non",
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_call_that_goes_wrong_costs_its_rows(paid: Paid, log: Log, workers: int) -> None:
    completions = ("a", "b", "hang", "c", "die", "d", "raise", "e", "f")
    scored = paid("by_content", completions, rows_per_call=2, workers=workers, timeout_s=0.5)
    assert list(np.isfinite(scored.numpy("reward"))) == [True, True, *[False] * 6, True]
    assert log.tables["failures"]["id"] == [f"id{at}" for at in range(2, 8)]
    reasons = log.tables["failures"]["reason"][::2]
    assert reasons[:2] == ["no answer within 0.5 s", "the worker process died with exit code 3"]
    assert reasons[2].startswith("KeyError: 'no such thing' (judges_for_test.py:")


def test_in_this_process_a_call_that_raises_costs_its_rows(paid: Paid, log: Log) -> None:
    scored = paid("by_content", ("a", "raise", "b"), rows_per_call=1, isolated=False)
    assert list(np.isfinite(scored.numpy("reward"))) == [True, False, True]
    assert log.tables["failures"]["reason"][0].startswith("KeyError: 'no such thing' (judges_for_test.py:")


def test_workers_run_at_the_same_time(paid: Paid, tmp_path: Path) -> None:
    folder = {"columns": {"folder": "folder"}, "rows_per_call": 1, "timeout_s": 20.0}
    scored = paid("meets", ("x", "y"), metadata={"folder": str(tmp_path)}, workers=2, **folder)
    assert scored.values("reward") == [1.0, 1.0], "each waits until the other has begun"


def test_one_that_takes_too_much_memory_costs_its_call_and_not_the_next(paid: Paid, log: Log) -> None:
    scored = paid("grows", ("a", "grow", "b", "grow", "c"), rows_per_call=1, memory_mb=1024)
    assert np.array_equal(scored.numpy("reward"), [1.0, np.nan, 1.0, np.nan, 1.0], equal_nan=True)
    (reason,) = set(log.tables["failures"]["reason"])
    assert reason.startswith("MemoryError: out of memory, memory_mb is 1024 (judges_for_test.py:")


@pytest.mark.parametrize("isolated", [True, False])
def test_a_factory_makes_the_function_once(paid: Paid, isolated: bool) -> None:
    node = {"factory": {"exponent": 3}, "rows_per_call": 1, "isolated": isolated, "term": "power"}
    assert paid("make_power", **node).values("reward_power") == [9.0, 9.0]
    assert paid("make_power", **node | {"factory": {"exponent": 0, "base": 5.0}}).values("reward")[0] in (2.0, 3.0)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"function": "judges_for_test:missing"}, "has no attribute 'missing'"),
        ({"function": "judges_for_test:make_power", "factory": {"power": 3}}, "unexpected keyword argument 'power'"),
        ({"function": "judges_for_test:make_nothing", "factory": {}}, "the factory gave a int, not a function"),
    ],
)
def test_one_that_cannot_be_loaded_is_told_before_the_first_round(
    judges: ModuleType, params: dict[str, object], message: str, isolated: bool
) -> None:
    with pytest.raises(RewardFailed, match=message):
        FunctionReward(**params, isolated=isolated).prepare()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"workers": 2}, "workers is 2, but the whole batch is one call; set rows_per_call"),
        ({"workers": 2, "rows_per_call": 1, "isolated": False}, "workers is 2, but .*: isolated is false"),
        ({"memory_mb": 512, "function": lambda: None}, "memory_mb is 512, but .*<lambda> has no importable name"),
        ({"rows_per_call": 0}, "rows_per_call"),
        ({"factory": {"x": object()}}, "factory: no value of a graph file"),
    ],
)
def test_params_that_do_nothing_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        FunctionReward(**{"function": "trl.rewards:think_format_reward"} | params)


def test_nothing_is_called_without_rows(paid: Paid) -> None:
    assert np.isnan(paid("raises", finish_reason="failed").numpy("reward")).all()


def test_a_lambda_runs_here_and_has_no_yaml(paid: Paid) -> None:
    node = FunctionReward(function=lambda completions, **columns: np.ones(len(completions)))
    with pytest.raises(ParamError, match=r"reward\.function\.function: .*<lambda> has no importable name"):
        node.plain_params()
    assert paid(node.function).values("reward") == [1.0, 1.0]


def test_an_async_closure_runs_under_a_running_loop(paid: Paid) -> None:
    async def ones(completions: list[object], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    async def notebook() -> list[float]:
        values: list[float] = paid(ones, term="ones").values("reward")
        return values

    assert asyncio.run(notebook()) == [1.0, 1.0]


def test_a_function_with_a_name_is_its_name(judges: ModuleType) -> None:
    node = FunctionReward(function=judges.length, timeout_s=5.0)
    assert node.plain_params() == {"function": "judges_for_test:length", "timeout_s": 5.0}
    assert FunctionReward(**node.plain_params()) == node


@pytest.mark.parametrize("name", ["length", "rewards.py:length", "a/b.py:f", "m:", ":f", "m:f()", "m:1"])
def test_names_are_checked_first(name: str) -> None:
    with pytest.raises(ParamError, match="module:name"):
        FunctionReward(function=name)


def test_a_script_that_changed_is_read_again(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, tmp_path: Path
) -> None:
    path = tmp_path / "changing_judge.py"
    for paid in (1.0, 2.0):
        path.write_text(f"def f(completions, **columns): return [{paid}] * len(completions)\n")
        sys.modules.pop("changing_judge", None)
        import_file(path)
        rows = FunctionReward(function="changing_judge:f").run(make_rollouts(["x"]), tasks=tasks, log=log)
        assert rows.values("reward") == [paid]
    assert np.isfinite(rows.numpy("reward")).all()
