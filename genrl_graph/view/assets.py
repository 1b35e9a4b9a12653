"""The files of the page: its HTML, styles and scripts, as they lie in the package."""

from functools import cache
from importlib.resources import files

TYPES = {
    "view.css": "text/css",
    "uplot.css": "text/css",
    "uplot.js": "text/javascript",
    "app.js": "text/javascript",
    "charts.js": "text/javascript",
    "dom.js": "text/javascript",
    "picture.js": "text/javascript",
    "rollouts.js": "text/javascript",
    "source.js": "text/javascript",
    "tables.js": "text/javascript",
}
"""The files that the page loads, and their media types."""


@cache
def asset(name: str) -> str:
    """Return the text of one of the files."""
    assert name in TYPES
    return files("genrl_graph.view").joinpath("static", name).read_text(encoding="utf-8")


@cache
def page() -> str:
    """Return the HTML of the page; it holds no text of a run."""
    return files("genrl_graph.view").joinpath("static", "view.html").read_text(encoding="utf-8")
