"""The move in a completion: extract it, and treat one that is not legal as declared."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

Illegal = Annotated[
    Literal["forfeit", "random", "pass_on"],
    Field(
        description="a move that cannot be extracted, or is none of the legal ones: the seat ends the game (forfeit), "
        "a random legal move is played in its place (random; without a list of legal moves it forfeits), or the "
        "environment gets the text and judges it (pass_on)"
    ),
]


@dataclass(frozen=True, slots=True)
class Move:
    """The text that the environment gets, None if the seat forfeits; `legal` says that it is the policy's own move."""

    action: str | None
    legal: bool = True


@lru_cache(maxsize=64)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern of a move."""
    return re.compile(pattern, re.DOTALL)


def extracted(pattern: str, completion: str) -> str | None:
    """Return the first group of the last match in a completion, the whole match without groups; None for no match."""
    matches = list(compiled(pattern).finditer(completion))
    if not matches:
        return None
    groups = [group for group in matches[-1].groups() if group is not None]
    return (groups[0] if groups else matches[-1][0]).strip()


def move_of(
    completion: str, legal: Sequence[str] | None, *, pattern: str, illegal: Illegal, rng: np.random.Generator
) -> Move:
    """Return the move that a completion makes; it may spell a legal one in upper or lower case."""
    text = extracted(pattern, completion)
    if text is not None:
        if legal is None:
            return Move(text)
        spelling = {" ".join(action.split()).casefold(): action for action in reversed(legal)}
        own = spelling.get(" ".join(text.split()).casefold())
        if own is not None:
            return Move(own)
    if illegal == "pass_on":
        return Move(completion.strip() if text is None else text, legal=False)
    if illegal == "random" and legal is not None:
        return Move(legal[int(rng.integers(len(legal)))], legal=False)
    return Move(None, legal=False)
