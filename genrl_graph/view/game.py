"""The picture of a run's graph and what is told of each node: all that does not change while it plays."""

from collections.abc import Iterator
from typing import Any

from genrl_graph.drawing.html import dark_rules, panel_data
from genrl_graph.drawing.layout import layout
from genrl_graph.drawing.picture import Picture
from genrl_graph.drawing.render import picture_of
from genrl_graph.drawing.svg import FONT, svg_body
from genrl_graph.view.watched_run import WatchedRun

LIMITS = (
    *("timeout_s", "min_peers", "max_peers", "max_staleness", "on_short", "peer_seconds", "max_rows_per_task"),
    *("max_unjudged", "limits"),
)
"""Params that limit what other peers, or rows that cannot be judged, may cost."""
MOST_PARAM = 4000
"""The length to which the value of a param is cut."""


def _limits(run: WatchedRun) -> Iterator[tuple[str, str]]:
    """Yield the limits of each node that takes rows of other peers, defaults included."""
    for name, part in run.stored.graph.nodes.items():
        fields = type(part.node).model_fields if part.cls is not None else {}
        if "timeout_s" in fields or "peer_seconds" in fields:
            for param in LIMITS:
                if param in fields:
                    yield f"{name}.{param}", _shown(getattr(part.node, param))


def _shown(limit: object) -> str:
    if limit is None:
        return "none"
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def picture_of_run(run: WatchedRun) -> Picture:
    """Return the picture of the graph that a run plays; that of an unknown or broken one shows its problems."""
    return picture_of(run.stored.graph, run.stored.problems)


def game_values(run: WatchedRun) -> dict[str, Any]:
    """Return the picture as SVG, its dark colours, and by node its type, text, params, inputs and outputs."""
    drawn = picture_of_run(run)
    placed = layout(drawn)
    size = f"0 0 {placed.width:.1f} {placed.height:.1f}"
    body = "\n".join(svg_body(placed))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="{FONT}">{body}</svg>'
    boxes = {name: panel_data(drawn, box) | {"kind": box.kind} for name, box in drawn.boxes.items()}
    for box in boxes.values():
        box["params"] = [(name, text[:MOST_PARAM]) for name, text in box["params"]]
    versions = {name: value for name, value in run.stored.versions.items() if isinstance(value, str)}
    config = run.stored.graph.run.model_dump(exclude_defaults=True)
    return {
        "name": drawn.name,
        "subtitle": drawn.subtitle,
        "svg": svg,
        "css": "\n".join(dark_rules(drawn, '[data-theme="dark"] .picture')),
        "boxes": boxes,
        "problems": list(drawn.problems),
        "order": list(run.order.nodes),
        "limits": list(_limits(run)),
        "options": {name: str(value) for name, value in config.items()},
        "versions": versions,
        "folder": str(run.names.folder),
    }
