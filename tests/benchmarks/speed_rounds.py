"""Plays so many tiny rounds and prints what each took in seconds and what the process held after it, in MB."""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from genrl_graph import load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.play import play_schedule
from genrl_graph.runners.tracking.memory import memory, settle_memory

GAME = Path(__file__).resolve().parents[2] / "graphs" / "tiny_multistage.yaml"
ALONE = ["run.peers=1", "nodes.answers.params.min_peers=1", "nodes.critiques.params.min_peers=1"]


def main() -> None:
    settle_memory()  # as the command line does
    rounds, folder = int(sys.argv[1]), Path(sys.argv[2])
    graph = load(GAME, [*ALONE, f"run.rounds={rounds}"])
    schedule = compile_graph(graph)
    last, ended, held = schedule.steps[-1], [], []

    def see(done: StepReport) -> None:
        if done.step == last:
            ended.append(time.perf_counter())
            held.append(1000 * memory()["memory/rss_gb"])

    quiet = Console(quiet=True)
    play_schedule(schedule, graph.run, folder=folder / "rounds", console=quiet, imports={}, see=see)
    seconds = [after - before for before, after in pairwise(ended)]
    print(json.dumps({"rss_mb": held, "seconds": seconds}))


if __name__ == "__main__":
    main()
