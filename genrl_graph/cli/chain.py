"""The `chain` command: serve a test chain, deploy the contract, read it, and prove what it holds."""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrl_graph.cli.coordinator_option import add_coordinator_argument, coordinator_of
from genrl_graph.errors import ChainError, ParamError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from genrl_graph.dag.coordinator_config import CoordinatorConfig

Command = Callable[[argparse.Namespace], int]


def add_chain_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `chain` and its actions."""
    chain = commands.add_parser("chain", help="coordinate runs on a smart contract: serve, deploy, look, verify")
    actions = chain.add_subparsers(required=True, metavar="ACTION")
    _add_serve(actions)
    _add_deploy(actions)
    status = _action(actions, "status", "show the contract's round, and what runs have pending", _status)
    status.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="run folders whose pending reports are shown")
    status.add_argument("--send", action="store_true", help="first send what is pending")
    board = _action(actions, "leaderboard", "rank the peers by reward, from the events of the contract", _leaderboard)
    board.add_argument("--count", type=int, default=20, help="how many peers (default: 20)")
    advance = _action(actions, "advance", "begin the next stage or round; the wallet must be a manager", _advance)
    advance.add_argument("--rounds", type=int, default=0, metavar="N", help="begin N rounds, not one stage")
    register = _action(actions, "register", "register a peer id for the wallet", _register)
    register.add_argument("peer_id", metavar="PEER_ID", help="such as a libp2p id")
    bootnodes = _action(actions, "bootnodes", "show, add or clear the addresses that new peers join", _bootnodes)
    bootnodes.add_argument("--add", action="append", default=[], metavar="MADDR", help="add this; may be given several")
    bootnodes.add_argument("--clear", action="store_true", help="remove all, before any is added")
    verify = _action(actions, "verify", "check a proof of `store prove` against the contract", _verify)
    verify.add_argument("proof", metavar="PROOF", type=Path, help="file of `store prove`")


def _add_serve(actions: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = actions.add_parser("serve", help="serve a test chain with the contract on loopback, until it is stopped")
    serve.add_argument("--port", type=int, default=8545, help="0: any free one (default: 8545)")
    serve.add_argument("--owner", metavar="ADDRESS", help="account with all roles (default: that of the wallet)")
    serve.add_argument("--keystore", metavar="FILE", help="wallet whose account is the owner")
    serve.add_argument("--fund", action="append", default=[], metavar="ADDRESS", help="give this account test ether")
    serve.add_argument("--stages", type=int, default=1, help="stages of a round (default: 1)")
    serve.add_argument("--state", type=Path, metavar="FILE", help="keep the chain in this file (default: in memory)")
    _add_out(serve)
    serve.set_defaults(command=_needs_chain(_serve))


def _add_deploy(actions: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    deploy = actions.add_parser("deploy", help="compile the contract and deploy it from the wallet")
    deploy.add_argument("--endpoint", required=True, metavar="URL", help="JSON-RPC address of the chain")
    deploy.add_argument("--keystore", metavar="FILE", help="wallet (default: GENRL_GRAPH_CHAIN_KEY)")
    deploy.add_argument("--owner", metavar="ADDRESS", help="account with all roles (default: that of the wallet)")
    deploy.add_argument("--stages", type=int, default=1, help="stages of a round (default: 1)")
    deploy.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for the transaction")
    _add_out(deploy)
    deploy.set_defaults(command=_needs_chain(_deploy))


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the file for --coordinator")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _action(
    actions: "_SubParsersAction[argparse.ArgumentParser]", name: str, help: str, command: Command
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help)
    add_coordinator_argument(parser, required=name not in ("status",))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_needs_chain(command))
    return parser


def _needs_chain(command: Command) -> Command:
    """Return the command, with one line where the extra `chain` is not installed."""

    @wraps(command)
    def run(args: argparse.Namespace) -> int:
        try:
            import genrl_graph.runners.chain.endpoint  # noqa: F401
        except ModuleNotFoundError as error:
            raise ChainError(f"chain needs {error.name}; pip install 'genrl-graph[chain]'") from error
        return command(args)

    return run


def _serve(args: argparse.Namespace) -> int:
    import threading

    from genrl_graph.runners.chain.node import ChainNode
    from genrl_graph.runners.chain.serve import serving
    from genrl_graph.runners.chain.wallet import Wallet

    _require_addresses(args.owner, *args.fund)
    if not 1 <= args.stages <= 100:
        raise ParamError(f"--stages {args.stages}: wants 1 to 100")
    node = ChainNode(args.owner or Wallet.open(args.keystore).address, stages=args.stages, state=args.state)
    for address in args.fund:
        node.fund(address)
    try:
        with serving(node, port=args.port) as url:
            _announce(args, {"endpoint": url, "contract": node.contract, "chain_id": node.chain_id})
            threading.Event().wait()
    finally:
        node.close()
    return 0


def _deploy(args: argparse.Namespace) -> int:
    from genrl_graph.runners.chain.deploy import deploy_contract
    from genrl_graph.runners.chain.endpoint import Endpoint
    from genrl_graph.runners.chain.wallet import Wallet

    _require_addresses(args.owner)
    wallet, endpoint = Wallet.open(args.keystore), Endpoint.at(args.endpoint, timeout_s=30.0)
    owner = args.owner or wallet.address
    contract = deploy_contract(endpoint, wallet, owner=owner, stages=args.stages, timeout_s=args.timeout)
    values = {"endpoint": args.endpoint, "contract": contract, "chain_id": endpoint.chain_id()}
    _announce(args, values | ({"keystore": str(Path(args.keystore).absolute())} if args.keystore else {}))
    return 0


def _announce(args: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Write the file for `--coordinator`, and print what is in it."""
    import yaml

    from genrl_graph.store.durable import write_out

    if args.out is not None:
        write_out(args.out, yaml.safe_dump(dict(values), sort_keys=False).encode())
    _print(args, values)


def _status(args: argparse.Namespace) -> int:
    from genrl_graph.runners.chain.status import contract_status, outbox_status, send_pending

    config = coordinator_of(args)
    if config is None and (args.send or not args.runs):
        raise ParamError("--coordinator: name the contract's file, or run folders to look at")
    if args.send and config is not None:
        send_pending(config, args.runs)
    values: dict[str, Any] = {} if config is None else contract_status(config)
    if args.runs:
        values["runs"] = {str(folder): outbox_status(folder) for folder in args.runs}
    _print(args, values)
    return 0


def _leaderboard(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from genrl_graph.runners.chain.leaderboard import leaderboard
    from genrl_graph.runners.chain.run_coordinator import client_of

    config = _config(args)
    standings = leaderboard(client_of(config), from_block=config.from_block)[: args.count]
    if args.json:
        print(json.dumps([asdict(each) for each in standings], indent=1))
        return 0
    for place, each in enumerate(standings, start=1):
        print(f"{place:>4}  {each.reward:>16}  {each.wins:>6} wins  {each.votes:>6} votes  {_text(each.peer_id)}")
    return 0


def _advance(args: argparse.Namespace) -> int:
    from genrl_graph.runners.chain import abi
    from genrl_graph.runners.chain.contract_client import Call
    from genrl_graph.runners.chain.run_coordinator import client_of
    from genrl_graph.runners.chain.status import transact

    config = _config(args)
    client = client_of(config)
    target = client.round() + args.rounds
    while True:
        transact(config, Call(abi.ADVANCE, ()))
        if client.round() >= target:
            break
    _print(args, {"round": client.round(), "stage": client.stage()})
    return 0


def _register(args: argparse.Namespace) -> int:
    from genrl_graph.runners.chain import abi
    from genrl_graph.runners.chain.contract_client import Call
    from genrl_graph.runners.chain.run_coordinator import client_of
    from genrl_graph.runners.chain.status import transact

    config = _config(args)
    transact(config, Call(abi.REGISTER, (args.peer_id,)))
    _print(args, {"peer_id": args.peer_id, "account": client_of(config).eoa(args.peer_id)})
    return 0


def _bootnodes(args: argparse.Namespace) -> int:
    from genrl_graph.runners.chain.contract_client import Call
    from genrl_graph.runners.chain.run_coordinator import client_of
    from genrl_graph.runners.chain.status import transact

    config = _config(args)
    if args.clear:
        transact(config, Call("clearBootnodes()", ()))
    if args.add:
        transact(config, Call("addBootnodes(string[])", (args.add,)))
    _print(args, {"bootnodes": list(client_of(config).bootnodes())})
    return 0


def _verify(args: argparse.Namespace) -> int:
    from genrl_graph.records.proof import read_proof
    from genrl_graph.runners.chain.run_coordinator import client_of
    from genrl_graph.runners.chain.status import committed_root

    config, proof = _config(args), read_proof(args.proof)
    proof.require_consistent()
    event = committed_root(client_of(config), proof, from_block=config.from_block)
    _print(args, {"verified": True, "rollout": proof.rollout_id, "paid": proof.row.get("reward"), **event})
    return 0


def _config(args: argparse.Namespace) -> "CoordinatorConfig":
    from genrl_graph.dag.coordinator_config import EMBEDDED

    config = coordinator_of(args)
    assert config is not None
    if config.endpoint == EMBEDDED:
        raise ParamError("--coordinator embedded: that chain ended with its run; name the file of another one")
    return config


def _require_addresses(*texts: str | None) -> None:
    from genrl_graph.dag.coordinator_config import ADDRESS

    for text in texts:
        if text is not None and not ADDRESS.fullmatch(text):
            raise ParamError(f"{text[:80]!r}: is no address, 0x and 40 hexadecimal digits")


def _print(args: argparse.Namespace, values: Mapping[str, Any]) -> None:
    if args.json:
        print(json.dumps(values, indent=1), flush=True)
        return
    for name, value in values.items():
        inner = value if isinstance(value, dict) else {}
        if not inner:
            print(f"{name}: {_text(value)}", flush=True)
        for key, text in inner.items():
            print(f"{name} {_text(key)}: {_text(text)}", flush=True)


def _text(value: Any) -> str:
    from genrl_graph.messages import escaped

    if isinstance(value, dict):
        return escaped(", ".join(f"{name} {inner}" for name, inner in value.items()))
    return escaped(", ".join(map(str, value)) if isinstance(value, list) else str(value))
