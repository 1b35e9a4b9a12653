"""The shape and colour of each kind of node; either one suffices to tell kinds apart.

The palette is safe for colour-blind readers (Okabe & Ito, Color Universal Design, 2008). No two kinds share a shape,
so the pictures also work in grey.
"""

from dataclasses import dataclass
from typing import Literal

Shape = Literal[
    "cylinder",
    "stadium",
    "hexagon",
    "funnel",
    "bevel",
    "slant",
    "double",
    "ellipse",
    "pentagon",
    "trapezium",
    "box",
    "rounded",
]


@dataclass(frozen=True, slots=True)
class KindStyle:
    """The style of a kind: shape, border and fill colour (`#rrggbb`), sign in text pictures, template in Mermaid."""

    shape: Shape
    line: str
    fill: str
    sign: str
    mermaid: str


STYLES = {
    "source": KindStyle("cylinder", "#5f6b73", "#e4e8ea", "⊙", '[("{}")]'),
    "generate": KindStyle("stadium", "#0072b2", "#cfe5f3", "▶", '(["{}"])'),
    "exchange": KindStyle("hexagon", "#b36b00", "#fde3b0", "⇄", '{{{{"{}"}}}}'),
    "select": KindStyle("funnel", "#2f8fc9", "#e3f2fb", "▽", '[\\"{}"/]'),
    "reward": KindStyle("bevel", "#00805c", "#c9ebdf", "★", '["{}"]'),
    "advantage": KindStyle("slant", "#8a7d00", "#f8f3b4", "±", '[/"{}"/]'),
    "update": KindStyle("double", "#c24e00", "#fbd5c0", "■", '[["{}"]]'),
    "policy": KindStyle("ellipse", "#a8437f", "#f5dcea", "◆", '(("{}"))'),
    "coordinate": KindStyle("pentagon", "#222222", "#f4f4f4", "▷", '>"{}"]'),
    "eval": KindStyle("trapezium", "#7a4b1f", "#efe2d3", "△", '[/"{}"\\]'),
    "carry": KindStyle("rounded", "#a8437f", "#f5dcea", "◇", '("{}")'),
}
WRONG = "#c00000"
"""Colour of what `check` finds wrong."""
MISSING = "missing"
"""The kind of a box in place of a part that an input names and the graph does not have."""
MISSING_STYLE = KindStyle("box", WRONG, "#fdecec", "✗", '["{}"]')
OTHER_STYLE = KindStyle("box", "#444444", "#ffffff", "□", '["{}"]')
INK, MUTED, PAPER, FRAME, FRAME_LINE = "#1b1f24", "#525c66", "#ffffff", "#f5f7f9", "#c9d1d9"
WEIGHTS = "#a8437f"
"""Colour of lines that carry policies and other values that updates change."""


def style_of(kind: str) -> KindStyle:
    """Return the style of a kind; a plain box for a kind that is not listed."""
    return MISSING_STYLE if kind == MISSING else STYLES.get(kind, OTHER_STYLE)
