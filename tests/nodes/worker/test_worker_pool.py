"""Pools of worker processes: parallel calls, failures and factories."""

import time
from pathlib import Path

import pytest

from genrl_graph.nodes.worker.worker import Failure, WorkerRaised
from genrl_graph.nodes.worker.worker_pool import Pool, shared_pool

SOURCE = """
import os, time

def act(value, wait=0.0):
    time.sleep(wait)
    return value, os.getpid()

def once(folder):
    os.makedirs(folder)  # the second process to start cannot
    return lambda wait: time.sleep(wait)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pooled.py"
    path.write_text(SOURCE)
    return path


def test_values_come_in_the_order_of_the_calls_whoever_is_first(source: Path) -> None:
    pool = Pool(f"{source}:act", timeout_s=20.0, size=3)
    values = pool.map_rows([{"value": at, "wait": 0.05 * (at % 3)} for at in range(12)])
    assert [value[0] for value in values] == list(range(12))  # type: ignore[index]
    assert 1 < len({value[1] for value in values}) <= 3  # type: ignore[index]


def test_a_hung_call_holds_up_no_other(source: Path) -> None:
    pool = Pool(f"{source}:act", timeout_s=1.5, size=2)
    hung, *others = pool.map_rows([{"value": 0, "wait": 60}, *({"value": at} for at in range(1, 20))])
    assert hung == Failure("no answer within 1.5 s")
    assert [value[0] for value in others] == list(range(1, 20))  # type: ignore[index]


def test_a_worker_that_cannot_start_ends_the_calls_of_the_others(source: Path, tmp_path: Path) -> None:
    pool = Pool(f"{source}:once", timeout_s=60.0, size=2, factory={"folder": str(tmp_path / "made")})
    started = time.monotonic()
    with pytest.raises(WorkerRaised, match=r"cannot load .*FileExistsError|FileExistsError: cannot load"):
        pool.map_rows([{"wait": 30.0}] * 4)
    assert time.monotonic() - started < 25.0


def test_a_pool_is_shared_by_those_who_ask_for_the_same(source: Path) -> None:
    target = f"{source}:act"
    assert shared_pool(target, 5.0) is shared_pool(target, 5.0)
    assert shared_pool(target, 5.0) is not shared_pool(target, 5.0, size=2)
    assert shared_pool(target, 5.0) is not shared_pool(target, 5.0, changed=1)
