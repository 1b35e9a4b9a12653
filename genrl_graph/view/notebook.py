"""A stored run that shows itself in a notebook: its picture with numbers, its curves and its last transcripts.

All of it is HTML without scripts; texts of the run are escaped.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from genrl_graph.drawing.measured import measured
from genrl_graph.drawing.render import picture_of
from genrl_graph.drawing.svg import svg
from genrl_graph.errors import GenrlGraphError, StoreError
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.stored_run import open_run as open_stored
from genrl_graph.view.curve import Points
from genrl_graph.view.rollouts import Wanted, newest_rollouts, nodes_with_rollouts
from genrl_graph.view.watched_run import RunName, WatchedRun

WIDTH, HEIGHT = 300, 90
MOST_CURVES, MOST_TRANSCRIPTS, CHARACTERS = 6, 3, 600


class ShownRun(StoredRun):
    """A stored run that a notebook shows as a page of its own."""

    def _repr_html_(self) -> str:
        """Return the picture with the numbers of the run, the curves of its outcomes, and its last rollouts."""
        run = WatchedRun(RunName(self.folder, self.name, 0))
        run.read_all()
        state = run.state()
        names = f"{escape(self.name)}: {escape(self.graph.name)}"
        head = f"{names}, {state['state']}, {state['played']} of {state['rounds']} rounds"
        curves = "".join(_curve(name, run.metrics.curves[name].points()) for name in state["outcomes"][:MOST_CURVES])
        transcripts = "".join(_transcripts(run))
        return f"<div><p><b>{head}</b></p>{_picture(self)}<div>{curves}</div>{transcripts}</div>"


def open_run(path: Path | str) -> ShownRun:
    """Open a run as `records.stored_run.open_run` does; in a notebook it shows itself."""
    stored = open_stored(path)
    return ShownRun(stored.folder, stored.stores)


def _picture(run: StoredRun) -> str:
    try:
        numbers = measured(run.folder, run.graph.nodes)
    except StoreError:  # no round has ended yet
        numbers = None
    return f'<div style="overflow:auto">{svg(picture_of(run.graph, run.problems, run=numbers))}</div>'


def _curve(name: str, points: Points) -> str:
    """Return a small chart of a metric."""
    low, high = float(points.mean.min()), float(points.mean.max())
    last, spread = float(points.rounds[-1]) or 1.0, high - low or 1.0
    at = " ".join(
        f"{4 + (WIDTH - 8) * x / last:.1f},{HEIGHT - 6 - (HEIGHT - 26) * (y - low) / spread:.1f}"
        for x, y in zip(points.rounds.tolist(), points.mean.tolist(), strict=True)
    )
    title = f"{escape(name)}: {points.mean[-1]:.4g} (from {low:.4g} to {high:.4g})"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{title}" style="margin:4px">'
        f'<text x="4" y="13" font-size="11" fill="currentColor">{title}</text>'
        f'<polyline points="{at}" fill="none" stroke="#0072b2" stroke-width="2"/></svg>'
    )


def _transcripts(run: WatchedRun) -> Iterator[str]:
    nodes = nodes_with_rollouts(run.stored)
    if not nodes:
        return
    try:
        found = newest_rollouts(run.stored, Wanted(node=nodes[0], limit=MOST_TRANSCRIPTS), latest=run.latest_round)
    except GenrlGraphError as error:
        yield f"<p>{escape(str(error))}</p>"
        return
    for one in found["rollouts"][:MOST_TRANSCRIPTS]:
        head = f"{one['node']}, round {one['round']}, {one['peer']}, {one['task']}, reward {one['reward']}"
        text = "\n\n".join(_lines(one))
        shown = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
        yield f"<details open><summary>{escape(head)}</summary>{shown}</details>"


def _lines(one: dict[str, Any]) -> Iterator[str]:
    """Yield the parts of a rollout's text, cut."""
    if one["form"] == "boards":
        for move in one["moves"]:
            yield "\n".join([*move["board"], f"action {move['action']}"])
        return
    if one["form"] == "dialogue":
        for turn in one["turns"]:
            yield from (f"[{heard['role']}] {heard['text'][:CHARACTERS]}" for heard in turn["heard"])
            yield f"[seat {turn['seat']}] {turn['said'][:CHARACTERS]}"
        return
    yield from (f"[{part['role']}] {part['text'][:CHARACTERS]}" for part in one["parts"])
