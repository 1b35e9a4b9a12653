"""`guess_number`: find a whole number from answers that say too low or too high."""

import numpy as np

from genrl_graph.nodes.games.text_game import Spoken, TextTurn


class GuessNumber:
    """One seat has `guesses` guesses of a number from `low` to `high`, drawn from the seed; success pays 1.

    Every whole number from `low` to `high` is a legal action. The game knows a number by its digits.
    """

    seats, deterministic = 1, True

    def __init__(self, low: int = 1, high: int = 10, guesses: int = 4) -> None:
        if not (0 <= low < high <= low + 999 and guesses >= 1):
            raise ValueError(
                f"low {low}, high {high}, guesses {guesses}: give 0 <= low < high <= low + 999, and a guess"
            )
        self._low, self._high, self._guesses = low, high, guesses
        self._legal = [str(number) for number in range(low, high + 1)]
        self._secret = self._left = 0

    def reset(self, seed: int) -> TextTurn:
        """Draw a number, and say what is to be guessed."""
        self._secret = int(np.random.default_rng(seed).integers(self._low, self._high + 1))
        self._left = self._guesses
        asked = f"Guess my number from {self._low} to {self._high}. You have {_counted(self._left)}."
        return TextTurn(0, [Spoken(asked)], (0.0,), self._legal)

    def step(self, action: str) -> TextTurn:
        """Compare a guess with the number; the game is over when it is right, or the last."""
        guess = int(action)
        self._left -= 1
        if guess == self._secret or not self._left:
            return TextTurn(0, (), (float(guess == self._secret),), ends={0: "terminated"}, over=True)
        told = f"{guess} is too {'low' if guess < self._secret else 'high'}. {_counted(self._left)} left."
        return TextTurn(0, [Spoken(told)], (0.0,), self._legal)

    def close(self) -> None:
        """Do nothing: the game holds no resources."""


def _counted(guesses: int) -> str:
    return f"{guesses} guess{'es' * (guesses != 1)}"
