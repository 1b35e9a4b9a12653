"""Worker processes: values, time and memory limits, crashes, and their end."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrl_graph.errors import ParamError
from genrl_graph.nodes.worker.worker import Failure, Worker, WorkerDied, WorkerRaised, WorkerTimeout

FUNCTIONS = """
import asyncio, math, os, signal, subprocess, sys, threading, time

def add(a, b=1):
    return a + b

def echo(value):
    return value

def act(do, value=0.0):
    if do == "hang":
        time.sleep(60)
    if do == "crash":
        print("about to crash", file=sys.stderr)
        os._exit(3)
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit":
        sys.exit(4)
    if do == "raise":
        raise ValueError("no such task\\nsecond line")
    if do == "print":
        print("x" * 200_000)
        os.write(1, b"raw bytes")
        sys.stdout.flush()
    if do == "input":
        return sys.stdin.read() + str(os.read(0, 10))
    if do == "object":
        return object()
    if do == "numpy":
        import numpy
        return [numpy.float32(0.5), numpy.arange(2)]
    if do == "memory":
        return len(bytearray(2_000_000_000))
    if do == "pid":
        return os.getpid()
    if do == "torch":
        return "torch" in sys.modules
    if do == "main thread":
        return threading.current_thread() is threading.main_thread()
    if do == "grandchild":
        return subprocess.Popen(["sleep", "60"]).pid
    if do == "crash with grandchild":
        subprocess.Popen(["sleep", "60"])
        os._exit(5)
    return value

def slow(value):
    time.sleep(0.2)
    return value

async def later(value):
    await asyncio.sleep(0.01)
    return value

class Judge:
    @staticmethod
    def one():
        return 1.0

not_a_function = 5
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("functions") / "json.py"  # named like a module that the protocol needs
    file.write_text(FUNCTIONS)
    return file


@pytest.fixture(scope="module")
def act(functions: Path) -> Iterator[Worker]:
    with Worker(f"{functions}:act", timeout_s=1.0) as worker:
        yield worker


def is_alive(pid: int) -> bool:
    """Return True if the process runs; a zombie counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_a_call_gives_the_value(functions: Path) -> None:
    with Worker(f"{functions}:add", timeout_s=5) as worker:
        assert worker.call([1], {}) == 2
        assert worker.call([1], {"b": 2.5}) == 3.5


def test_a_module_names_the_function_and_a_method_can_be_named(functions: Path) -> None:
    with Worker("math:sqrt", timeout_s=5) as worker:
        assert worker.call([9], {}) == 3.0
    with Worker(f"{functions}:Judge.one", timeout_s=5) as worker:
        assert worker.call([], {}) == 1.0


def test_async_functions_are_awaited(functions: Path) -> None:
    with Worker(f"{functions}:later", timeout_s=5) as worker:
        assert worker.map_rows([{"value": 1}, {"value": None}]) == [1, None]


def test_a_hung_call_is_killed_and_the_next_one_works(functions: Path) -> None:
    with Worker(f"{functions}:act", timeout_s=0.5) as worker:
        first = worker.call(["pid"], {})
        assert isinstance(first, int)
        started = time.monotonic()
        with pytest.raises(WorkerTimeout, match=r"no answer within 0\.5 s"):
            worker.call(["hang"], {})
        assert time.monotonic() - started < 5
        assert not is_alive(first)
        assert worker.call(["pid"], {}) != first


def test_an_interrupt_of_the_parent_leaves_no_answer_behind(functions: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Worker(f"{functions}:slow", timeout_s=5) as worker:
            worker.call(["started"], {})
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                worker.call(["interrupted"], {})
            assert worker.call(["next"], {}) == "next"
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize(
    ("do", "code", "says"), [("crash", 3, "exit code 3"), ("kill", -9, "SIGKILL"), ("exit", 4, "exit code 4")]
)
def test_a_crash_is_told_with_its_code(act: Worker, do: str, code: int, says: str) -> None:
    with pytest.raises(WorkerDied, match=says) as caught:
        act.call([do], {})
    assert caught.value.code == code
    if do == "crash":
        assert caught.value.stderr[-1] == "about to crash"
    assert act.call([""], {"value": 2}) == 2


def test_a_crash_is_seen_although_a_grandchild_holds_the_pipes(functions: Path) -> None:
    with Worker(f"{functions}:act", timeout_s=30) as worker:
        started = time.monotonic()
        with pytest.raises(WorkerDied, match="exit code 5"):
            worker.call(["crash with grandchild"], {})
        assert time.monotonic() - started < 10


def test_an_exception_is_told_with_its_place_and_costs_no_restart(act: Worker) -> None:
    pid = act.call(["pid"], {})
    with pytest.raises(WorkerRaised, match=r"^ValueError: no such task \(json\.py:\d+ in act\)$") as caught:
        act.call(["raise"], {})
    assert (caught.value.type_name, caught.value.message) == ("ValueError", "no such task\nsecond line")
    assert act.call(["pid"], {}) == pid


def test_prints_and_reads_do_not_touch_the_protocol(act: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    assert act.call(["print"], {"value": 0.25}) == 0.25
    assert act.call(["input"], {}) == "b''"
    out, err = capfd.readouterr()
    assert out == "" and err.count("x") == 200_000 and "raw bytes" in err


def test_numpy_values_are_sent_as_numbers_and_lists(functions: Path) -> None:
    with Worker(f"{functions}:act", timeout_s=20) as worker:
        assert worker.call(["numpy"], {}) == [0.5, [0, 1]]


def test_a_value_that_is_no_json_is_refused(act: Worker) -> None:
    with pytest.raises(WorkerRaised, match="returned object, which cannot be sent back"):
        act.call(["object"], {})
    with pytest.raises(WorkerRaised, match="arguments cannot be sent"):
        act.call([object()], {})


def test_the_function_runs_in_the_main_thread_without_torch(act: Worker) -> None:
    assert act.call(["main thread"], {}) is True
    assert act.call(["torch"], {}) is False


def test_a_memory_limit_stops_a_hungry_call(functions: Path) -> None:
    with Worker(f"{functions}:act", timeout_s=20, memory_mb=1500) as worker:
        hungry, fed = worker.map_rows([{"do": "memory"}, {"do": "", "value": 1}])
        assert isinstance(hungry, Failure) and "MemoryError" in hungry.reason
        assert fed == 1


def test_rows_that_fail_cost_no_other_row(act: Worker) -> None:
    rows: list[dict[str, object]] = [{"do": "", "value": float(i)} for i in range(100)]
    for index, do in {0: "hang", 3: "crash", 4: "kill", 50: "raise", 51: "object", 99: "hang"}.items():
        rows[index]["do"] = do
    rows[70]["value"] = None
    rows[71] = {"unknown": 1}
    rows[72] = {"do": {1, 2}}
    values = act.map_rows(rows)
    reasons = {i: value.reason for i, value in enumerate(values) if isinstance(value, Failure)}
    assert set(reasons) == {0, 3, 4, 50, 51, 71, 72, 99}
    assert reasons[0] == reasons[99] == "no answer within 1 s"
    assert reasons[3] == "the worker process died with exit code 3: about to crash"
    assert reasons[4] == "the worker process died with SIGKILL (was the machine out of memory?)"
    assert reasons[50].startswith("ValueError: no such task (json.py:")
    assert reasons[71].startswith("TypeError: act() got an unexpected keyword argument 'unknown'")
    assert all("\n" not in reason for reason in reasons.values())
    assert values[70] is None
    assert [v for i, v in enumerate(values) if i not in reasons and i != 70] == [
        float(i) for i in range(100) if i not in reasons and i != 70
    ]
    assert act.map_rows([]) == []


def test_the_limit_is_for_each_row_not_for_all(functions: Path) -> None:
    with Worker(f"{functions}:slow", timeout_s=1.0) as worker:
        assert worker.map_rows([{"value": i} for i in range(10)]) == list(range(10))


def test_the_start_has_a_limit_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "slow_start.py"
    file.write_text("import time\ntime.sleep(1.5)\ndef f():\n    return 1\n")
    with Worker(f"{file}:f", timeout_s=0.5) as worker:
        assert worker.call([], {}) == 1
    with (
        Worker(f"{file}:f", timeout_s=60, start_timeout_s=0.5) as worker,
        pytest.raises(WorkerTimeout, match=r"slow_start\.py:f: the worker process did not start within 0\.5 s"),
    ):
        worker.map_rows([{}])


@pytest.mark.parametrize("size", [5_000_000, 300_000])
def test_large_rows_travel_both_ways(functions: Path, size: int) -> None:
    rows = [{"value": str(i) * size} for i in range(4)]
    with Worker(f"{functions}:echo", timeout_s=5) as worker:
        assert worker.map_rows(rows) == [row["value"] for row in rows]


@pytest.fixture(scope="module")
def echo(functions: Path) -> Iterator[Worker]:
    with Worker(f"{functions}:echo", timeout_s=20) as worker:
        yield worker


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, max_size=5))
def test_json_values_survive(echo: Worker, values: list[object]) -> None:
    assert echo.map_rows([{"value": value} for value in values]) == values


def test_nan_infinity_and_none_survive(echo: Worker) -> None:
    value = echo.call([[float("nan"), -math.inf, None]], {})
    assert isinstance(value, list) and math.isnan(value[0]) and value[1:] == [-math.inf, None]


def test_a_target_that_cannot_be_loaded_is_told_at_the_first_call(functions: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_here\n")
    for target, says in {
        "no_such_module_here:f": "ModuleNotFoundError: cannot load",
        f"{functions}:missing": "AttributeError: cannot load .*missing",
        f"{functions}:not_a_function": "not_a_function is a int, not a function",
        f"{broken}:f": "No module named 'no_such_module_here'",
    }.items():
        with Worker(target, timeout_s=5) as worker, pytest.raises(WorkerRaised, match=says):
            worker.map_rows([{}])


@pytest.mark.parametrize("target", ["f", "math:", ":f", "__main__:f", "math:<lambda>", "no/such/file.py:f"])
def test_a_target_that_no_process_could_find_is_refused_at_once(target: str) -> None:
    with pytest.raises(ParamError, match="worker"):
        Worker(target, timeout_s=1)


def test_a_limit_must_be_above_zero() -> None:
    with pytest.raises(ParamError, match=r"timeout_s is 0"):
        Worker("math:sqrt", timeout_s=0)


def test_close_ends_the_process_and_its_children(functions: Path) -> None:
    worker = Worker(f"{functions}:act", timeout_s=5)
    pid, grandchild = worker.call(["pid"], {}), worker.call(["grandchild"], {})
    assert isinstance(pid, int) and isinstance(grandchild, int)
    assert is_alive(pid) and is_alive(grandchild)
    worker.close()
    assert not is_alive(pid)
    assert ends_within(grandchild, 5)
    worker.close()
    assert worker.call(["pid"], {}) != pid
    worker.close()


def test_a_process_that_died_between_calls_is_replaced(functions: Path) -> None:
    with Worker(f"{functions}:act", timeout_s=5) as worker:
        pid = worker.call(["pid"], {})
        assert isinstance(pid, int)
        supervisor = parent_of(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
        assert worker.call([""], {"value": 1}) == 1


def test_the_process_ends_with_the_worker_object(functions: Path) -> None:
    worker = Worker(f"{functions}:act", timeout_s=5)
    pid = worker.call(["pid"], {})
    assert isinstance(pid, int)
    del worker
    assert ends_within(pid, 5)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from genrl_graph.nodes.worker.worker import Worker
print("script runs", flush=True)
worker = Worker("beside:pid_or_hang", timeout_s=60)
print(worker.call([False], {}), flush=True)
if len(sys.argv) > 2:
    worker.call([True], {})
"""
BESIDE = """
import os, time
def pid_or_hang(hang):
    if hang:
        time.sleep(60)
    return os.getpid()
"""


def script(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "beside.py").write_text(BESIDE)
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    command = [sys.executable, str(file), str(tmp_path / "beside"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_script_without_a_main_guard_works_and_leaves_no_process(tmp_path: Path) -> None:
    process = script(tmp_path)
    out, _ = process.communicate(timeout=60)
    first, pid = out.splitlines()  # the second line is missing or doubled if the child ran the script again
    assert process.returncode == 0 and first == "script runs"
    assert ends_within(json.loads(pid), 5)


def test_a_killed_parent_takes_a_hung_child_along(tmp_path: Path) -> None:
    process = script(tmp_path, "hang")
    assert process.stdout is not None
    process.stdout.readline()
    pid = json.loads(process.stdout.readline())
    assert is_alive(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert ends_within(pid, 10)


def test_math_answers_are_judged_in_a_worker() -> None:
    with Worker("genrl_graph.nodes.reward.scoring.answers:math_score", timeout_s=20) as worker:
        rows = [{"completion": "\\boxed{1/2}", "answer": "0.5"}, {"completion": "5", "answer": "6"}]
        assert worker.map_rows(rows) == [{"format": 1.0, "correct": 1.0}, {"format": 0.0, "correct": 0.0}]
