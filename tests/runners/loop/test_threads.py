"""Threads: the share of this process, fewer while others use the processors; the run folder records them."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from genrl_graph import load, play
from genrl_graph.runners.loop.threads import ProcessorTimes, Threads, processors, set_threads
from genrl_graph.store.run_folder import read_graph
from genrl_graph.store.run_store import RunStore

GRAPHS = Path(__file__).parents[3] / "graphs"


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # restored afterwards, whatever is set in between
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "count"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_control_group_limits_the_processors(tmp_path: Path, text: str, count: int | None) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert processors(quota) == (count or processors(tmp_path / "none"))


def test_the_ranks_of_a_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrl_graph.runners.loop.threads.processors", lambda: 12)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    set_threads(None)
    assert torch.get_num_threads() == 3


def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads(2)
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "1"
    set_threads(None)
    assert torch.get_num_threads() == 2


def test_a_run_notes_how_it_computes_and_tells_where_it_goes_on_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    run = play(load(GRAPHS / "tiny.yaml"), out=tmp_path / "run", rounds=1, quiet=True)
    assert read_graph(run.folder)[1]["computing"] == {"policy policy": "float32 on cpu", "threads": "1"}
    torch.set_num_threads(2)
    for rounds in (2, 3):
        play(load(GRAPHS / "tiny.yaml"), out=run.folder, rounds=rounds, resume=True)
    assert capsys.readouterr().err.count("threads was 1, is 2: bits may differ") == 1


PINNED = """
import os, subprocess, sys, time
from genrl_graph.runners.loop.threads import processor_times
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # also of what this process starts
busy = [sys.executable, "-c", "import time\\nend = time.time() + 1.5\\nwhile time.time() < end: pass"]
other = subprocess.Popen(busy)
before, end = processor_times(), time.time() + 1
while time.time() < end:
    pass
print(processor_times().since(before).share)
other.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system has no sched-stats in /proc")
def test_waiting_for_a_processor_that_another_process_uses_is_measured() -> None:
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) > 0.25


def looks(threads: Threads, number: int) -> list[str]:
    lines = [threads.look() for _ in range(number)]
    return [line for line in lines if line]


def readings(*parts: tuple[float, float, float, int]) -> Iterator[ProcessorTimes]:
    """Yield times that grow by (computed, waited, idle) a look, so many times each; the last part goes on for ever."""
    now = [0.0, 0.0, 0.0]
    for *passed, times in (*parts, (*parts[-1][:3], 10**6)):
        for _ in range(int(times)):
            yield ProcessorTimes(*now)
            now = [a + b for a, b in zip(now, passed, strict=True)]


@pytest.mark.parametrize(
    ("count", "others", "fewer"), [(2, 1, 1), (2, 4, 1), (4, 1, 3), (16, 1, 15), (16, 6, 10), (16, 40, 1)]
)
def test_a_processor_is_left_to_each_other_process(count: int, others: int, fewer: int) -> None:
    torch.set_num_threads(count)
    waited = others / (count + others)
    times = readings((1 - waited, waited, 0, 4))
    threads = Threads(fixed=False, read=partial(next, times), every_s=0)
    (line,) = looks(threads, 4)
    assert torch.get_num_threads() == fewer == threads.fact()
    assert f"going on with {fewer} (run.threads: {count} keeps them)" in line


@pytest.mark.parametrize("waited", [0.0, 0.02, 0.1])
def test_little_waiting_changes_nothing(waited: float) -> None:
    torch.set_num_threads(2)
    threads = Threads(fixed=False, read=partial(next, readings((1 - waited, waited, 0, 4))), every_s=0)
    assert looks(threads, 9) == [] and torch.get_num_threads() == 2 and threads.fact() is None


def test_a_number_that_the_user_fixed_stays_and_is_told_once() -> None:
    torch.set_num_threads(2)
    threads = Threads(fixed=True, read=partial(next, readings((1, 1, 0, 4))), every_s=0)
    (line,) = looks(threads, 9)
    assert line.endswith("run.threads: 1 may be faster") and torch.get_num_threads() == 2


def test_idle_processors_are_taken_again_after_ever_longer_pauses() -> None:
    torch.set_num_threads(2)
    busy, idle = (1e6, 1e6, 0), (0, 0, 1e6)
    times = readings(*[(*what, 9) for what in (busy, idle, busy, idle)])
    threads = Threads(fixed=False, read=partial(next, times), every_s=0)
    numbers = []
    for _ in range(36):
        threads.look()
        numbers.append(torch.get_num_threads())
    lengths = [(number, len(list(same))) for number, same in itertools.groupby(numbers)]
    assert [number for number, _ in lengths] == [2, 1, 2, 1, 2]
    first, second = lengths[1][1], lengths[3][1]
    assert second == first + 2  # both saw as many busy looks; idle ones count twice as long the second time


def test_a_resumed_run_computes_each_step_with_the_threads_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr("genrl_graph.runners.loop.threads.processors", os.cpu_count)
    times = readings((1e6, 1e6, 0, 12))
    busy = partial(Threads, read=partial(next, times), every_s=0)
    monkeypatch.setattr("genrl_graph.runners.play.Threads", busy)
    graph, out = GRAPHS / "tiny.yaml", tmp_path / "run"
    run = play(load(graph), out=out, rounds=2, quiet=False)
    assert "going on with 1 (run.threads: 2 keeps them)" in capsys.readouterr().err
    with RunStore.open(out) as store:
        facts = [json.loads(step["facts"]) for step in store.steps().to_pylist()]
    recorded = [fact.get("threads") for fact in facts]
    assert set(recorded) == {None, 1} and recorded == sorted(recorded, key=bool)

    shutil.rmtree(out / "checkpoints")
    torch.set_num_threads(2)
    asked = spied_threads(monkeypatch)
    monkeypatch.setattr("genrl_graph.runners.play.Threads", partial(Threads, read=lambda: None))
    again = play(load(graph), out=out, rounds=3, resume=True, quiet=True)
    assert asked and set(asked) == {1}
    assert again.before == run.before


def spied_threads(monkeypatch: pytest.MonkeyPatch) -> Sequence[int]:
    """Return the list of the numbers of threads that will be asked of torch."""
    asked: list[int] = []
    ask = torch.set_num_threads

    def spy(number: int) -> None:
        asked.append(number)
        ask(number)

    monkeypatch.setattr(torch, "set_num_threads", spy)
    return asked
