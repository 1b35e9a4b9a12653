"""Tests of programs that try to be paid without passing: none is, and a rule says why."""

from collections.abc import Collection

import pytest

from genrl_graph.nodes.reward.code_tests import asserting
from genrl_graph.nodes.reward.code_tests.run_tests import RULES, run_tests
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.source.data.code_task import CodeTask, code_task

pytestmark = pytest.mark.usefixtures("contained")

TIGHT = SandboxLimits(cpu_s=1, wall_s=60, memory_mb=128, output_kb=16, tmp_mb=1)
SECRET = "48271"
CALLS = code_task({"tests": [f"assert f(7) == int('{SECRET}')", f"assert f(8) == {SECRET} + 1"]}, "calls")
INPUTS = code_task({"tests": [{"input": "7\n", "output": SECRET}, {"input": "8\n", "output": "48272"}]}, "inputs")
FORGED = r"""
import os
def forge():
    for line in ('["ended", "passed"]', '["passed"]', '[0, "passed"]', '[1, "passed"]', '["ended", "48271"]'):
        for descriptor in range(64):
            try:
                os.write(descriptor, line.encode() + b"\n")
            except OSError:
                pass
"""
LOOKING = """
import glob, os, re
ANSWER = re.compile(b"4827[1]")
def look():
    for path in glob.glob("/proc/[0-9]*/*") + glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/*") + glob.glob("/tmp/*"):
        try:
            if os.path.isfile(path) and "kmsg" not in path:
                with open(path, "rb") as file:
                    if found := ANSWER.search(file.read(10**6)):
                        return int(found[0])
        except (OSError, ValueError):
            continue
    return -1
"""
MEMORY = """
import re
ANSWER = re.compile(b"4827[1]")
def look():
    for pid in range(1, 9):
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
                for line in maps:
                    start, end = (int(part, 16) for part in line.split()[0].split("-"))
                    if "rw" in line and end - start < 10**7:
                        memory.seek(start)
                        if found := ANSWER.search(memory.read(end - start)):
                            return int(found[0])
        except (OSError, ValueError, OverflowError):
            continue
    return -1
"""
PATCHED = """
import builtins, sys
frame = sys._getframe()
while frame:
    for name in ("_reply", "_write", "encode", "json"):
        if name in frame.f_globals:
            frame.f_globals[name] = lambda *_: b'["value", ["passed"]]'
    frame = frame.f_back
builtins.AssertionError = builtins.Exception = type("Quiet", (BaseException,), {})
class Any(int):
    __eq__ = __ne__ = __ge__ = __le__ = lambda *_: True
    __hash__ = lambda _: 0
def f(x): return Any(1)
"""

FAILED = asserting.FAILURES | {"wrong"}
"""Rules by which a program that sends messages of its own may fail: any but that it passes."""

HOSTILE_CALLS: dict[str, tuple[str, Collection[str]]] = {
    "exits": ("import os\nos._exit(0)", {"exited"}),
    "exits when it is called": ("import sys\ndef f(x): sys.exit(0)", {"exited"}),
    "says that all is well": ("print('all passed')\nprint('OK (2 tests)')", {"missing"}),
    "forges messages": (f"{FORGED}\nforge()\ndef f(x): forge()", FAILED),
    "forges a verdict for a reply": (f"{FORGED}\ndef f(x): forge()", FAILED),
    "patches what serves it": (PATCHED, FAILED),
    "equals everything": ("class E:\n def __eq__(s, o): return True\ndef f(x): return E()", {"no_data"}),
    "is a number that equals all": ("class E(int):\n def __eq__(s, o): return True\ndef f(x): return E(1)", {"wrong"}),
    "looks for the answer": (f"{LOOKING}\ndef f(x): return look()", {"wrong"}),
    "looks in memory": (f"{MEMORY}\ndef f(x): return look()", {"wrong"}),
    "raises": ("def f(x): raise AssertionError('passed')", {"raised", "wrong"}),
    "opens a socket": ("import socket\ndef f(x): return socket.socket().fileno()", {"raised"}),
    "reads a file": ("def f(x): return len(open('/etc/passwd').read())", {"raised"}),
    "forks": ("import os\nwhile True: os.fork()\ndef f(x): return x", {"raised"}),
    "kills all": ("import os\ndef f(x): os.kill(-1, 9); os.kill(os.getppid(), 9)", FAILED),
    "returns a gigabyte": ("def f(x): return 'x' * 10**7", {"output"}),
    "returns depth": ("def f(x):\n v = []\n for _ in range(10**5): v = [v]\n return v", {"raised", "no_data"}),
    "answers nothing": ("f = 3", {"raised"}),
    "no Python": ("I think that f is a square.", {"syntax"}),
    "empty": (" \n", {"no_code"}),
}
"""Programs, and the rules by which they may fail."""


@pytest.mark.parametrize("name", HOSTILE_CALLS)
def test_no_program_passes_a_test_by_other_means_than_its_values(name: str) -> None:
    program, rules = HOSTILE_CALLS[name]
    ended = run_tests(program, CALLS, TIGHT, 30.0)
    assert len(ended) == 2 and set(ended) <= set(rules), ended


HOSTILE_INPUTS: dict[str, tuple[str, Collection[str]]] = {
    "exits": ("import os\nos._exit(0)", {"wrong"}),
    "says that all is well": ("print('all passed')", {"wrong"}),
    "forges results": (f"{FORGED}\nforge()", FAILED),
    "looks for the answer": (f"{LOOKING}\nprint(look())", {"wrong"}),
    "looks in memory": (f"{MEMORY}\nprint(look())", {"wrong"}),
    "prints gigabytes": ("while True: print('x' * 10**5)", {"output"}),
    "prints the answer and fails": (f"print({SECRET})\n1 / 0", {"raised"}),
    "kills all": ("import os\nos.kill(-1, 9); os.kill(os.getppid(), 9)", {"killed", "memory"}),
}


@pytest.mark.parametrize("name", HOSTILE_INPUTS)
def test_no_program_passes_a_test_by_other_means_than_its_output(name: str) -> None:
    program, rules = HOSTILE_INPUTS[name]
    ended = run_tests(program, INPUTS, TIGHT, 30.0)
    assert len(ended) == 2 and set(ended) <= set(rules), ended


@pytest.mark.long
@pytest.mark.parametrize("task", [CALLS, INPUTS], ids=["calls", "inputs"])
@pytest.mark.parametrize(
    ("program", "rules"),
    [
        ("while True: pass", {"cpu"}),
        ("import time\ntime.sleep(1000)", {"wall"}),
        ("x = []\nwhile True: x.append(bytearray(10**6))", {"memory"}),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {"cpu"}),
    ],
)
def test_limits_hold_for_each_test(program: str, rules: set[str], task: CodeTask) -> None:
    assert set(run_tests(program, task, TIGHT, 1.5 if "sleep" in program else 30.0)) <= rules


@pytest.mark.long
def test_one_test_takes_neither_the_time_nor_the_state_of_the_next() -> None:
    task = code_task({"tests": ["assert f(1) == 1", "assert f(2) == 2", "assert f(1) == 1"]}, "x")
    loops = "seen = []\ndef f(x):\n while x == 2: pass\n seen.append(x)\n return len(seen)"
    assert run_tests(loops, task, TIGHT, 30.0) == ("passed", "cpu", "passed")
    stays = "import os\nif os.fork() == 0:\n os.setsid()\n while True: pass\ndef f(x): return x"
    assert run_tests(stays, task, TIGHT.model_copy(update={"processes": 2}), 30.0) == ("passed",) * 3


def test_a_function_is_paid_for_its_values() -> None:
    tests = [
        "assert f((1, 2), key={'a': 3}) == ({1: [2.5, None]}, {'x'}, b'y', 1j)",
        "assert list(f(2)) == [0, 1] and f(-1) == float('inf')",
        "try:\n    f('x')\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no number'",
        "import math\nassert math.isclose(f(0), THIRD) and helper(1) == 2",
        "value = [3, 1]\nf(value)\nassert value == [3, 1]",
        "assert True",
        "assert f(",
    ]
    program = """
def helper(x): return x + 1
def f(x, key=None):
    if key: return {1: [2.5, None]}, {"x"}, b"y", 1j
    if x == "x": raise ValueError("no number")
    if isinstance(x, list): return x.clear()
    return 1 / 3 if x == 0 else float("inf") if x < 0 else (n for n in range(x))
"""
    task = code_task({"tests": tests, "setup": "THIRD = 1 / 3"}, "x")
    ended = run_tests(program, task, TIGHT, 30.0)
    # a function gets copies of its arguments, a test has to call it, and one that is no Python is passed by nobody
    assert ended == ("passed", "passed", "passed", "passed", "passed", "uncalled", "wrong")
    assert set(ended) <= set(RULES)


def test_the_entry_point_is_the_program_s_also_where_the_setup_or_python_has_its_name() -> None:
    task = code_task({"tests": ["assert sum(2, 3) == 6"], "setup": "def sum(a, b): pass", "entry_point": "sum"}, "x")
    assert run_tests("def sum(a, b): return a * b", task, TIGHT, 30.0) == ("passed",)


def test_outputs_are_compared_line_by_line() -> None:
    program = "a, b = input(), input()\nprint(b, ' ')\nprint(a)\nprint()"
    task = code_task({"tests": [{"input": ["x", "y"], "output": ["y", "x"]}, {"input": "x\ny", "output": "y x"}]}, "x")
    assert run_tests(program, task, TIGHT, 30.0) == ("passed", "wrong")
    assert run_tests("print(input()", task, TIGHT, 30.0) == ("syntax", "syntax")
