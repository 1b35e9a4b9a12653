"""`tool.python`: run Python that the model writes, in the sandbox."""

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from genrl_graph.contract.tool import Tool, ToolBroken, ToolError
from genrl_graph.nodes.sandbox.limits import SandboxLimits, SandboxResult
from genrl_graph.nodes.sandbox.process import BubblewrapFailed
from genrl_graph.nodes.sandbox.python import prepare_sandbox, run_python, sandbox_problems

NO_OUTPUT = "(no output)"
MOST_ERROR = 1000
"""Most characters of a program's errors that are shown: the last ones say what happened."""


class PythonTool(Tool, name="python"):
    """Runs a Python program in a sandbox, and returns what it prints.

    The program has Python's standard library and an empty /tmp, but no network, no file of this machine and no state of
    earlier programs. One that fails or meets a limit is an error, which the model is shown with what it printed. The
    sandbox is bubblewrap (extra `sandbox`); where it cannot contain code, the run ends before round 0.
    """

    parallel: ClassVar[bool] = True

    limits: SandboxLimits = Field(default=SandboxLimits(), description="what a program may use at most")

    def prepare(self) -> None:
        """Try whether the sandbox contains code here; raises `DataError` if not."""
        prepare_sandbox()

    def check_data(self) -> Iterable[str]:
        """Return why the sandbox cannot contain code here."""
        return sandbox_problems()

    def run(self, code: str) -> str:
        """Run a Python program and return what it prints.

        Args:
            code: the program
        """
        try:
            result = run_python(code, limits=self.limits)
        except BubblewrapFailed as error:
            raise ToolBroken(f"tool.python: {error}") from error
        if not result.ok:
            raise ToolError(result.reason, self._failure(result))
        return result.stdout.rstrip("\n") or NO_OUTPUT

    def _failure(self, result: SandboxResult) -> str:
        limits = self.limits
        reasons = {
            "failed": f"exit code {result.exit_code}",
            "cpu": f"ended after {limits.cpu_s} s of processor time",
            "wall": f"ended after {limits.wall_s:g} s",
            "memory": f"out of memory: it had {limits.memory_mb} MiB",
            "output": f"ended: it wrote more than {limits.output_kb} KiB",
            "killed": "ended by a signal",
        }
        parts = [result.stdout.rstrip("\n"), result.stderr.strip()[-MOST_ERROR:], f"[{reasons[result.reason]}]"]
        return "\n".join(part for part in parts if part)
