"""The `store` command: verify or compact the files of a run, or prove a rollout."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_import_argument, run_imports
from genrl_graph.errors import ParamError, StoreError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_store_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `store`."""
    store = commands.add_parser("store", help="verify what a run has recorded, compact it, or prove a rollout")
    actions = "check every file; finish what a crash left; prove what a rollout was paid"
    store.add_argument("action", choices=("verify", "compact", "prove"), help=actions)
    store.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    store.add_argument("rollout", metavar="ROLLOUT_ID", nargs="?", help="of prove: id of the rollout")
    store.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="of prove: write the proof here, not to the terminal"
    )
    add_import_argument(store)
    store.set_defaults(command=_store)


def _prove(args: argparse.Namespace) -> int:
    from genrl_graph.records.proof import prove
    from genrl_graph.records.stored_run import open_run
    from genrl_graph.store.durable import write_out

    if args.rollout is None:
        raise ParamError("prove: name the rollout, as in `store prove RUN ROLLOUT_ID`")
    proof = prove(open_run(args.folder), args.rollout).json()
    if args.out is None:
        print(proof, end="")
    else:
        write_out(args.out, proof.encode())
    return 0


def _store(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.text import line
    from genrl_graph.records.verify import verify_run
    from genrl_graph.runners.read_through import unreadable
    from genrl_graph.store.peer_folders import run_folders
    from genrl_graph.store.run_folder import missing_run
    from genrl_graph.store.run_store import RunStore

    run_imports(args)
    if args.action == "prove":
        return _prove(args)
    if args.rollout is not None or args.out is not None:
        raise ParamError(f"{args.action}: takes a run folder only")
    folders = run_folders(args.folder)
    if not folders:
        raise missing_run(args.folder)
    if args.action == "compact":
        for folder in folders:
            with RunStore.open(folder, "a") as store:
                moved = store.flush()
            print(f"{folder}: {moved} records moved from the journal to zarr, {store.removed} leftovers removed")
        return 0
    reports = {folder: verify_run(folder) for folder in folders}
    if not any(report.problems for report in reports.values()):
        reports[folders[0]].problems += unreadable(args.folder)
    for folder, report in reports.items():
        for problem in report.problems:
            print(line(problem))
        print(f"{folder}: {'damaged' if report.problems else 'ok'}: {report.summary()}")
    return StoreError.exit_code if any(report.problems for report in reports.values()) else 0
