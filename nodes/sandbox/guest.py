"""The first code in the sandbox: set the limits, then become the program. Its source is passed to `python -c`.

The limits are set here, since that on processes counts within the sandbox's own user namespace only from inside.
"""

import os
import resource
import sys
from types import TracebackType

PROGRAM = "/program.py"


def _limit() -> None:
    cpu_s, memory, processes, open_files, file_bytes = map(int, sys.argv[1:])
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    for name, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(name, (most, most))


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of the program without the frame of this file."""
    error.__traceback__ = trace.tb_next if trace is not None else None
    sys.__excepthook__(kind, error, error.__traceback__)


if __name__ == "__main__":
    _limit()
    with open(PROGRAM, encoding="utf-8") as _file:  # noqa: PTH123  # pathlib takes 4 ms to import
        _source = _file.read()
    sys.argv, sys.excepthook = [PROGRAM], _show
    exec(compile(_source, PROGRAM, "exec"), {"__name__": "__main__", "__file__": PROGRAM})
