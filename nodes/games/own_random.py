"""Python's global random numbers as those of one game: libraries draw from them, and games are played side by side."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OwnRandom:
    """The state of a game's random numbers, in place of the global one while the game computes."""

    def __init__(self) -> None:
        self._state: Any = random.Random(0).getstate()

    def seed(self, seed: int) -> None:
        """Start anew from a seed."""
        self._state = random.Random(seed).getstate()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Let the global random numbers be those of this game."""
        outside = random.getstate()
        random.setstate(self._state)
        try:
            yield
        finally:
            self._state = random.getstate()
            random.setstate(outside)
