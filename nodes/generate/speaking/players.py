"""Players of dialogues: a language model, random or perfect moves, or a record that is played again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrl_graph.contract.policy import Completion, Sampling, TextPolicy
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.text_game import CheckedTextGame
from genrl_graph.nodes.generate.speaking.chats import Asked


@dataclass(frozen=True, slots=True)
class RecordedPlayer:
    """A player whose completions are recorded; `policy`, if there is one, has the tokenizer that they are made with."""

    policy: TextPolicy | None

    def fits(self, asked: Asked) -> bool:
        """Return that a prompt fits: it has been completed."""
        return True


@dataclass(frozen=True, slots=True)
class PolicyPlayer:
    """A player whose turns a policy completes; prompts of more than `limit` tokens do not fit."""

    policy: TextPolicy
    sampling: Sampling
    max_batch_tokens: int
    limit: int

    def fits(self, asked: Asked) -> bool:
        """Return whether a prompt leaves room for a completion."""
        return len(asked.ids) <= self.limit or not self.policy.counts_tokens

    def complete(self, asked: Sequence[Asked], rngs: Sequence[np.random.Generator]) -> list[Completion]:
        """Return one completion for each prompt, in one call of the policy."""
        completions = self.policy.generate(
            [prompt.ids for prompt in asked],
            num_generations=1,
            sampling=self.sampling,
            rng=list(rngs),
            max_batch_tokens=self.max_batch_tokens,
        )
        return [rows[0] for rows in completions]


@dataclass(frozen=True, slots=True)
class Mover:
    """A player that says nothing: it draws uniformly among the legal moves, or among those of perfect play."""

    kind: Literal["random", "perfect"]

    def moves(self, game: CheckedTextGame, legal: Sequence[str] | None) -> Sequence[str]:
        """Return the moves of which it draws one; raises `GameError` or `DataError` if the game does not say them."""
        if self.kind == "perfect":
            return game.best_moves()
        if legal is None:
            raise GameError("the opponent `random` needs legal moves, and the environment lists none")
        return legal


DialoguePlayer = PolicyPlayer | Mover | RecordedPlayer
