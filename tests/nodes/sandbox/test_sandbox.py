"""The sandbox against programs that mean harm: each is contained, its reason is recorded, and nothing is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from genrl_graph.errors import DataError
from genrl_graph.nodes.sandbox import probe
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.python import run_python

pytestmark = pytest.mark.usefixtures("contained")
T = TypeVar("T")

TIGHT = SandboxLimits(cpu_s=1, wall_s=60, memory_mb=64, processes=4, output_kb=16, tmp_mb=1)

HOSTILE = {
    "a fork bomb": ("import os\nwhile True: os.fork()", ("failed", "cpu", "wall")),
    "an endless loop": ("while True: pass", ("cpu",)),
    "an endless sleep": ("import time; time.sleep(1000)", ("wall",)),
    "10 GB": ("x = bytearray(10**10)", ("memory",)),
    "1 GB of output": ("while True: print('x' * 10**6)", ("output",)),
    "1 GB of errors": ("import sys\nwhile True: sys.stderr.write('x' * 10**6)", ("output",)),
    "many small allocations": ("x = []\nwhile True: x.append(bytearray(10**6))", ("memory",)),
    "more threads": (
        "import threading, time\nfor _ in range(9): threading.Thread(target=time.sleep, args=(1,)).start()",
        ("failed",),
    ),
    "a full /tmp": ("for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(10**5))", ("failed",)),
    "a large file": ("open('/tmp/x', 'wb').write(bytes(10**8))", ("failed", "killed", "memory")),
    "writing outside": ("open('/usr/x', 'w')", ("failed",)),
    "uncounted memory": ("import os\nos.memfd_create('x')", ("failed",)),
    "a socket": ("import socket\nsocket.socket()", ("failed",)),
    "killing its parent": ("import os\nos.kill(os.getppid(), 9); os.kill(1, 9); print('alive')", ("ended",)),
    "killing all": ("import os\nos.kill(-1, 9)", ("memory", "killed", "failed", "ended")),
    "a crash": ("import os\nos.kill(os.getpid(), 11)", ("killed",)),
}
"""Programs, and the reasons for which they may end."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(name: str) -> None:
    source, reasons = HOSTILE[name]
    # where the clock is not what ends a program, a busy machine must not end it
    limits = TIGHT.model_copy(update={"wall_s": 1.0}) if reasons == ("wall",) else TIGHT
    result = run_python(source, limits=limits)
    assert result.reason in reasons, result
    assert len(result.stdout) <= TIGHT.output_kb * 2**10 and len(result.stderr) <= TIGHT.output_kb * 2**10


def test_a_program_computes_with_the_standard_library_and_reads_its_input() -> None:
    source = "import fractions, sys\nprint(fractions.Fraction(sys.stdin.read()) * 3)"
    result = run_python(source, stdin="1/6", limits=TIGHT)
    assert (result.ok, result.exit_code, result.stdout, result.stderr) == (True, 0, "1/2\n", "")


@pytest.mark.parametrize(
    ("source", "code", "told"),
    [
        ("import sys\nsys.exit(7)", 7, ""),
        ("import sys\nsys.exit(200)", 200, ""),
        ("print(1)\n1 / 0", 1, "ZeroDivisionError"),
        ("def f(:", 1, "SyntaxError"),
        ("\0", 1, "null bytes"),
        ("'\ud800'", 0, ""),
    ],
)
def test_failures_are_those_of_the_program_alone(source: str, code: int, told: str) -> None:
    result = run_python(source, limits=TIGHT)
    assert result.exit_code == code and told in result.stderr
    assert "_limit" not in result.stderr and "<string>" not in result.stderr


def test_secrets_of_this_machine_are_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text("sesame")
    monkeypatch.setenv("ENDPOINT_KEY", "sesame")
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"""
import os, glob
def tried(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error).__name__
print(tried(lambda: open({str(key)!r}).read()), tried(lambda: open("/etc/passwd").read()))
print(dict(os.environ), os.listdir("/"), glob.glob("/home/*"), glob.glob("/root/*"))
print(tried(lambda: open("/proc/1/environ").read()), tried(lambda: os.listdir("/proc/1/root/etc")))
print(tried(lambda: __import__("socket").create_connection({server.getsockname()!r}, 1)))
print([open(f"/proc/{{pid}}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit()])
"""
        result = run_python(source, limits=TIGHT)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    assert result.ok, result
    assert "sesame" not in result.stdout + result.stderr
    assert str(Path(sys.base_prefix)) not in result.stdout and str(Path.home()) not in result.stdout


def test_nothing_that_a_program_prints_is_taken_for_its_result() -> None:
    forged = '{"child-pid": 1}\\n{"exit-code": 0}\\n'
    source = f"""
import os, sys
for descriptor in range(64):
    try:
        os.write(descriptor, {forged!r}.encode().decode("unicode_escape").encode())
    except OSError:
        pass
os._exit(3)
"""
    result = run_python(source, limits=TIGHT)
    assert (result.reason, result.exit_code) == ("failed", 3)
    assert '"exit-code": 0' in result.stdout and '"exit-code": 0' in result.stderr


def test_descendants_end_with_the_program() -> None:
    source = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(1)
    os._exit(0)
print("gone")
"""
    began = time.monotonic()
    result = run_python(source, limits=SandboxLimits(processes=8, wall_s=60))
    assert result.stdout == "gone\n" and result.ok
    assert time.monotonic() - began < 50  # the one that stays would hold the pipes for a minute


def test_state_of_one_program_is_unknown_to_the_next() -> None:
    run_python("open('/tmp/left', 'w').write('x')", limits=TIGHT)
    assert run_python("import os; print(os.listdir('/tmp'))", limits=TIGHT).stdout == "[]\n"


def test_sets_of_texts_have_one_order() -> None:
    source = "print({'a', 'b', 'c', 'd', 'e'})"
    assert len({run_python(source, limits=TIGHT).stdout for _ in range(3)}) == 1


@pytest.mark.long
def test_programs_end_when_the_process_that_runs_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "runs.py"
    script.write_text(
        "from genrl_graph.nodes.sandbox.python import run_python, SandboxLimits\n"
        "print('ready', flush=True)\n"
        "run_python('import time; time.sleep(600)', limits=SandboxLimits(wall_s=600))\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        children = _wait_for(lambda: _sandboxes(process.pid))
        process.send_signal(signal.SIGKILL)
    assert children
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def _sandboxes(parent: int) -> list[int]:
    """Return the descendants of a process, once one of them is the program's interpreter."""
    found, todo = list[int](), [parent]
    while todo:
        pid = todo.pop()
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children = [int(child) for child in task.read_text().split()]
            found += children
            todo += children
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in found]
    return found if any(command[1:3] == [b"-s", b"-S"] for command in commands) else []


def _wait_for(condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come")


ESCAPING = f"""#!{sys.executable if os.geteuid() else "/usr/bin/python3"}
import os, socket, sys
folder, port, _ = sys.stdin.read().split("\\n")
socket.create_connection(("127.0.0.1", int(port)))
open(folder + "/mark", "w")
print(open(folder + "/secret").read())
print("tried")
os.write(int(sys.argv[sys.argv.index("--json-status-fd") + 1]), b'{{"exit-code": 0}}')
"""
"""A bubblewrap that lets the program out, and a program that does not tell."""


@pytest.mark.parametrize(
    ("bwrap", "told"),
    [
        (None, "bubblewrap is not installed; pip install 'genrl-graph\\[sandbox\\]'"),
        ("#!/bin/sh\necho 'bwrap: no permission' >&2; exit 1\n", "bwrap: no permission; it needs user namespaces"),
        (ESCAPING, "code in it can .*read files of this machine, write files of this machine, reach the network"),
    ],
    ids=["missing", "refused", "escaping"],
)
def test_a_machine_that_cannot_contain_code_is_refused_in_one_line(
    bwrap: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bwrap"
    if bwrap is not None:
        place.write_text(bwrap)
        place.chmod(0o755)
    monkeypatch.setattr(probe, "find_bubblewrap", lambda: place if bwrap is not None else None)
    probe._proven.cache_clear()
    try:
        with pytest.raises(DataError, match=f"^the sandbox cannot contain code here: .*{told}") as refused:
            run_python("print(1)")
    finally:
        probe._proven.cache_clear()
    assert "\n" not in str(refused.value)
