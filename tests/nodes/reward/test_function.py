import asyncio
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.node import Place
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.nodes.source.listed import ListSource
from genrl_graph.registry import import_file
from genrl_graph.resources import Log, TaskBook

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

def infinite(completions, **columns):
    return [float("inf")] * len(completions)

def one(completions, **columns):
    return 1.0

NOT_A_FUNCTION = 3
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A user's script, as `--import judges_for_test.py` reads it."""
    path = tmp_path_factory.mktemp("user") / "judges_for_test.py"
    path.write_text(MODULE)
    import_file(path)
    return sys.modules["judges_for_test"]


@pytest.fixture
def tasks() -> TaskBook:
    listed = [{"question": "?", "answer": 1, "metadata": {"level": 3, "id": "not this"}}, {"question": "!"}]
    return TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})


@pytest.fixture
def paid(make_rollouts, tasks: TaskBook, log: Log, judges: ModuleType):  # type: ignore[no-untyped-def]
    def of(function, completions=("a", "bb"), finish="stop", **params):  # type: ignore[no-untyped-def]
        rows = make_rollouts(
            list(completions), task_id=["tasks/0", "tasks/1", "tasks/0"][: len(completions)], finish=finish
        )
        name = f"judges_for_test:{function}" if isinstance(function, str) else function
        return FunctionReward(function=name, **params).run(rows, tasks=tasks, log=log)

    return of


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("name", ["length", "slow_length"])
def test_pays_what_the_function_returns(paid, name: str, isolated: bool) -> None:  # type: ignore[no-untyped-def]
    scored = paid(name, ("a", "bb", "cc"), finish=["stop", "length", "failed"], weight=0.5, isolated=isolated)
    assert np.array_equal(scored.numpy("reward"), [0.5, 1.0, np.nan], equal_nan=True)
    assert scored.values(f"reward_{name}")[:2] == [1.0, 2.0]


def test_isolated_is_another_process_and_the_same_one_each_round(paid) -> None:  # type: ignore[no-untyped-def]
    first, second = (paid("process", term="p").values("reward_p")[0] for _ in range(2))
    assert first == second != os.getpid()
    assert paid("process", term="p", isolated=False).values("reward_p")[0] == os.getpid()


@pytest.mark.parametrize("isolated", [True, False])
def test_columns(paid, isolated: bool) -> None:  # type: ignore[no-untyped-def]
    scored = paid("everything", format="text", columns={"solution": "answer"}, isolated=isolated)
    assert scored.values("reward") == [2.0, 2.0]
    with pytest.raises(RewardFailed, match=r"columns\.solution: no column 'answers' to pass; there are"):
        paid("everything", columns={"solution": "answers"})


@pytest.mark.parametrize("isolated", [True, False])
def test_none_is_not_judged(paid, log: Log, isolated: bool) -> None:  # type: ignore[no-untyped-def]
    scored = paid("some", ("a", "b", "c"), isolated=isolated)
    assert np.array_equal(scored.numpy("reward"), [np.nan, np.nan, 1.0], equal_nan=True)
    assert log.metrics["unjudged"] == 2 / 3
    with pytest.raises(RewardFailed, match="none of 2 rows could be judged; the first: nothing returned None"):
        paid("nothing", isolated=isolated)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises", "reward.function: raises: KeyError: 'no such thing'"),
        ("too_few", "too_few: returned 1 values for 2 completions"),
        ("text", "text: returned '1.0'"),
        ("infinite", "infinite: returned inf"),
        ("one", "one: returned float"),
        ("missing", "missing: .*has no attribute 'missing'"),
        ("NOT_A_FUNCTION", "not a function"),
    ],
)
def test_a_wrong_function_is_named(paid, name: str, told: str, isolated: bool) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RewardFailed, match=told) as raised:
        paid(name, isolated=isolated)
    assert "\n" not in str(raised.value)


def test_one_that_hangs_or_dies_ends_in_time(paid) -> None:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    with pytest.raises(RewardFailed, match=r"hangs: no answer within 0\.5 s"):
        paid("hangs", timeout_s=0.5)
    with pytest.raises(RewardFailed, match="dies: the worker process died with exit code 3"):
        paid("dies", timeout_s=None)
    assert time.monotonic() - started < 30.0


def test_nothing_is_called_without_rows(paid) -> None:  # type: ignore[no-untyped-def]
    assert np.isnan(paid("raises", finish="failed").numpy("reward")).all()


def test_trl_s_own_rewards_run_unchanged(make_rollouts, tasks: TaskBook, log: Log) -> None:  # type: ignore[no-untyped-def]
    rows = make_rollouts(["<think>\nhm\n</think>\n1", "1"])
    node = FunctionReward(function="trl.rewards:think_format_reward")
    assert node.run(rows, tasks=tasks, log=log).values("reward_think_format_reward") == [1.0, 0.0]


def test_a_lambda_runs_here_and_has_no_yaml(paid) -> None:  # type: ignore[no-untyped-def]
    node = FunctionReward(function=lambda completions, **columns: np.ones(len(completions)))
    with pytest.raises(ParamError, match=r"reward\.function\.function: .*<lambda> has no importable name"):
        node.plain_params()
    assert paid(node.function).values("reward") == [1.0, 1.0]


def test_an_async_closure_runs_under_a_running_loop(paid) -> None:  # type: ignore[no-untyped-def]
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


def test_a_script_that_changed_is_read_again(make_rollouts, tasks: TaskBook, log: Log, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "changing_judge.py"
    for paid in (1.0, 2.0):
        path.write_text(f"def f(completions, **columns): return [{paid}] * len(completions)\n")
        sys.modules.pop("changing_judge", None)
        import_file(path)
        rows = FunctionReward(function="changing_judge:f").run(make_rollouts(["x"]), tasks=tasks, log=log)
        assert rows.values("reward") == [paid]
    assert np.isfinite(rows.numpy("reward")).all()
