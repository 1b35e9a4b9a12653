"""News for one open page: the state of its run and the curves that it shows, as far as they have changed."""

import time
from collections.abc import Sequence
from typing import Any

from genrl_graph.view.shown_curves import ShownCurves
from genrl_graph.view.watched import Watched
from genrl_graph.view.watched_run import WatchedRun

MOST_OUTCOMES = 9
"""The most curves of a page that names none."""


class PageNews:
    """Tells a page the whole state of a run once, and then what has changed since it was told.

    `chosen` are the metrics whose curves the page shows; None: the first outcomes of the run.
    """

    def __init__(self, watched: Watched, run: WatchedRun, chosen: Sequence[str] | None) -> None:
        self._watched, self._run, self._chosen = watched, run, chosen
        self._curves = ShownCurves(watched)
        self._told: dict[str, Any] = {}

    def next(self) -> dict[str, Any]:
        """Return what is new: parts of the state, nodes by name, and points of curves; `whole` the first time."""
        state, told = self._run.state(), self._told
        self._told = state
        nodes = {name: node for name, node in state["nodes"].items() if told.get("nodes", {}).get(name) != node}
        parts = {name: value for name, value in state.items() if name != "nodes" and told.get(name) != value}
        names = state["outcomes"][:MOST_OUTCOMES] if self._chosen is None else self._chosen
        news = {"time": time.time(), "whole": not told, "state": parts, "nodes": nodes}
        return news | {"curves": self._curves.news(names)}
