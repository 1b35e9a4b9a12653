"""Limits of a program in the sandbox, and the result of running it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, Field

from genrl_graph.contract.exact_numbers import ExactNumbers

Reason = Literal["ended", "failed", "cpu", "wall", "memory", "output", "killed"]
"""The reason for which a program ended: by itself, with an exit code other than 0, at a limit, or by a signal."""


class SandboxLimits(ExactNumbers):
    """Limits on what a program may use; all its processes together hold `processes` x `memory_mb` and `tmp_mb`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_s: int = Field(default=2, ge=1, le=86400, description="seconds of processor time of a process")
    wall_s: float = Field(default=5.0, gt=0, le=86400, description="seconds from start to end, whatever it does")
    memory_mb: int = Field(default=256, ge=32, le=2**20, description="MiB of address space of a process")
    processes: int = Field(default=1, ge=1, le=1024, description="processes and threads at a time; 1: only its own")
    open_files: int = Field(default=32, ge=8, le=4096, description="open files of a process")
    output_kb: int = Field(default=64, ge=1, le=2**18, description="KiB of its output, and as many of its errors")
    tmp_mb: int = Field(default=16, ge=1, le=2**16, description="MiB of /tmp, the only folder that it can write")


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """The end of a program, told by the kernel and by bubblewrap: nothing that the program writes is taken for it.

    `exit_code` is None if it was ended, or died of a signal. `stdout` and `stderr` are what it wrote, up to the limit;
    `seconds` is its time from start to end, that of the sandbox included. For what reason it failed is what the exit
    code and, for a `MemoryError`, its last words say: a program can pretend one failure for another, but no success.
    """

    reason: Reason
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Return whether the program ended by itself with exit code 0."""
        return self.reason == "ended"
