"""The `docs` command: find and open the documentation."""

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import ParamError, WorldError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

FOLDER = Path(__file__).parents[1] / "docs"


def add_docs_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `docs`."""
    docs = commands.add_parser("docs", help="print where the documentation is, and open it in a browser")
    docs.add_argument("type", nargs="?", help="open it at a type such as reward.math; at the start page without it")
    docs.set_defaults(command=_docs)


def _docs(args: argparse.Namespace) -> int:
    address = documentation(FOLDER, args.type)
    print(address, flush=True)
    if sys.stdout.isatty():
        webbrowser.open(address)
    return 0


def documentation(folder: Path, type_name: str | None = None) -> str:
    """Return the address of the built documentation below a folder, at a type if one is named.

    Raises `WorldError` if it is not built, `ParamError` for a type that it does not contain.
    """
    site = folder / "site"
    if not (site / "index.html").is_file():
        advice = f"`make docs` in a clone builds it; its pages as Markdown are in {folder / 'pages'}"
        raise WorldError(f"{site}: the documentation is not built; {advice}")
    if type_name is None:
        return (site / "index.html").as_uri()
    page = site / "reference" / "types" / f"{type_name.partition('.')[0]}.html"
    if not page.is_file() or f'id="{type_name}"' not in page.read_text(encoding="utf-8"):
        raise ParamError(f"docs {type_name}: no type of this name is documented; `genrl-graph nodes` lists all")
    return f"{page.as_uri()}#{type_name}"
