"""The sandbox: what a call costs beside bubblewrap started by hand, with the same Python and program within both."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from measure import Row, interleaved, report

from genrl_graph.nodes.sandbox.command import find_bubblewrap, python_binary
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.python import run_python

PROGRAM, PRINTED = "print(6 * 7)", "42\n"
TIMES, HELD = 60, 2**30
DEAREST = 2.0
"""Our seconds to those of bubblewrap alone: a call also sets limits, filters system calls, and reads within bounds."""


def test_a_call(contained: None) -> None:
    held = np.ones(HELD, np.uint8)  # a process that trains is large, and to copy its page tables takes time
    bwrap, python = find_bubblewrap(), python_binary()
    assert bwrap is not None and python is not None
    flags = ("-s", "-S", "-B", "-c", PROGRAM)
    own = Path(sys.executable).resolve() if python.prefix is not None else python.path
    bare = [str(own), *flags]
    bound = ["--ro-bind", str(python.prefix), "/py"] if python.prefix is not None else []
    inside = [str(bwrap), "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]
    inside += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", *bound]
    inside += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv", str(python.path), *flags]

    def by_hand(command: list[str]) -> None:
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == PRINTED

    def ours() -> None:
        assert run_python(PROGRAM, limits=SandboxLimits(wall_s=60)).stdout == PRINTED

    calls = {"python": lambda: by_hand(bare), "bubblewrap": lambda: by_hand(inside), "ours": ours}
    for call in calls.values():
        call()
    seconds = interleaved(calls, times=TIMES)
    python_alone = Row("Python alone", seconds["python"])
    by_bwrap = Row("bubblewrap by hand, with Python in it", seconds["bubblewrap"], python_alone)
    rows = [python_alone, by_bwrap, Row("run_python", seconds["ours"], by_bwrap, at_most_ratio=DEAREST)]
    size = f"from a process that holds {held.nbytes / 2**30:g} GiB"
    report("sandbox", f"The sandbox: start, print and end of one program {size}, the median of {TIMES}", rows)
