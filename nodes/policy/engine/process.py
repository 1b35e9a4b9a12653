"""A vLLM server that a run launches on loopback, and that does not outlive the run."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genrl_graph.errors import DataError, NodeFailed, ParamError
from genrl_graph.messages import escaped
from genrl_graph.nodes.policy.engine_params import VllmEngine, VllmLaunch
from genrl_graph.nodes.worker import become, supervisor

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.compute.handle import CausalPolicy

HOST = "127.0.0.1"
POLL_S = 0.25
TAIL_BYTES = 2**16
SHOWN_CHARACTERS = 300
END_S = supervisor.KILL_S + 2.0
"""Seconds from SIGTERM until a supervisor that has not ended is killed itself."""
_SERVER = ("-P", "-m", "vllm.entrypoints.openai.api_server")
_OF_OUR_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Environment variables of this Python that another one must not get."""


def interpreter(launch: VllmLaunch) -> str:
    """Return the path of the Python that runs the server; raises `ParamError` or `DataError` if there is none."""
    path = os.environ.get(launch.python, "").strip()
    if not path:
        raise ParamError(
            f"engine.launch.python: the environment variable {launch.python} is not set; export the path of the Python "
            "in whose environment vLLM is"
        )
    if not (Path(path).is_file() and os.access(path, os.X_OK)):
        raise DataError(f"engine.launch.python: {launch.python} is {path!r}, which is no program; export another path")
    return path


class LaunchedServer:
    """A supervised vLLM server: `url` once it runs. It ends with this object, and with this process however that ends.

    Its dtype, model and further flags are `arguments`; those of the params come last.
    """

    def __init__(self, launch: VllmLaunch, arguments: Sequence[str]) -> None:
        program = interpreter(launch)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        self._launch = launch
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the server runs
        command = [program, *_SERVER, *arguments, "--host", HOST, "--port", str(port), *_flags(launch.args)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, become.__file__, *command],
            stdin=subprocess.PIPE,  # its hang-up tells the supervisor that this process has ended
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        self._owner = os.getpid()
        weakref.finalize(self, _end, self.process, self._owner, self._log)

    @property
    def alive(self) -> bool:
        """Return whether the server's process runs."""
        return self.process.poll() is None

    def wait(self) -> None:
        """Wait until the server answers; raises `NodeFailed` if it dies, or does not within `start_timeout_s`."""
        import httpx2

        until = time.monotonic() + self._launch.start_timeout_s
        with httpx2.Client(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < until:
                if not self.alive:
                    raise NodeFailed(f"vLLM ended with exit code {self.process.returncode} as it started: {self.last}")
                with contextlib.suppress(httpx2.HTTPError):
                    if client.get(f"{self.url}/health").status_code == 200:
                        return
                time.sleep(POLL_S)
        raise NodeFailed(
            f"vLLM did not answer within {self._launch.start_timeout_s:g} s; raise engine.launch.start_timeout_s, or "
            f"see what it says: {self.last}"
        )

    @property
    def last(self) -> str:
        """Return the last line of the server's output that tells of an error, else its last line.

        Lines about requests tell that one failed, not why.
        """
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        lines = [line.strip() for line in escaped(tail).splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line and "Traceback" not in line and " HTTP/1.1" not in line]
        return (errors or lines or ["it said nothing"])[-1][-SHOWN_CHARACTERS:]

    def end(self) -> None:
        """End the server and all that it started."""
        _stop(self.process, self._owner)


def _environment() -> dict[str, str]:
    """Return the environment of the server; its calls for weights and adapters exist in development mode only."""
    own = {name: value for name, value in os.environ.items() if name not in _OF_OUR_OWN}
    return own | {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _flags(args: Mapping[str, bool | int | float | str]) -> list[str]:
    """Return arguments of a command line: `--name value`, and `--name` or `--no-name` for a switch."""
    flags: list[str] = []
    for name, value in args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", str(value)]
    return flags


def _end(process: "subprocess.Popen[bytes]", owner: int, log: IO[bytes]) -> None:
    _stop(process, owner)
    log.close()


def _stop(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End the supervisor and all that it supervises; a fork of the owner only closes its copy of the pipe."""
    assert process.stdin
    process.stdin.close()
    if os.getpid() != owner:
        return
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:  # it was stopped, or cannot be scheduled: the server dies with it
        process.kill()
        process.wait()


def server_arguments(policy: "CausalPolicy", params: VllmEngine, model: Path) -> list[str]:
    """Return the arguments of a server for a policy, besides those of the params."""
    arguments = {
        "model": str(model),
        "served-model-name": "base",
        "dtype": params.dtype,
        "max-model-len": str(policy.context_length),
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
    }
    switches = ["--enable-scale-out"]
    if policy.adapts:
        switches.append("--enable-lora")
        arguments["max-lora-rank"] = str(policy.adapter_rank)
    named = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    return [*named, *switches]
