"""Prove that the sandbox contains code here: a program in it tries to get out, once per process."""

import os
import secrets
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path

from genrl_graph.errors import DataError
from genrl_graph.nodes.sandbox import escapes
from genrl_graph.nodes.sandbox.command import find_bubblewrap, python_binary
from genrl_graph.nodes.sandbox.limits import SandboxLimits, SandboxResult
from genrl_graph.nodes.sandbox.process import BubblewrapFailed, run_once
from genrl_graph.nodes.sandbox.syscalls import seccomp_filter

INSTALL = "pip install 'genrl-graph[sandbox]', or your system's package bubblewrap"
ALLOW = (
    "it needs user namespaces for all users: sysctl kernel.unprivileged_userns_clone=1 and "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container a seccomp profile that admits them"
)
_LIMITS = SandboxLimits(memory_mb=64, processes=3, tmp_mb=1, cpu_s=5, wall_s=20)


def proven_bubblewrap() -> Path:
    """Return the bubblewrap that contains code here; raises `DataError` in one line if there is none.

    The answer is kept: neither a program that is installed later nor a setting that is changed is seen.
    """
    proven = _proven(os.getpid())
    if isinstance(proven, str):
        raise DataError(f"the sandbox cannot contain code here: {proven}")
    return proven


@cache
def _proven(_: int) -> Path | str:
    """Return the proven bubblewrap, or the reason why there is none."""
    if not hasattr(os, "memfd_create"):
        return "bubblewrap is for Linux; use a machine, container or virtual machine with it"
    bwrap = find_bubblewrap()
    if bwrap is None:
        return f"bubblewrap is not installed; {INSTALL}"
    if python_binary() is None:
        return f"its user nobody cannot read {sys.executable}; install Python in /usr, or use another user than root"
    if seccomp_filter() is None:
        return "the system calls of this processor are not known; use one with x86_64 or aarch64"
    try:
        escaped = _escapes(bwrap)
    except BubblewrapFailed as error:
        return f"{error}; {ALLOW}"
    return f"code in it can {', '.join(escaped)}; {ALLOW}" if escaped else bwrap


def _escapes(bwrap: Path) -> list[str]:
    """Return what a program in the sandbox can do that none should, as it reports and as is seen from outside."""
    secret = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="genrl-graph-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        server.setblocking(False)
        home = Path(folder)
        home.chmod(0o777)
        (home / "secret").write_text(secret)
        port = server.getsockname()[1]
        source = Path(escapes.__file__).read_text(encoding="utf-8")
        result = run_once(bwrap, source, f"{folder}\n{port}\n{_LIMITS.model_dump_json()}".encode(), _LIMITS)
        escaped = _reported(result)
        if secret in result.stdout + result.stderr:
            escaped.append("read files of this machine")
        if (home / escapes.MARK).exists():
            escaped.append("write files of this machine")
        try:
            server.accept()[0].close()
        except BlockingIOError:
            pass
        else:
            escaped.append("reach the network")
    return list(dict.fromkeys(escaped))


def _reported(result: SandboxResult) -> list[str]:
    lines = result.stdout.splitlines()
    if lines[-1:] == [escapes.DONE]:
        return lines[:-1]
    return [f"not run Python ({result.reason}: {' '.join(result.stderr.split())[-200:]})"]
