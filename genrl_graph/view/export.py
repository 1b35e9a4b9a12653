"""The page frozen into one HTML file: its scripts, its styles and the data that it shows; it needs no network."""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrl_graph.drawing.html import script_safe_json
from genrl_graph.store.durable import write_out
from genrl_graph.view.assets import asset, page
from genrl_graph.view.game import game_values
from genrl_graph.view.lineage import lineage
from genrl_graph.view.rollouts import MOST_ROLLOUTS, RoundTexts, Wanted, newest_rollouts, nodes_with_rollouts
from genrl_graph.view.shown_curves import MOST_CHOSEN, ShownCurves
from genrl_graph.view.watched import Watched
from genrl_graph.view.watched_run import WatchedRun

MODULES = ("dom.js", "source.js", "charts.js", "tables.js", "picture.js", "rollouts.js", "app.js")
"""The scripts of the page, each after those that it imports."""
SPANS = 256
"""The most points of a frozen curve."""
ROLLOUTS, LINEAGES = 20, 60
"""Rollouts of each node, and lineages of each run, that are frozen."""
_IMPORT = re.compile(r'^import \{ (.+) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const) (\w+))", re.MULTILINE)


def export(watched: Watched, out: Path) -> None:
    """Write the page of some runs as one file; raises `StoreError` where the disk refuses."""
    write_out(out, exported(watched).encode())


def exported(watched: Watched) -> str:
    """Return the frozen page: all curves, the newest rollouts of each node and their lineage.

    Its policy admits the scripts that are in it, by their hashes, and no others.
    """
    watched.read_all()
    uplot, script = asset("uplot.js"), bundled(MODULES)
    css = asset("uplot.css") + asset("view.css")
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in (uplot, script))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'sha256-{_sha256(css)}'; img-src data:; base-uri 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{css}</style>\n'
    data = f'<script id="frozen" type="application/json">{script_safe_json(frozen(watched))}</script>'
    html = re.sub(r'<(?:link rel="stylesheet"|script)[^>]*>(?:</script>)?\n', "", page())
    html = html.replace("<title>", f"{head}<title>", 1)
    return html.replace("</body>", f"{data}\n<script>{uplot}</script>\n<script>{script}</script>\n</body>", 1)


def frozen(watched: Watched) -> dict[str, Any]:
    """Return the answers of the server that a frozen page asks for."""
    overview, shown = watched.overview(), ShownCurves(watched, spans=SPANS)
    names, curves = overview["metrics"], dict[str, Any]()
    for at in range(0, len(names), MOST_CHOSEN):
        news = shown.news(names[at : at + MOST_CHOSEN])
        curves |= {name: curve["settings"] for name, curve in news.items()}
    rollouts = [_rollouts(run) for run in watched.runs]
    return {
        "time": time.time(),
        "overview": overview,
        "games": [game_values(run) for run in watched.runs],
        "states": [run.state() for run in watched.runs],
        "curves": curves,
        "rollouts": rollouts,
        "lineages": [_lineages(run, known) for run, known in zip(watched.runs, rollouts, strict=True)],
    }


def bundled(modules: Sequence[str]) -> str:
    """Return ES modules as one classic script: each is a function that returns what the module exports.

    They are written with named imports on one line and exports in front of functions and constants.
    """
    parts = ['"use strict";']
    for name in modules:
        text = asset(name)
        exports = ", ".join(match[1] for match in _EXPORT.finditer(text))
        body = _EXPORT.sub("", _IMPORT.sub(r"const { \1 } = module_\2;", text))
        parts.append(f"const module_{name.removesuffix('.js')} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();")
    return "\n".join(parts)


def _rollouts(run: WatchedRun) -> list[dict[str, Any]]:
    rollouts: list[dict[str, Any]] = []
    for node in nodes_with_rollouts(run.stored):
        wanted = Wanted(node=node, limit=ROLLOUTS)
        found = newest_rollouts(run.stored, wanted, latest=run.latest_round)["rollouts"]
        rollouts += found[:MOST_ROLLOUTS]
    return rollouts


def _lineages(run: WatchedRun, rollouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rounds, latest = RoundTexts(run.stored), run.latest_round
    return {
        one["id"]: lineage(rounds, id=one["id"], node=one["node"], round=one["round"], latest=latest)
        for one in rollouts[:: max(1, len(rollouts) // LINEAGES)]
    }


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
