"""`negotiation`: two seats divide items that each values in its own way, or both get nothing."""

from itertools import product

import numpy as np

from genrl_graph.nodes.games.text_game import Spoken, TextEnding, TextTurn

ACCEPT = "ok"
TOTAL = 10
"""Worth of all items together, the same for each seat."""


class Negotiation:
    """Two seats divide `kinds` kinds of items (as in arXiv 1706.05125); each knows only its own values.

    A proposal is what the seat wants for itself, one digit a kind: `20` is two of the first and none of the second. The
    other seat accepts with `ok`, or proposes in turn. A deal pays each seat the share of `TOTAL` that its items are
    worth to it; without one after `proposals` proposals both get 0. Counts and values are drawn from the seed, so that
    all items are worth `TOTAL` to each seat; seat 0 begins.
    """

    seats, deterministic = 2, True

    def __init__(self, kinds: int = 2, most: int = 3, proposals: int = 6) -> None:
        if not (1 <= kinds <= 4 and 1 <= most <= 5 and proposals >= 1):
            raise ValueError(
                f"kinds {kinds}, most {most}, proposals {proposals}: give 1 to 4 kinds, at most 1 to 5 of each"
            )
        self._kinds, self._most, self._proposals = kinds, most, proposals
        self._counts: tuple[int, ...] = ()
        self._values: tuple[tuple[int, ...], ...] = ()
        self._seat = self._made = 0
        self._offer = ""

    def reset(self, seed: int) -> TextTurn:
        """Draw the counts and the values of an episode."""
        rng = np.random.default_rng(seed)
        self._counts, self._values = (), ()
        while len(self._values) < 2:
            self._counts = tuple(rng.integers(1, self._most + 1, self._kinds).tolist())
            fair = _valuations(self._counts)
            self._values = tuple(fair[int(rng.integers(len(fair)))] for _ in range(2) if fair)
        self._seat, self._made, self._offer = 0, 0, ""
        return self._turn()

    def step(self, action: str) -> TextTurn:
        """Accept the proposal of the other seat, or make one."""
        if action == ACCEPT:
            theirs = [int(digit) for digit in self._offer]
            mine = [count - wanted for count, wanted in zip(self._counts, theirs, strict=True)]
            shares = {self._seat: mine, 1 - self._seat: theirs}
            return self._over(tuple(_worth(self._values[seat], shares[seat]) / TOTAL for seat in (0, 1)))
        self._offer, self._made, self._seat = action, self._made + 1, 1 - self._seat
        return self._turn() if self._made < self._proposals else self._over((0.0, 0.0))

    def close(self) -> None:
        """Do nothing: the game holds no resources."""

    def _turn(self) -> TextTurn:
        counts, values = ("".join(map(str, digits)) for digits in (self._counts, self._values[self._seat]))
        offered = [Spoken(f"I want {self._offer}", f"seat {1 - self._seat}")] if self._offer else []
        proposals = ["".join(map(str, wanted)) for wanted in product(*(range(count + 1) for count in self._counts))]
        legal = [ACCEPT, *proposals] if self._offer else proposals
        return TextTurn(self._seat, [Spoken(f"items {counts} worth {values}"), *offered], (0.0, 0.0), legal)

    def _over(self, rewards: tuple[float, ...]) -> TextTurn:
        ends: dict[int, TextEnding] = {0: "terminated", 1: "terminated"}
        return TextTurn(0, (), rewards, ends=ends, over=True)


def _valuations(counts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the values per item, each one digit, by which all items are worth `TOTAL`."""
    return [values for values in product(range(10), repeat=len(counts)) if _worth(values, counts) == TOTAL]


def _worth(values: tuple[int, ...], items: list[int] | tuple[int, ...]) -> int:
    return sum(value * count for value, count in zip(values, items, strict=True))
