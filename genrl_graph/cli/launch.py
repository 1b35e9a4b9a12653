"""The `launch` command: write the files that start a job on a cluster."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_graph_arguments, run_imports, valid_graph

if TYPE_CHECKING:
    from argparse import _SubParsersAction

TARGETS = ("local", "slurm", "skypilot", "kubernetes")


def add_launch_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `launch`."""
    launch = commands.add_parser(
        "launch", help="write the files that start a job of many ranks on a cluster; nothing is run"
    )
    add_graph_arguments(launch)
    launch.add_argument("--on", choices=TARGETS, required=True, help="what starts the job")
    launch.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    launch.add_argument("--run", metavar="FOLDER", help="run folder of the job (default: runs/<graph>)")
    launch.add_argument("--nodes", type=_count, default=1, metavar="N", help="machines (default: 1)")
    launch.add_argument("--ranks", type=_count, metavar="N", help="ranks in all (default: run.peers x run.replicas)")
    launch.add_argument("--gpus-per-rank", type=_count_or_none, default=0, metavar="N", help="GPUs (default: 0)")
    launch.add_argument("--cpus-per-rank", type=_count, default=4, metavar="N", help="processors (default: 4)")
    launch.add_argument("--hours", type=_count, default=24, metavar="N", help="longest time of the job (default: 24)")
    launch.add_argument(
        "--memory-gib", type=_count, metavar="N", help="host memory of a rank (default: that of `plan --estimate`)"
    )
    launch.add_argument("--gpu-type", default="A100", metavar="NAME", help="for skypilot (default: A100)")
    launch.add_argument("--image", default="genrl-graph:latest", metavar="NAME", help="container, for kubernetes")
    launch.add_argument("--claim", default="genrl-graph", metavar="NAME", help="volume claim, for kubernetes")
    launch.set_defaults(command=_launch)


def _launch(args: argparse.Namespace) -> int:
    from genrl_graph.runners.launch.job import plan_job
    from genrl_graph.runners.launch.write import write_job

    run_imports(args)
    graph = valid_graph(args).graph
    imports = [text for name in args.imports for text in ("--import", name)]
    job = plan_job(
        graph,
        str(args.graph),
        arguments=[*args.overrides, *imports],
        run=args.run or f"runs/{graph.name}",
        nodes=args.nodes,
        ranks=args.ranks,
        gpus=args.gpus_per_rank,
        cpus=args.cpus_per_rank,
        hours=args.hours,
        memory_gib=args.memory_gib,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    start = write_job(job, args.on, args.out, gpu_type=args.gpu_type, image=args.image, claim=args.claim)
    for line in job.comments():
        print(line)
    print(f"start it with: {shlex.join(start)}")
    return 0


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
