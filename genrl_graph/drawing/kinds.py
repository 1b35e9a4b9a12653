"""How each kind of node looks: a shape, and a colour of Okabe and Ito's palette, so that either one tells it.

The palette is safe for colour-blind readers (Okabe & Ito, Color Universal Design, 2008); no two kinds share a shape,
so the pictures also work in grey.
"""

from dataclasses import dataclass
from typing import Literal

Shape = Literal[
    "cylinder", "stadium", "hexagon", "funnel", "bevel", "slant", "double", "ellipse", "pentagon", "box", "rounded"
]


@dataclass(frozen=True, slots=True)
class KindStyle:
    """A kind's shape, its border and fill (`#rrggbb`), and the sign that stands for it in text."""

    shape: Shape
    line: str
    fill: str
    sign: str
    mermaid: str


LOOKS = {
    "source": KindStyle("cylinder", "#5f6b73", "#e4e8ea", "⊙", '[("{}")]'),
    "generate": KindStyle("stadium", "#0072b2", "#cfe5f3", "▶", '(["{}"])'),
    "exchange": KindStyle("hexagon", "#b36b00", "#fde3b0", "⇄", '{{{{"{}"}}}}'),
    "select": KindStyle("funnel", "#2f8fc9", "#e3f2fb", "▽", '[\\"{}"/]'),
    "reward": KindStyle("bevel", "#00805c", "#c9ebdf", "★", '["{}"]'),
    "advantage": KindStyle("slant", "#8a7d00", "#f8f3b4", "±", '[/"{}"/]'),
    "update": KindStyle("double", "#c24e00", "#fbd5c0", "■", '[["{}"]]'),
    "policy": KindStyle("ellipse", "#a8437f", "#f5dcea", "◆", '(("{}"))'),
    "coordinate": KindStyle("pentagon", "#222222", "#f4f4f4", "▷", '>"{}"]'),
    "carry": KindStyle("rounded", "#a8437f", "#f5dcea", "◇", '("{}")'),
}
OTHER = KindStyle("box", "#444444", "#ffffff", "□", '["{}"]')
INK, MUTED, PAPER, FRAME, FRAME_LINE = "#1b1f24", "#525c66", "#ffffff", "#f5f7f9", "#c9d1d9"
WEIGHTS = "#a8437f"
"""Of the lines that carry policies and other values that updates change."""


def look(kind: str) -> KindStyle:
    """The look of a kind; one of your own is a plain box."""
    return LOOKS.get(kind, OTHER)
