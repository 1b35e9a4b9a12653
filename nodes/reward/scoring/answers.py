r"""Answers of maths tasks: extract them from a completion, and compare them with a reference.

Arguments and values are plain JSON, so a worker process can run these functions. math-verify is imported on first use.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from genrl_graph.nodes.reward.scoring.answer_types import AnswerType
from genrl_graph.nodes.reward.scoring.comparison import in_prose, is_equal
from genrl_graph.nodes.reward.scoring.formulas import TooLarge
from genrl_graph.nodes.reward.scoring.plain_text import plain_answer
from genrl_graph.nodes.reward.scoring.time_limit import TimedOut, call_within

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BRACE = re.compile(r"\\boxed\s*\{|(?<!\\)[{}]")  # an escaped brace is a character
_HASHED = re.compile(r"(?<!#)####(?!#)\s*([^\n]+)")

MAX_LENGTH = 2000
"""Characters by which an answer may be longer than twice its reference."""

MARKS = ("<answer>", "\\boxed", "####")
"""Marks in front of a final answer."""


def marks_asked_for(prompt: str) -> list[str]:
    """Return the answer marks that a prompt names; all of them if it names none."""
    return [mark for mark in MARKS if mark in prompt] or list(MARKS)


def extract_answer(completion: str, pattern: str | None, marks: Sequence[str] = MARKS) -> str | None:
    r"""Return the answer in a completion, stripped; None if there is none.

    The answer is the last of `<answer>...</answer>`, `\boxed{...}` and the line after `####`, whichever ends last;
    blank ones are skipped. If `marks` names some of the three, the last of those wins over the others. With `pattern`
    it is only the last match: group 1, or the whole match without groups.
    """
    if pattern is not None:
        return _last(match[min(1, match.re.groups)] for match in re.finditer(pattern, completion))
    found = sorted((end, mark, text.strip()) for mark, end, text in _marked(completion) if text.strip())
    asked = [answer for answer in found if answer[1] in marks] or found
    return asked[-1][2] if asked else None


def extract_each(calls: list[dict[str, str]]) -> list[str | None]:
    """Return `extract_answer` for each call's keywords."""
    return [extract_answer(call["completion"], call["pattern"]) for call in calls]


def math_score(
    completion: str,
    answer: str,
    *,
    pattern: str | None = None,
    answer_type: AnswerType = "auto",
    marks: Sequence[str] = MARKS,
    limit_s: float | None = 10,
) -> dict[str, float]:
    """Return the terms `format` (1.0 if `extract_answer` finds an answer) and `correct` (1.0 if it equals `answer`).

    Without an answer the end of the completion is judged. `correct` is NaN (not judged) for a blank reference, one
    that is too large to compute, or a comparison that takes `limit_s` seconds. SIGALRM enforces the limit: outside the
    main thread pass None, or it raises ValueError.
    """
    extracted = extract_answer(completion, pattern, marks)
    return {
        "format": 0.0 if extracted is None else 1.0,
        "correct": _correct(extracted, completion, answer, answer_type, limit_s),
    }


def _correct(
    extracted: str | None, completion: str, answer: str, answer_type: AnswerType, limit_s: float | None
) -> float:
    reference = plain_answer(extract_answer(answer, None) or answer)
    if not reference:
        return math.nan
    if extracted is None:
        candidate = in_prose(completion, reference)
    elif len(extracted) > MAX_LENGTH + 2 * len(reference):
        return 0.0
    else:
        candidate = plain_answer(extract_answer(extracted, None) or extracted)
    import math_verify  # noqa: F401  # before the limit, which would leave half an import

    try:
        return float(call_within(limit_s, is_equal, reference, candidate, answer_type))
    except (TooLarge, TimedOut):
        return math.nan


def _marked(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield mark, end and content of every marked answer."""
    yield from (("<answer>", match.end(), match[1]) for match in _TAGGED.finditer(text))
    yield from (("\\boxed", end, text[start:end]) for start, end in _boxed(text))
    yield from (("####", match.end(), match[1]) for match in _HASHED.finditer(text))


def _last(candidates: Iterable[str | None]) -> str | None:
    stripped = [candidate.strip() for candidate in candidates if candidate and candidate.strip()]
    return stripped[-1] if stripped else None


def _boxed(text: str) -> list[tuple[int, int]]:
    r"""Return where the content of every innermost `\boxed{...}` with balanced braces starts and ends."""
    opened: list[int | None] = []  # start of a box's content, None for any other brace
    spans: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(None)
        elif brace[0] != "}":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) is not None and (not spans or spans[-1][0] < start):
            spans.append((start, brace.start()))  # a box around the last one is left out
    return spans
