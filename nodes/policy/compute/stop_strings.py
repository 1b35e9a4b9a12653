"""Find the token with which a completion's text first contains a stop string."""

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[Sequence[int]], str]

_SLACK = 8
"""Tokens of a tail beyond those that a stop string may need: decoders treat the beginning of a text differently."""


class StopStrings:
    """The texts of rows that grow token by token, and the strings that end them.

    Only the tail of a row is decoded at each token: every token that is decoded adds a byte or more. `silent` ids add
    nothing.
    """

    def __init__(self, strings: Sequence[str], decode: Decode, *, rows: int, silent: Collection[int]) -> None:
        self._strings, self._decode, self._silent = tuple(strings), decode, frozenset(silent)
        self._tail = max(len(string.encode()) for string in strings) + _SLACK
        self._ids: list[list[int]] = [[] for _ in range(rows)]

    def ends(self, row: int, token: int) -> bool:
        """Append a token to a row; return whether its text contains a stop string now."""
        if token in self._silent:
            return False
        ids = self._ids[row]
        ids.append(token)
        return self._stops(ids[-self._tail :]) and self._stops(ids)

    def _stops(self, ids: Sequence[int]) -> bool:
        text = self._decode(ids)
        return any(string in text for string in self._strings)
