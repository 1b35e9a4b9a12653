"""Reduce an answer to what it says: wrappers, LaTeX spacing and typographic variants removed."""

import re

_WRAPS = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("$", "$"), ("`", "`"), ("“", "”"), ('"', '"'))
_VARIANTS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "×": "\\times "}
    | {"÷": "/", "⁄": "/", "π": "\\pi ", "∞": "\\infty ", "°": "^\\circ", "√": "\\sqrt ", "²": "^2", "³": "^3"}
    | {"≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ", "∪": "\\cup ", "·": "\\cdot ", "½": "\\frac12 "}
)
_SPACING = re.compile(r"\\[,;:! ]|~|\\(?:quad|qquad|displaystyle|left|right|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!)(?=\d{3})")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SYNONYMS = ((re.compile(r"\\[dtc]frac"), r"\\frac"), (re.compile(r"\\leq"), r"\\le"), (re.compile(r"\\geq"), r"\\ge"))
_INFINITY = re.compile(r"(?<![\\A-Za-z])(?:infinity|infty)(?![A-Za-z])", re.IGNORECASE)
_DEGREES = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree")


def plain_answer(text: str) -> str:
    """Return an answer without wrappers, LaTeX spacing, a full stop, or typographic variants of one sign."""
    text = text.translate(_VARIANTS).strip()
    while (inner := _unwrapped(text)) != text:
        text = inner
    text = _SPACING.sub(" ", _THOUSANDS.sub("", text)).replace("\\%", "%").replace("\\$", "$")
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    return _DEGREES.sub(" degrees", _INFINITY.sub(r"\\infty", text)).strip()


def words_of(text: str) -> str:
    """Return a plain answer as words: the content of text commands, one space between words, no case."""
    text = _TEXT.sub(r" \1 ", text)
    return " ".join(text.strip().rstrip(".,;:").casefold().split())


def without_text_commands(text: str) -> str:
    r"""Return a plain answer with `\text{...}` and its relatives replaced by their content."""
    return _TEXT.sub(r" \1 ", text).strip()


def _unwrapped(text: str) -> str:
    text = text.removesuffix(".").strip()
    for left, right in _WRAPS:
        inner = text[len(left) : -len(right)]
        if inner and text == left + inner + right and left not in inner and right not in inner:
            return inner.strip()
    return text
