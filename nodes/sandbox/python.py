"""`run_python`: run a program in the sandbox."""

from genrl_graph.errors import DataError
from genrl_graph.nodes.sandbox.limits import SandboxLimits, SandboxResult
from genrl_graph.nodes.sandbox.probe import proven_bubblewrap
from genrl_graph.nodes.sandbox.process import run_once


def run_python(source: str, *, stdin: str = "", limits: SandboxLimits | None = None) -> SandboxResult:
    """Run a Python program that nobody trusts, with the standard library, and return how it ended and what it wrote.

    It sees the system's programs and libraries, which it can only read, an empty /tmp, and nothing else: no network,
    no other process, no variable of this process. All of its processes end with it, at a limit, and if this process
    dies. To judge it, compare what it writes with what only the caller knows: a verdict that code computes beside code
    that nobody trusts is worth nothing. Calls from several threads run side by side.

    Raises `DataError` if the sandbox cannot contain code here: this is tried once per process.
    """
    return run_once(proven_bubblewrap(), source, stdin.encode("utf-8", errors="replace"), limits or SandboxLimits())


def prepare_sandbox() -> None:
    """Raise `DataError` unless the sandbox contains code here; later calls take no time."""
    proven_bubblewrap()


def sandbox_problems() -> list[str]:
    """Return why the sandbox cannot contain code here, nothing if it can."""
    try:
        prepare_sandbox()
    except DataError as error:
        return [str(error)]
    return []
