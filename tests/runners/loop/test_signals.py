"""SIGINT and SIGTERM end a run after the running step is committed; a second one ends it at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from genrl_graph.runners.loop.signals import GRACE_S, KILL_S, Interrupted, stop_on_signals
from genrl_graph.store.run_store import RunStore

GAME = """\
graph: slow
version: 1
carry:
  policy: {type: policy.toy}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  slow: {type: select.toy_slow, inputs: {rows: answer}, params: {seconds: SECONDS}}
  after: {type: select.toy_same, inputs: {rows: slow}}
run: {rounds: 50}
"""

Start = Callable[[float], "tuple[subprocess.Popen[str], Path]"]


@pytest.fixture
def start(tmp_path: Path, toys_file: Path) -> Start:
    """Starts a real run and waits until it is in its slow step."""

    def begin(seconds: float) -> "tuple[subprocess.Popen[str], Path]":
        (tmp_path / "game.yaml").write_text(GAME.replace("SECONDS", str(seconds)))
        command = [
            sys.executable,
            "-m",
            "genrl_graph",
            "run",
            "game.yaml",
            "--import",
            str(toys_file),
            "-o",
            "run",
            "-q",
        ]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        folder = tmp_path / "run"
        for _ in range(600):
            assert process.poll() is None, process.communicate()
            if (folder / "graph.yaml").exists() and "answer" in nodes(folder):
                time.sleep(0.3)  # committed, but the slow step has perhaps not begun
                return process, folder
            time.sleep(0.05)
        process.kill()
        raise AssertionError("the run did not start")

    return begin


def nodes(folder: Path) -> list[str]:
    return [step["node"] for step in RunStore.open(folder).steps().to_pylist()]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_running_step(start: Start, signum: signal.Signals, code: int) -> None:
    process, folder = start(0.7)
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    stopping, ended = err.splitlines()
    assert stopping == "genrl-graph: stopping after this step; once more ends at once"
    assert ended.startswith(f"genrl-graph: ended by {signum.name}; what was committed is kept; ")
    assert "-o run --resume" in ended and "resume=True" in ended
    assert out == ""
    assert nodes(folder)[-1] == "slow"
    assert list((folder / "journal").iterdir()) == []
    with RunStore.open(folder, "a") as store:
        assert store.table("slow").num_rows == store.table("answer").num_rows


def test_a_second_signal_ends_the_run_at_once(start: Start) -> None:
    process, folder = start(60.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == -signal.SIGINT
    assert nodes(folder) == ["tasks", "answer"]
    with RunStore.open(folder, "a") as store:
        assert store.table("answer").num_rows == 4


def test_a_step_that_does_not_end_is_lost(start: Start) -> None:
    process, folder = start(60.0)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < GRACE_S + 1.0
    assert process.returncode == 143
    ended = "genrl-graph: ended by SIGTERM within a step, which is lost; what was committed is kept; "
    assert err.splitlines()[-1].startswith(ended) and "-o run --resume" in err
    with RunStore.open(folder, "a") as store:
        assert store.table("answer").num_rows == 4


def test_the_handlers_of_before_come_back() -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    with stop_on_signals() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"ended by SIGTERM$") as caught:
            stop.check()
        assert caught.value.exit_code == 143
    assert {signum: signal.getsignal(signum) for signum in before} == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, during = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with stop_on_signals() as stop:
            stop.check()
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert during == [before]


SLOW_POLICY = """\
import time
from pathlib import Path

from genrl_graph.contract import registry

Toy = registry.lookup("policy.toy")


class SlowToLoad(Toy, name="slow_to_load"):
    def init(self, name: str, *, seed: int) -> Toy.edge.base:
        Path("loading").touch()
        time.sleep(2)
        return super().init(name, seed=seed)
"""


def test_a_signal_while_a_policy_loads_ends_the_run_before_a_folder_is_made(tmp_path: Path, toys_file: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_POLICY)
    (tmp_path / "game.yaml").write_text(GAME.replace("policy.toy", "policy.slow_to_load").replace("SECONDS", "0"))
    command = [sys.executable, "-m", "genrl_graph", "run", "game.yaml", "-o", "run", "-q"]
    command += ["--import", str(toys_file), "--import", "slow.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "loading").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert not (tmp_path / "run").exists()
    assert "ended by SIGINT; nothing was written yet; the same command starts it again" in err


SWALLOWING = """\
import time
from pathlib import Path

Path("importing").touch()
for _ in range(3):
    try:
        time.sleep(20)
    except BaseException:
        pass
"""


def test_a_signal_that_an_import_swallows_ends_the_start(tmp_path: Path, toys_file: Path) -> None:
    (tmp_path / "swallowing.py").write_text(SWALLOWING)
    (tmp_path / "game.yaml").write_text(GAME.replace("SECONDS", "0"))
    command = [sys.executable, "-m", "genrl_graph", "run", "game.yaml", "-q"]
    command += ["--import", str(toys_file), "--import", "swallowing.py"]
    process = subprocess.Popen(command, cwd=tmp_path)
    for _ in range(600):
        if (tmp_path / "importing").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == -signal.SIGINT


STUCK = """\
import ctypes

from genrl_graph import R, Select


class Stuck(Select, name="stuck"):
    library: str

    def run(self, rows: R) -> R:
        lock = ctypes.create_string_buffer(128)
        wait = getattr(ctypes, self.library)(None).pthread_mutex_lock  # which no signal interrupts
        wait(lock), wait(lock)
        return rows
"""


@pytest.mark.parametrize(
    ("library", "code", "says"),
    [("CDLL", 143, "ended by SIGTERM within a step"), ("PyDLL", -9, "killed within a step")],
    ids=["waits in C", "waits in C and keeps the lock of the interpreter"],
)
def test_a_step_that_never_returns_to_python_is_lost(
    tmp_path: Path, toys_file: Path, library: str, code: int, says: str
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    game = GAME.replace("select.toy_slow", "select.stuck").replace("{seconds: SECONDS}", f"{{library: {library}}}")
    (tmp_path / "game.yaml").write_text(game)
    command = [sys.executable, "-m", "genrl_graph", "run", "game.yaml", "-o", "run", "-q"]
    command += ["--import", str(toys_file), "--import", "stuck.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "run"
    for _ in range(600):
        if (folder / "graph.yaml").exists() and "answer" in nodes(folder):
            break
        time.sleep(0.05)
    time.sleep(0.3)  # committed, but the stuck step has perhaps not begun
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert GRACE_S - 0.5 < time.monotonic() - began < 3 * KILL_S  # of a busy machine
    assert process.returncode == code
    assert err.splitlines()[-1].startswith(f"genrl-graph: {says}, which is lost; what was committed ")
    assert "--resume" in err.splitlines()[-1]
    with RunStore.open(folder, "a") as store:
        assert store.table("answer").num_rows == 4


def test_a_fork_that_is_ended_ends_nothing_else() -> None:
    with stop_on_signals() as stop:
        forked, done = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(done, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(forked, 1)
        for pipe in (forked, done):
            os.close(pipe)
        os.kill(child, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(GRACE_S + 0.2)
        assert not stop.wanted


def test_a_signal_of_another_kind_ends_nothing() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stop_on_signals() as stop:
            for _ in range(200):  # more than the socket is read at a time
                os.kill(os.getpid(), signal.SIGUSR1)
            assert not stop.wanted
    finally:
        signal.signal(signal.SIGUSR1, before)
