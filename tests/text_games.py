"""Small games in text, as a script for `--import`: some that behave, and one for each way in which one breaks."""

import threading
from typing import Any

import gymnasium
from gymnasium import spaces

from genrl_graph.nodes.games.environment import register_text
from genrl_graph.nodes.games.text_game import Spoken, TextEnding, TextTurn

HANGING = threading.Event()
"""Set by tests to let environments that hang return."""


class Guess:
    """Guess a digit; the game judges the guesses itself, and pays 0.1 for each that is closer than the last."""

    seats, deterministic = 1, True

    def reset(self, seed: int) -> TextTurn:
        self.secret, self.last = seed % 10, 10
        return TextTurn(0, [Spoken("guess")], [0.0])

    def step(self, action: str) -> TextTurn:
        distance = abs(int(action) - self.secret) if action.isdigit() else 10
        if distance == 0:
            return TextTurn(0, [], [1.0], ends={0: "terminated"}, over=True)
        reward = 0.1 if distance < self.last else 0.0
        self.last = distance
        return TextTurn(0, [Spoken("more" if action.isdigit() and int(action) < self.secret else "less")], [reward])

    def close(self) -> None:
        pass


class Queue:
    """Three seats: seat 0 once, seat 1 twice in a row, seat 2 once. Seat 1 is out then, and earns at the end."""

    seats, deterministic = 3, True
    order = (0, 1, 1, 2)

    def reset(self, seed: int) -> TextTurn:
        self.said: list[str] = []
        return self._turn()

    def step(self, action: str) -> TextTurn:
        self.said.append(action)
        return self._turn()

    def close(self) -> None:
        pass

    def _turn(self) -> TextTurn:
        move = len(self.said)
        rewards = [0.0, float(move == 4), 0.25 if move == 1 else 0.0]
        if move == 4:
            over: dict[int, TextEnding] = {0: "terminated", 2: "truncated"}
            return TextTurn(0, [], rewards, ends=over, over=True)
        ends: dict[int, TextEnding] = {1: "terminated"} if move == 3 else {}
        heard = [Spoken(text, f"seat {self.order[at]}") for at, text in enumerate(self.said)][-1:]
        return TextTurn(self.order[move], heard or [Spoken("go")], rewards, ["a", "b"], ends)


class Broken(Guess):
    """Guess, until `breaks` goes wrong in the second step, or at the start."""

    def __init__(self, breaks: str) -> None:
        self.breaks, self.steps = breaks, 0

    def reset(self, seed: int) -> TextTurn:
        self.steps = 0
        super().reset(10)
        if self.breaks == "reset":
            raise OSError("no such\ngame")
        return TextTurn(0, [Spoken("guess")], [0.0])

    def step(self, action: str) -> Any:
        self.steps += 1
        turns: dict[str, Any] = {
            "text": TextTurn(0, [Spoken(7)], [0.0]),  # type: ignore[arg-type]
            "bytes": TextTurn(0, [b"more"], [0.0]),  # type: ignore[list-item]
            "surrogate": TextTurn(0, [Spoken("\ud800")], [0.0]),
            "nan": TextTurn(0, [Spoken("more")], [float("nan")]),
            "rewards": TextTurn(0, [Spoken("more")], [0.0, 1.0]),
            "seat": TextTurn(1, [Spoken("more")], [0.0]),
            "legal": TextTurn(0, [Spoken("more")], [0.0], []),
            "ends": TextTurn(0, [Spoken("more")], [0.0], None, {0: "terminated"}),
            "ending": TextTurn(0, [], [0.0], None, {0: "won"}, over=True),  # type: ignore[dict-item]
            "open": TextTurn(0, [], [0.0], None, {}, over=True),
            "nothing": None,
            "long": TextTurn(0, [Spoken("more" * 2**16 + "!")], [0.0]),
            "hang": None,
        }
        if self.steps == 2 and self.breaks == "raise":
            raise RuntimeError("the table\nfell over")
        if self.steps == 2 and self.breaks == "exit":
            raise SystemExit(3)
        if self.steps == 2 and self.breaks == "hang":
            HANGING.wait(60)
        return turns[self.breaks] if self.steps == 2 else TextTurn(0, [Spoken("more")], [0.0])


class Echo(gymnasium.Env[str, str]):
    """Two steps; to repeat the word pays 1. Legal actions are listed if `lists`."""

    def __init__(self, lists: bool = False) -> None:
        self.observation_space = self.action_space = spaces.Text(32)
        self._lists, self._word, self._step = lists, "", 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._step, self._word = 0, "ab"[int(self.np_random.integers(2))]
        return self._word, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return self._word, float(action == self._word), self._step == 2, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"legal_actions": ["a", "b"]} if self._lists else {}


register_text("guess", Guess)
register_text("queue", Queue)
register_text("broken", Broken)
if "test/Echo-v0" not in gymnasium.registry:
    gymnasium.register("test/Echo-v0", Echo)
    gymnasium.register("test/Dice-v0", Echo, nondeterministic=True)
