"""A launched server: it answers on loopback, is launched again if it dies, and never outlives the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrl_graph.errors import DataError, NodeFailed, ParamError
from genrl_graph.nodes.policy.engine.process import LaunchedServer, interpreter
from genrl_graph.nodes.policy.engine_params import VllmLaunch

HEALTHY = """
import http.server, pathlib, subprocess, sys
args = sys.argv[1:]
pathlib.Path(args[args.index("--model") + 1]).write_text(" ".join(args))
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
pathlib.Path(args[args.index("--model") + 1] + ".child").write_text(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer((args[args.index("--host") + 1], int(args[args.index("--port") + 1])), Handler).serve_forever()
"""
BROKEN = """
import sys
print("ValueError: no such model")
print('"POST / HTTP/1.1" 500 Internal Server Error')
print("bye")
sys.exit(3)
"""


def program(folder: Path, source: str) -> Path:
    """Write a program that stands in for a Python with vLLM in it."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable} -SE\n{source}")
    path.chmod(0o755)
    return path


def running(pid: int) -> bool:
    """Return whether a process exists that has not ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(pid)


def test_a_server_runs_on_loopback_and_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_PYTHON", str(program(tmp_path, HEALTHY)))
    launch = VllmLaunch(args={"max-num-seqs": 8, "enforce-eager": True, "enable-prefix-caching": False})
    server = LaunchedServer(launch, ["--model", str(tmp_path / "seen")])
    server.wait()
    said = (tmp_path / "seen").read_text()
    assert said.startswith("-P -m vllm.entrypoints.openai.api_server --model") and "--host 127.0.0.1 --port" in said
    assert said.endswith("--max-num-seqs 8 --enforce-eager --no-enable-prefix-caching")
    child = int((tmp_path / "seen.child").read_text())
    assert server.alive and running(child)
    server.end()
    assert not server.alive
    wait_until_gone(child)


def test_a_server_ends_if_the_run_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from genrl_graph.nodes.policy.engine.process import LaunchedServer\n"
        "from genrl_graph.nodes.policy.engine_params import VllmLaunch\n"
        "server = LaunchedServer(VllmLaunch(), ['--model', sys.argv[1]])\n"
        "server.wait()\n"
        "print(server.process.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    environment = os.environ | {"ENGINE_PYTHON": str(program(tmp_path, HEALTHY))}
    seen = str(tmp_path / "seen")
    with subprocess.Popen(
        [sys.executable, "-c", script, seen], env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        supervisor, child = int(run.stdout.readline()), int(Path(f"{seen}.child").read_text())
        run.send_signal(signal.SIGKILL)
    wait_until_gone(supervisor)
    wait_until_gone(child)


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_PYTHON", str(program(tmp_path, BROKEN)))
    with pytest.raises(NodeFailed, match="ended with exit code 3 as it started: ValueError: no such model"):
        LaunchedServer(VllmLaunch(), []).wait()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_PYTHON", str(program(tmp_path, "import time\ntime.sleep(1000)\n")))
    server = LaunchedServer(VllmLaunch(start_timeout_s=0.3), [])
    with pytest.raises(NodeFailed, match=r"did not answer within 0.3 s; raise engine.launch.start_timeout_s"):
        server.wait()


def test_the_program_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE_PYTHON", raising=False)
    with pytest.raises(ParamError, match="ENGINE_PYTHON is not set"):
        interpreter(VllmLaunch())
    monkeypatch.setenv("ENGINE_PYTHON", str(tmp_path))
    with pytest.raises(DataError, match="which is no program"):
        interpreter(VllmLaunch())
