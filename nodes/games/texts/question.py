"""`question`: answer a task of any source, after as many calls of tools as the dialogue allows."""

from collections.abc import Mapping
from typing import Any

from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.text_game import Spoken, TextTurn


class Question:
    """One seat hears the messages of a task, and its first move is its answer: rewards judge it, the game pays none."""

    seats, deterministic = 1, True

    def begin(self, seed: int, row: Mapping[str, Any]) -> TextTurn:
        """Ask what the task asks."""
        return TextTurn(0, [Spoken(message["content"], message["role"]) for message in row["prompt"]], (0.0,))

    def reset(self, seed: int) -> TextTurn:
        """Refuse to begin without a task."""
        raise GameError("a question needs tasks of another source; name it in `environment` of generate.dialogue")

    def step(self, action: str) -> TextTurn:
        """Take the answer; the game is over."""
        return TextTurn(0, (), (0.0,), ends={0: "terminated"}, over=True)

    def close(self) -> None:
        """Do nothing: the game holds no resources."""
