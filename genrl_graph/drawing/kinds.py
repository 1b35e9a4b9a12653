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
class Look:
    """A kind's shape, its border and fill (`#rrggbb`), and the sign that stands for it in text."""

    shape: Shape
    line: str
    fill: str
    sign: str
    mermaid: str


LOOKS = {
    "source": Look("cylinder", "#5f6b73", "#e4e8ea", "⊙", '[("{}")]'),
    "generate": Look("stadium", "#0072b2", "#cfe5f3", "▶", '(["{}"])'),
    "exchange": Look("hexagon", "#b36b00", "#fde3b0", "⇄", '{{{{"{}"}}}}'),
    "select": Look("funnel", "#2f8fc9", "#e3f2fb", "▽", '[\\"{}"/]'),
    "reward": Look("bevel", "#00805c", "#c9ebdf", "★", '["{}"]'),
    "advantage": Look("slant", "#8a7d00", "#f8f3b4", "±", '[/"{}"/]'),
    "update": Look("double", "#c24e00", "#fbd5c0", "■", '[["{}"]]'),
    "policy": Look("ellipse", "#a8437f", "#f5dcea", "◆", '(("{}"))'),
    "coordinate": Look("pentagon", "#222222", "#f4f4f4", "▷", '>"{}"]'),
    "carry": Look("rounded", "#a8437f", "#f5dcea", "◇", '("{}")'),
}
OTHER = Look("box", "#444444", "#ffffff", "□", '["{}"]')
INK, MUTED, PAPER, FRAME, FRAME_LINE = "#1b1f24", "#525c66", "#ffffff", "#f5f7f9", "#c9d1d9"
WEIGHTS = "#a8437f"
"""Of the lines that carry policies and other values that updates change."""


def look(kind: str) -> Look:
    """The look of a kind; one of your own is a plain box."""
    return LOOKS.get(kind, OTHER)
