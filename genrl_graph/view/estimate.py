"""The plan's estimate of a run beside what the run took, made on request by a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrl_graph.errors import GenrlGraphError, StoreError
from genrl_graph.store.peer_folders import graph_folder
from genrl_graph.store.run_folder import GRAPH

LIMIT_S = 300.0


def estimated(folder: Path, imports: Sequence[str]) -> dict[str, Any]:
    """Return the forecast of `plan --estimate --compare` for a run folder, as plain values.

    It rehearses rounds, which takes seconds, so it runs in a process that ends. Raises `StoreError` where it fails.
    """
    graph = graph_folder(folder) / GRAPH
    named = [option for script in imports for option in ("--import", script)]
    command = [sys.executable, "-m", "genrl_graph", "plan", str(graph), "--estimate", "--compare", str(folder)]
    try:
        done = subprocess.run(
            [*command, "--format", "json", *named],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"{folder}: the estimate took more than {LIMIT_S:g} s; run genrl-graph plan") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise StoreError(f"{folder}: no estimate: {last[0].removeprefix('genrl-graph: ')}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def estimate_or_reason(folder: Path, imports: Sequence[str]) -> dict[str, Any]:
    """Return the forecast of a run, or `problem` with the reason why there is none."""
    try:
        return estimated(folder, imports)
    except GenrlGraphError as error:
        return {"problem": str(error)}
