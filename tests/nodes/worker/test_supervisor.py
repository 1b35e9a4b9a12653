"""Processes that a worker's function starts end with it, and cannot hold or flood what its caller reads."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genrl_graph.nodes.worker.worker import Worker, WorkerDied, WorkerError, WorkerRaised, WorkerTimeout
from genrl_graph.nodes.worker.worker_output import BURST_BYTES

FUNCTIONS = r"""
import contextlib, os, signal, sys, time
from pathlib import Path

PIDS = Path(__file__).with_name("pids")

def started(*, setsid=False, twice=False, stopped=False, deaf=False, shout=False, answers=False):
    # A child that sleeps, or writes for ever, in one of the ways in which processes outlive their parents.
    if os.fork() == 0:
        if setsid:
            os.setsid()
        if twice and os.fork():
            os._exit(0)
        if deaf:
            for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
        with PIDS.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        while shout:
            os.write(2, b"x" * 4096)
        while answers:
            for pipe in range(3, 20):
                with contextlib.suppress(OSError):
                    os.write(pipe, b"\xff" * 4096)
        time.sleep(100)
        os._exit(0)
    while not PIDS.exists() or not PIDS.read_text().endswith("\n"):
        time.sleep(0.01)

def act(then, **how):
    if how:
        started(**how)
    if then == "die":
        os._exit(7)
    if then == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if then == "hang":
        time.sleep(100)
    if then == "kill the group":
        os.killpg(0, signal.SIGKILL)
    return os.getpid()

def flood(megabytes):
    for _ in range(megabytes):
        os.write(2, b"\x1b[2J\x9b1m" + b"x" * (2**20 - 8))
    return megabytes

def die_saying(text):
    print(text, file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)

def fail_saying(text):
    raise ValueError(text)
"""
WAYS: dict[str, dict[str, bool]] = {
    "in a session of its own": {"setsid": True},
    "a daemon": {"setsid": True, "twice": True},
    "an orphan of the same group": {"twice": True},
    "stopped": {"setsid": True, "stopped": True},
    "deaf to signals": {"setsid": True, "deaf": True},
    "shouting": {"setsid": True, "shout": True},
}


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS)
    return file


@pytest.fixture
def all_end(functions: Path) -> Iterator[Callable[[], None]]:
    """A function that asserts that every process that a call noted has ended."""

    def check() -> None:
        pids = [int(line) for line in functions.with_name("pids").read_text().split()]
        deadline = time.monotonic() + 10
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pids and not [pid for pid in pids if is_running(pid)]

    yield check
    for pid in map(int, functions.with_name("pids").read_text().split()):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("way", WAYS)
def test_what_a_dying_function_started_ends_with_it(functions: Path, all_end: Callable[[], None], way: str) -> None:
    began = time.monotonic()
    with Worker(f"{functions}:act", timeout_s=30) as worker:
        with pytest.raises(WorkerDied, match="exit code 7"):
            worker.call(["die"], dict(WAYS[way]))
        assert time.monotonic() - began < 10
        all_end()
        assert isinstance(worker.call(["return"], {}), int)


@pytest.mark.parametrize("end", ["close", "time limit", "crash", "own group killed", "interrupt"])
def test_however_a_worker_ends_its_daemons_end_too(functions: Path, all_end: Callable[[], None], end: str) -> None:
    daemon = {"setsid": True, "twice": True}
    worker = Worker(f"{functions}:act", timeout_s=0.5 if end == "time limit" else 30)
    expected: dict[str, tuple[str, type[WorkerError], str]] = {
        "time limit": ("hang", WorkerTimeout, "no answer"),
        "crash": ("segfault", WorkerDied, "SIGSEGV"),
        "own group killed": ("kill the group", WorkerDied, "SIGKILL"),
    }
    if end in expected:
        then, error, reason = expected[end]
        with pytest.raises(error, match=reason):
            worker.call([then], daemon)
    else:
        assert isinstance(worker.call(["return"], daemon), int)
    if end == "interrupt":
        worker.interrupt()
    if end == "close":
        worker.close()
    all_end()
    worker.close()


def test_a_killed_caller_takes_daemons_along(functions: Path, all_end: Callable[[], None]) -> None:
    code = (
        "import sys; from genrl_graph.nodes.worker.worker import Worker\n"
        "Worker(sys.argv[1], timeout_s=60).call(['hang'], {'setsid': True, 'twice': True})"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, f"{functions}:act"])
    noted = functions.with_name("pids")
    deadline = time.monotonic() + 30
    while not (noted.exists() and noted.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    all_end()


def test_a_child_that_floods_the_answers_ends_the_call(functions: Path, all_end: Callable[[], None]) -> None:
    with (
        Worker(f"{functions}:act", timeout_s=20) as worker,
        pytest.raises(WorkerDied),
    ):
        worker.call(["hang"], {"setsid": True, "answers": True})
    all_end()


def test_a_flood_of_output_is_cut_and_cannot_act_on_the_terminal(
    functions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Worker(f"{functions}:flood", timeout_s=60) as worker:
        began = time.monotonic()
        assert worker.call([100], {}) == 100
        seconds = time.monotonic() - began
    err = capfd.readouterr().err
    assert 2**19 < len(err) < 2 * BURST_BYTES + seconds * 2**17
    assert "\\x1b[2J" in err and not {"\x1b", "\x9b"} & set(err)
    assert err.count("writes too much to stderr; what exceeds 65536 bytes a second is left out") >= 1


HOSTILE = ("\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202etxt", "\x00")


@pytest.mark.parametrize("text", HOSTILE)
def test_reasons_hold_no_control_characters(functions: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(f"{functions}:die_saying", timeout_s=20) as worker, pytest.raises(WorkerDied) as died:
        worker.call([f"so {text} it ends"], {})
    with Worker(f"{functions}:fail_saying", timeout_s=20) as worker, pytest.raises(WorkerRaised) as raised:
        worker.call([f"so {text} it ends"], {})
    for message in (str(died.value), str(raised.value), capfd.readouterr().err.rstrip("\n")):
        assert "so " in message and message.isprintable(), message
