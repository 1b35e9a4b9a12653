"""Text widths, estimated with those of Helvetica: the same on every machine, whatever fonts it has."""

_WIDTHS = {
    " !,./:;[]\\ftI|": 0.278,
    "'ijl": 0.23,
    '"r()-`{}*': 0.35,
    "mM%WwGOQ@—…": 0.86,
    "ABCDEHKNPRSTUVXYZ&": 0.7,
    "·": 0.33,
}
_EM = {character: width for characters, width in _WIDTHS.items() for character in characters}

ROUNDING = 1e-6
"""By how much a sum of widths may be off: a box as wide as its text holds it."""


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return an upper estimate of the width of a text at a font size, in the unit of the size."""
    em = sum(_EM.get(character, 0.56 if ord(character) < 0x2E80 else 1.0) for character in text)
    return em * size * (1.07 if bold else 1.0)


def fitted(text: str, size: float, width: float) -> str:
    """Return the text in one line, truncated where it would be wider than `width`."""
    text = " ".join(text.split())
    if text_width(text, size) <= width + ROUNDING:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
