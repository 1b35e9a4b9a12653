"""The code under test, in a sandbox: each test in a process of its own, which only computes values and prints.

Nothing here knows what a test expects, and nothing that is written here is taken for a verdict. A program that patches
this file's code, writes to its pipes or kills its processes can only give other values, which it could return anyway.
"""

import json
import os
import resource
import signal
import sys
import time
from typing import Any

from genrl_graph.nodes.reward.code_tests.values import NotData, decode, encode

RAISED, NO_MEMORY, NO_SYNTAX = 120, 121, 122
"""Exit codes of a process whose program did not end by itself."""
_REASONS = {0: "ended", RAISED: "raised", NO_MEMORY: "memory", NO_SYNTAX: "syntax"}
_CHUNK = 2**16


class Child:
    """A process that runs the program for one test, for at most `test_s` seconds."""

    def __init__(self, test_s: float) -> None:
        self._timed_out = False
        self.pid = os.fork()
        if self.pid:
            signal.signal(signal.SIGALRM, self._end)
            signal.setitimer(signal.ITIMER_REAL, test_s)

    def _end(self, *_: object) -> None:
        self._timed_out = True
        kill_all()

    def reason(self) -> str:
        """Wait for the end of the process, end what it has started, and say how it ended."""
        _, status, usage = os.wait4(self.pid, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        while kill_all():  # what it has started counts as a process until it is gone
            time.sleep(0.001)
        if self._timed_out:
            return "wall"
        if os.WIFSIGNALED(status):
            used_up = usage.ru_utime + usage.ru_stime >= resource.getrlimit(resource.RLIMIT_CPU)[0]
            by_system = "cpu" if used_up else "memory"  # one may ignore the signal at its limit
            return {signal.SIGXCPU: "cpu", signal.SIGKILL: by_system}.get(signal.Signals(os.WTERMSIG(status)), "killed")
        return _REASONS.get(os.WEXITSTATUS(status), "exited")


def kill_all() -> bool:
    """Kill every process of the sandbox but this one and bubblewrap's; return whether there was one."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def run_inputs(program: str, inputs: list[str], *, test_s: float, most_output: int) -> None:
    """Run the program once per standard input; write a line `[reason, output]` for each to standard output."""
    for text in inputs:
        output, writer = os.pipe()
        stdin = _file_of(text)
        child = Child(test_s)
        if child.pid == 0:
            os.dup2(stdin, 0)
            os.dup2(writer, 1)
            _silence(2)
            _close_others()
            _become(program, "__main__")
        os.close(writer)
        os.close(stdin)
        content, reason = _read(child, output, most_output)
        os.close(output)
        _write(1, json.dumps([reason, content.decode(errors="replace")]).encode() + b"\n")


def serve_calls(program: str, *, test_s: float, most_output: int) -> None:
    """Call functions of the program for who asks on standard input; each test begins with a line `["begin"]`."""
    while _read_line(0):
        child = Child(test_s)
        if child.pid == 0:
            requests, replies = os.dup(0), os.dup(1)
            for descriptor in (0, 1, 2):
                _silence(descriptor)
            namespace = _become(program, "solution")
            _write(replies, b'["ready"]\n')
            while (request := json.loads(_read_line(requests)))[0] == "call":
                _write(replies, _reply(namespace, request[1:], most_output) + b"\n")
            os._exit(0)
        _write(1, json.dumps(["ended", child.reason()]).encode() + b"\n")


def _become(program: str, name: str) -> dict[str, Any]:
    """Execute the program; as `__main__` it is all that this process does."""
    namespace: dict[str, Any] = {"__name__": name}
    code = NO_SYNTAX
    try:
        compiled = compile(program, "solution.py", "exec")
        code = RAISED
        exec(compiled, namespace)  # the sandbox is made for it
        code = 0
    except MemoryError:
        code = NO_MEMORY
    except SystemExit as error:
        code = 0 if error.code in (None, 0) else RAISED
        name = "__main__"
    except BaseException:  # whatever it raises, it has ended
        pass
    if name == "__main__" or code:
        if sys.stdout is not None:
            sys.stdout.flush()
        os._exit(code)
    return namespace


def _reply(namespace: dict[str, Any], request: list[Any], most: int) -> bytes:
    name, arguments, keywords = request
    if name not in namespace:
        return json.dumps(["missing", name]).encode()
    try:
        args, kwargs = decode(arguments), decode(keywords)
        reply = json.dumps(["value", encode(namespace[name](*args, **kwargs))]).encode()
    except NotData as error:
        reply = json.dumps(["no_data", str(error)[:100]]).encode()
    except MemoryError:
        reply = json.dumps(["memory"]).encode()
    except RecursionError:
        reply = json.dumps(["raised", "RecursionError", ""]).encode()
    except Exception as error:
        reply = json.dumps(["raised", type(error).__name__, str(error)[:1000]]).encode()
    return reply if len(reply) <= most else json.dumps(["output"]).encode()


def _read(child: Child, output: int, most: int) -> tuple[bytes, str]:
    """Return what a process writes, and how it ended; one that writes too much is killed."""
    content = bytearray()
    while chunk := os.read(output, _CHUNK):
        content += chunk
        if len(content) > most:
            kill_all()
            child.reason()
            return bytes(content[:most]), "output"
    return bytes(content), child.reason()


def _read_line(descriptor: int) -> bytes:
    """Return the next line, b"" at the end; the other side writes one line and waits."""
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return b""
        line += chunk
    return bytes(line)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _file_of(text: str) -> int:
    """Return a descriptor of a file that holds a text and has no name any more."""
    descriptor = os.open("/tmp", os.O_RDWR | os.O_TMPFILE, 0o600)
    _write(descriptor, text.encode("utf-8", errors="replace"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _silence(descriptor: int) -> None:
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _close_others() -> None:
    os.closerange(3, 64)
