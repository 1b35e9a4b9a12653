"""The `swarm` command, and the network options of a swarm peer."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import SwarmError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from genrl_graph.runners.swarm.transport.network import NetworkOptions

IDENTITY = Path("identity.key")
ADDRESSES = ("--listen", "--join", "--announce", "--trusted-relay")
ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6|dnsaddr|p2p)/")


def add_swarm_commands(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `swarm`."""
    swarm = commands.add_parser("swarm", help="run a rendezvous peer, through which others find each other")
    actions = swarm.add_subparsers(required=True, metavar="ACTION")
    bootstrap = actions.add_parser("bootstrap", help="run a rendezvous peer, which plays nothing, until it is stopped")
    add_network_arguments(bootstrap, identity=str(IDENTITY))
    bootstrap.set_defaults(command=_bootstrap)


def add_network_arguments(parser: argparse.ArgumentParser, *, identity: str) -> None:
    """Add the options of `NetworkOptions`, and `--identity` with the key file that is its default."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help=f"key file, made if missing; it is who the peer is (default: {identity})",
    )
    _add_addresses(group, "--listen", "listen here (default: /ip4/127.0.0.1/tcp/0; /ip4/0.0.0.0/tcp/PORT for others)")
    _add_addresses(group, "--join", "join the swarm of this peer, /p2p/<id> included; none: be the first")
    _add_addresses(group, "--announce", "tell others this address, such as a forwarded port")
    _add_addresses(group, "--trusted-relay", "with --auto-relay: use these relays, not the joined peers")
    group.add_argument("--no-auto-nat", action="store_true", help="do not find out whether others can reach this peer")
    group.add_argument("--no-relay", action="store_true", help="neither reach others through relays nor be one")
    group.add_argument("--auto-relay", action="store_true", help="behind a NAT: be reached through relays")
    group.add_argument(
        "--reachability", choices=("auto", "public", "private"), help="say whether others can reach this peer"
    )
    group.add_argument("--nat-port-map", action="store_true", help="ask the router for a port (UPnP, NAT-PMP)")
    group.add_argument("--client-mode", action="store_true", help="hold no part of the DHT")
    group.add_argument("--start-timeout", type=_seconds, default=20.0, metavar="SECONDS", help="for the libp2p daemon")
    group.add_argument(
        "--join-timeout", type=_seconds, default=10.0, metavar="SECONDS", help="for a joined peer to answer"
    )


def spread_addresses(argv: Sequence[str]) -> list[str]:
    """Give each address its own option: `--join A B x=1` becomes `--join A --join B x=1`."""
    spread: list[str] = []
    flag: str | None = None
    for text in argv:
        if text in ADDRESSES:
            flag = text
        elif not ADDRESS.match(text):
            flag = None
        elif flag is not None and spread[-1] != flag:
            spread.append(flag)
        spread.append(text)
    return spread


def network_of(args: argparse.Namespace) -> "NetworkOptions":
    """Return the options as `NetworkOptions`; raise `ParamError` for a wrong address, `SwarmError` without hivemind."""
    try:
        from genrl_graph.runners.swarm.transport.network import NetworkOptions
    except ModuleNotFoundError as error:
        raise SwarmError(f"the swarm needs {error.name}; pip install 'genrl-graph[swarm]'") from error

    return NetworkOptions(
        **({"listen": tuple(args.listen)} if args.listen else {}),
        join=tuple(args.join),
        announce=tuple(args.announce),
        auto_nat=not args.no_auto_nat,
        use_relay=not args.no_relay,
        use_auto_relay=args.auto_relay,
        trusted_relays=tuple(args.trusted_relay),
        nat_port_map=args.nat_port_map,
        client_mode=args.client_mode,
        reachability=args.reachability or "auto",
        start_timeout_s=args.start_timeout,
        join_timeout_s=args.join_timeout,
    )


def _add_addresses(group: argparse._ArgumentGroup, flag: str, help: str) -> None:
    group.add_argument(flag, action="append", default=[], metavar="MADDR", help=f"{help}; may be given several")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return seconds


def _bootstrap(args: argparse.Namespace) -> int:
    args.reachability = args.reachability or "public"  # forced, so that it relays from its start
    network = network_of(args)
    from genrl_graph.runners.swarm.transport.bootstrap import serve_bootstrap

    serve_bootstrap(args.identity or IDENTITY, network, tell=lambda line: print(line, flush=True))
    return 0
