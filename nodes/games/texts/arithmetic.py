"""`arithmetic`: say the result of a calculation that is too long to do in one's head."""

import numpy as np

from genrl_graph.nodes.games.text_game import Spoken, TextTurn


class Arithmetic:
    """One seat says the result of a product or sum of `terms` whole numbers of `digits` digits, drawn from the seed.

    Success pays 1. The action is the result, so the dialogue has to extract a number; every other action is wrong.
    """

    seats, deterministic = 1, True

    def __init__(self, terms: int = 2, digits: int = 3) -> None:
        if not (2 <= terms <= 8 and 1 <= digits <= 9):
            raise ValueError(f"terms {terms}, digits {digits}: give 2 to 8 terms of 1 to 9 digits")
        self._terms, self._digits = terms, digits
        self._result = 0

    def reset(self, seed: int) -> TextTurn:
        """Draw a calculation, and ask for its result."""
        rng = np.random.default_rng(seed)
        low, high = 10 ** (self._digits - 1), 10**self._digits
        numbers = [int(number) for number in rng.integers(low, high, size=self._terms)]
        signs = ["+-*"[int(sign)] for sign in rng.integers(3, size=self._terms - 1)]
        self._result, text = numbers[0], str(numbers[0])
        for sign, number in zip(signs, numbers[1:], strict=True):
            # from left to right, as brackets say: no model has to know which sign binds closer
            text = f"({text}) {sign} {number}" if text[-1] != ")" and " " in text else f"{text} {sign} {number}"
            self._result = _applied(self._result, sign, number)
        return TextTurn(0, [Spoken(f"What is {text}?")], (0.0,))

    def step(self, action: str) -> TextTurn:
        """Compare an action with the result; the game is over."""
        try:
            correct = int(action.replace(",", "")) == self._result
        except ValueError:
            correct = False
        return TextTurn(0, (), (float(correct),), ends={0: "terminated"}, over=True)

    def close(self) -> None:
        """Do nothing: the game holds no resources."""


def _applied(left: int, sign: str, right: int) -> int:
    return left + right if sign == "+" else left - right if sign == "-" else left * right
