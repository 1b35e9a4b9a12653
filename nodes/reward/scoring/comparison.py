"""Compare an answer with a reference by the kind of answer that the reference is."""

import re
from collections.abc import Iterator

from genrl_graph.nodes.reward.scoring.answer_types import AnswerType, is_code, read_date, type_of
from genrl_graph.nodes.reward.scoring.formulas import equal_formulas
from genrl_graph.nodes.reward.scoring.numbers import equal_numbers, read_number
from genrl_graph.nodes.reward.scoring.plain_text import plain_answer, without_text_commands, words_of

_LETTER = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:(?:final\s+)?answer|option|choice)?\s*(?:is|:)?\s*"
    r"(?:\((?P<inside>[A-Ja-j])\)|(?P<bare>[A-Ja-j])(?:[.):]|\s*$))",
    re.IGNORECASE,
)
_LETTER_IN_PROSE = re.compile(r"\(([A-J])\)|(?:is|:)\s*\**([A-J])\b")
_OTHER_LETTERS = re.compile(r"\(([A-J])\)|\b([A-J])[.):]|\b(?:or|and)\s+([A-J])\b")
_ANSWER_IS = re.compile(r"(?:is|are|=|:|≈|\\approx|about|approximately)\s+(?=\S+[^=]*$)", re.IGNORECASE)
_LABEL = re.compile(r"^(?:[a-zA-Z]\w{0,15}|\\[a-zA-Z]+|[A-Za-z]\([a-z]\))\s*(?:=|\\approx|≈)\s*(?!=)(?P<value>[^=]+)$")
_ABOUT = re.compile(r"^(?:\\approx|≈|~|about|approximately|roughly)\s*", re.IGNORECASE)
_OPENING, _CLOSING = "([{", ")]}"
_AND = re.compile(r"\s+(?:and|or)\s+")
_NUMBER = r"(?<![\w.,/^{\\-])[-+]?[$€£]?(?:\d+\s*/\s*\d+|\d[\d,]*(?:\.\d+)?)%?(?![\w/^{\\]|[.,:-]\d)"
_VALUE_IN_PROSE = re.compile(rf"\$(?P<dollars>[^$]+)\$|\\\((?P<brackets>.+?)\\\)|(?P<number>{_NUMBER})")
_WORD = re.compile(r"\b[^\W\d_]{3,}|\bis\b|\bno\b", re.IGNORECASE)


def is_equal(reference: str, candidate: str, answer_type: AnswerType) -> bool:
    """Return True if a plain candidate answers as the plain reference does; `auto` decides the kind by the reference.

    Raises `TooLarge` (`formulas`) for what cannot be judged.
    """
    if words_of(reference) == words_of(candidate):
        return True
    kind = type_of(reference) if answer_type == "auto" else answer_type
    if kind == "formula":
        return _equal_formulas(reference, candidate)
    text, other = without_text_commands(reference), without_text_commands(candidate)
    if kind == "number":
        return _equal_numbers(text, other)
    if kind == "choice":
        return _letter(text) is not None and _letter(text) == _letter(other)
    if kind == "date":
        return _same_date(text, other)
    if kind == "code":
        return _sign(text) == _sign(other)
    return False


def in_prose(text: str, reference: str) -> str:
    """Return the answer in a completion without an answer mark: its last formula, or what its last sentence says."""
    kind = type_of(reference)
    text = text.strip()
    if kind == "choice":
        letters = list(_LETTER_IN_PROSE.finditer(text))
        return (letters[-1][1] or letters[-1][2]) if letters else text
    if kind in ("number", "formula"):
        return (_values_in(text) or [text])[-1]
    last = re.split(r"(?<=[.!?])\s+", text)[-1] if text else ""
    said = _ANSWER_IS.split(last)
    return plain_answer(said[-1]) if said else text


def _equal_numbers(reference: str, candidate: str) -> bool:
    expected = read_number(reference)
    if expected is None:  # answer_type says number of what is none to us
        return _equal_formulas(reference, candidate)
    candidate = _ABOUT.sub("", candidate)
    label = _LABEL.match(candidate)
    value = read_number(label["value"] if label else candidate)
    if value is not None:
        return equal_numbers(expected, value)
    if candidate.count("=") == 1 and (after := read_number(candidate.partition("=")[2])) is not None:
        return equal_numbers(expected, after) and not re.match(r"^\s*[^\d\s]+\s*$", candidate.partition("=")[0])
    if read_date(candidate) is not None or is_code(candidate) or len(_items(candidate)) > 1:
        return False
    if _WORD.search(re.sub(r"\\[A-Za-z]+", " ", candidate)) and not re.search(r"\\[A-Za-z]+", candidate):
        said = _values_in(candidate)
        return len(said) == 1 and said[0] != candidate and _equal_numbers(reference, said[0])
    return _equal_formulas(reference, candidate, is_element=True)


def _equal_formulas(reference: str, candidate: str, *, is_element: bool = False) -> bool:
    """Compare formulas; tuples, lists and sets of values part by part."""
    if "\\pm" in reference + candidate:
        return equal_formulas(_as_set(reference), _as_set(candidate))
    if not is_element:
        ours, theirs = _container(reference), _container(candidate)
        if ours is not None or theirs is not None:
            return _equal_containers(ours, theirs, reference, candidate)
    return equal_formulas(reference, candidate)


def _equal_containers(
    ours: tuple[str, list[str]] | None,
    theirs: tuple[str, list[str]] | None,
    reference: str,
    candidate: str,
) -> bool:
    if ours is None or theirs is None:
        alone = ours or theirs
        assert alone is not None
        if alone[0] not in ("", "{}") or len(alone[1]) > 1:
            return alone[0] not in ("", "()") and equal_formulas(reference, candidate)
        return is_equal(*((alone[1][0], candidate) if ours else (reference, alone[1][0])), "auto")
    (shape, left), (other, right) = ours, theirs
    if len(left) != len(right):
        return False
    is_set = {shape, other} <= {"", "{}"}
    if not is_set and shape != other and {shape, other} != {"", "()"}:
        return False
    if not is_set:
        return all(is_equal(one, two, "auto") for one, two in zip(left, right, strict=True))
    rest = list(right)
    for one in left:
        match = next((two for two in rest if is_equal(one, two, "auto")), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _container(text: str) -> tuple[str, list[str]] | None:
    r"""Return the brackets and parts of a tuple, interval, list or set; None for any other formula.

    The brackets of `1, 2` are "", those of `\{1, 2\}` are "{}".
    """
    text = _variable_in_front(text).strip()
    if re.search(r"\\(?:cup|cap|begin|mid|setminus)(?![A-Za-z])", text):
        return None
    text = text.replace("\\{", "{").replace("\\}", "}")
    if len(text) > 1 and text[0] in _OPENING and text[-1] in _CLOSING and _closes_at_end(text):
        parts = _items(text[1:-1])
        shape = text[0] + text[-1]
        return (shape, parts) if len(parts) > 1 or shape == "{}" else None
    parts = _items(text)
    return ("", parts) if len(parts) > 1 else None


def _as_set(text: str) -> str:
    """Return a list of values as a set, which is what plus-minus gives; any other formula as it is."""
    container = _container(text)
    return f"\\{{{', '.join(container[1])}\\}}" if container is not None and container[0] == "" else text


def _variable_in_front(text: str) -> str:
    r"""Return a formula without `x \in` or `(x, y) =` in front of a container."""
    return re.sub(r"^(?:[a-zA-Z]\s*(?:\\in|=)|\([a-z](?:,\s*[a-z])+\)\s*=)\s*(?=[(\[{\\])", "", text)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth == 0:
            return at == len(text) - 1
    return False


def _items(text: str) -> list[str]:
    """Return the parts between top-level commas, semicolons, `and` and `or`; one part for a grouped number."""
    if read_number(text) is not None:
        return [text]
    return [part for part in map(str.strip, _parts(_AND.sub(", ", without_text_commands(text)))) if part]


def _parts(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for at, sign in enumerate(text):
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth == 0 and sign in ",;":
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _letter(text: str) -> str | None:
    """Return the chosen letter; None for no choice, or for more than one."""
    match = _LETTER.match(text.strip(" *"))
    if match is None:
        return None
    letter = (match["inside"] or match["bare"]).upper()
    others = {one or two or three for one, two, three in _OTHER_LETTERS.findall(text)}
    return letter if others <= {letter} else None


def _same_date(reference: str, candidate: str) -> bool:
    expected, date = read_date(reference), read_date(candidate.strip(" ."))
    return expected is not None and expected == date


def _sign(text: str) -> str:
    """Return a code in one spelling: without spaces, without case, times as 9:30am."""
    text = re.sub(r"\s+", "", text).casefold()
    text = re.sub(r"([ap])\.?m\.?$", r"\1m", text)
    if re.fullmatch(r"0\d:\d\d(?::\d\d)?(?:[ap]m)?", text):
        text = text[1:]
    return text.removeprefix("v") if re.match(r"v\d", text) else text


def _values_in(text: str) -> list[str]:
    """Return the inline formulas of a prose text, or else its numbers, in their order."""
    matches = list(_VALUE_IN_PROSE.finditer(text))
    formulas = [plain_answer(match["dollars"] or match["brackets"]) for match in matches if not match["number"]]
    return formulas or [match["number"] for match in matches]
