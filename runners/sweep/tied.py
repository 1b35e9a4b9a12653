"""Run genrl-graph as a child that ends with its parent: `python tied.py PARENT ARGUMENT ...`; imports nothing else."""

import ctypes
import os
import signal
import sys

prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: the kernel sends it when the parent dies; `exec` keeps this
if os.getppid() != int(sys.argv[1]):
    sys.exit(f"genrl-graph: process {sys.argv[1]}, which started this one, has ended")
os.execv(sys.executable, [sys.executable, "-m", "genrl_graph", *sys.argv[2:]])
