"""The `store` command: verify or compact the files of a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_import_argument, run_imports
from genrl_graph.errors import StoreError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_store_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `store`."""
    store = commands.add_parser("store", help="verify what a run has recorded, or compact it")
    store.add_argument("action", choices=("verify", "compact"), help="check every file; finish what a crash left")
    store.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    add_import_argument(store)
    store.set_defaults(command=_store)


def _store(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.text import line
    from genrl_graph.records.verify import verify_run
    from genrl_graph.runners.read_through import unreadable
    from genrl_graph.store.run_store import RunStore

    run_imports(args)
    if args.action == "compact":
        with RunStore.open(args.folder, "a") as store:
            moved = store.flush()
        print(f"{args.folder}: {moved} records moved from the journal to zarr, {store.removed} leftovers removed")
        return 0
    report = verify_run(args.folder)
    if not report.problems:
        report.problems += unreadable(args.folder)
    for problem in report.problems:
        print(line(problem))
    print(f"{args.folder}: {'damaged' if report.problems else 'ok'}: {report.summary()}")
    return StoreError.exit_code if report.problems else 0
