"""Command line options of the runners: local (one process), torchrun, and swarm."""

import argparse
import re
import socket
from typing import TYPE_CHECKING

from genrl_graph.cli.swarm import add_network_arguments, network_of
from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    from genrl_graph.runners.loop.runner import Runner

RUNNERS = ("local", "torch", "swarm")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--runner` and the options of the runners."""
    group = parser.add_argument_group("how peers meet")
    group.add_argument(
        "--runner",
        choices=RUNNERS,
        default="local",
        help="local: all peers in this process (default); torch: a rank of a torchrun job; swarm: a peer of a swarm",
    )
    group.add_argument("--backend", choices=("gloo", "nccl"), default="gloo", help="of the torch runner's exchanges")
    add_role_argument(group)
    group.add_argument(
        "--peer-name", metavar="NAME", help="name of this swarm peer in seeds and rows (default: the host)"
    )
    group.add_argument("--swarm", metavar="NAME", help="name that separates swarms of one graph (default: the graph's)")
    add_network_arguments(parser, identity="<run folder>/<peer name>.key")


def add_role_argument(parser: "argparse._ActionsContainer") -> None:
    """Add `--role`, which is short for the run option `roles`."""
    parser.add_argument(
        "--role", metavar="ROLE,...", help="roles that this peer plays, such as solver,proposer (default: all)"
    )


def with_roles(args: argparse.Namespace) -> None:
    """Add the option `run.roles` to the overrides where `--role` is given."""
    if args.role is not None:
        args.overrides = [*args.overrides, f"run.roles=[{args.role}]"]


def runner_of(args: argparse.Namespace) -> "Runner | None":
    """Return the runner of `--runner`, None for the local one; raise `ParamError` if its options do not fit."""
    if args.runner == "torch":
        from genrl_graph.runners.torchrun import TorchRunner

        return TorchRunner(backend=args.backend)
    if args.runner == "local":
        return None
    network = network_of(args)
    from genrl_graph.runners.swarm.runner import SwarmRunner

    name = args.peer_name or re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64]
    for flag, text in (("--peer-name", name), ("--swarm", args.swarm or "swarm")):
        if not NAME.fullmatch(text):
            raise ParamError(f"{flag} {text!r}: is not 1 to 64 letters, digits and _.-")
    return SwarmRunner(name=name, network=network, identity=args.identity, swarm=args.swarm)
