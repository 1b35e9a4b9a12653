"""The edge type of dialogues and text games: one row for each turn of a seat."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.arrow.cast import CHAT, TEXT
from genrl_graph.edge_types.display import DisplayMetrics, Transcript
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.edge_types.sequences import (
    ENDINGS,
    LARGEST_VALUE,
    MOST_SEATS,
    combined_codes,
    in_order,
    incomplete,
    whole_or_none,
)
from genrl_graph.edge_types.trajectories import episode_id
from genrl_graph.edge_types.violation import Mask, ReceiverContext, Violation, differing
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Turns(Rollouts):
    """Turns of dialogues and text games: one row for each turn of one seat in one episode.

    A turn is a completion, so all that reads rollouts reads turns. `prompt_ids` are all tokens of the seat before the
    turn: those of earlier turns as they were sampled. `episode` is shared by all seats. `turn` counts the turns of the
    seat, `move` those of all seats, both from 0. `heard` are the messages that are new to the seat since its last turn;
    their role is who speaks. `action` is the text that the environment got, "" where the turn calls tools. `ending` is
    set in the last turn of a seat only: terminated, truncated or failed. A failed episode is one row, the last that was
    recorded, with its `error`.
    `id` is `<episode>-<hash of the turn>`. The reward of a turn includes everything that the seat earned before its
    next turn.
    """

    columns = {
        **Rollouts.columns,
        "episode": TEXT,
        "seat": pa.int32(),
        "turn": pa.int32(),
        "move": pa.int32(),
        "heard": CHAT,
        "action": TEXT,
        "ending": TEXT,
    }
    sample_column = "episode"
    role_column = "seat"
    shown = DisplayMetrics(
        line=("return", "episode_length", "*/wins"),
        evaluation=("*/draws", "*/losses"),
        effort={"episode_length": "turns an episode", "turns": "turns of all seats"},
    )
    __slots__ = ()

    @classmethod
    def trajectory_id(cls, id: str) -> str:
        """Return the id of the episode of a turn."""
        return id.partition("-")[0]

    def trajectory_codes(self) -> "NDArray[np.int64]":
        """Return for each row the index of its trajectory: the turns of one seat in one episode."""
        return combined_codes(self, "seat", "episode", "node", "peer")

    def content_ids(self, *, protocol: str) -> list[str]:
        """Return the id that each row must have in a graph with this protocol fingerprint."""
        names = ("episode", "seat", "turn")
        places = zip(super().content_ids(protocol=protocol), *map(self.values, names), strict=True)
        return [turn_id(*place) for place in places]

    def violations(self, known: ReceiverContext) -> Iterator[Violation]:
        """Yield the violations in turns from another peer: those of rollouts, and those of episodes.

        The turns of a seat are refused together if one of them is refused, if one is missing, or if any but the last
        has an ending.
        """
        codes, bad = self.trajectory_codes(), np.zeros(len(self), dtype=bool)
        for flaw in (*super().violations(known), *self._episode_flaws(known)):
            bad |= flaw.rows
            yield flaw
        yield Violation("whole", "ending", whole_or_none(codes, bad))

    def _episode_flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        failed = self._is("ending", "failed")
        yield Violation("ending", "ending", ~pc.is_in(self._column("ending"), pa.array(ENDINGS)).to_numpy(False))
        yield Violation("ending", "finish_reason", failed != self._is("finish_reason", "failed"))
        yield Violation("seat", "seat", (self.numpy("seat") < 0) | (self.numpy("seat") >= MOST_SEATS))
        for name in ("turn", "move"):
            yield Violation("negative", name, self.numpy(name) < 0)
        if SCORED in self.marks:
            yield Violation("reward", "reward", ~((np.abs(self.numpy("reward")) <= LARGEST_VALUE) | failed))
        yield Violation("whole", "turn", self.incomplete() & ~failed)
        places = self.rows("peer", "round", "node", "task_id", "sample")
        episodes = [episode_id(protocol=known.protocol, **place) for place in places]
        yield Violation("episode", "episode", differing(self.values("episode"), episodes))

    def incomplete(self) -> Mask:
        """Return a mask of the rows whose seat has not the turns 0, 1, ... of which the last alone has an ending."""
        return incomplete(self.trajectory_codes(), self.numpy("turn").astype(np.int64), ~self._is("ending", ""))

    def _is(self, column: str, value: str) -> Mask:
        mask: Mask = pc.equal(self._column(column), value).to_numpy(zero_copy_only=False)
        return mask

    def transcripts(self) -> Iterator[Transcript]:
        """Render each episode, in order of its first row: what each seat heard, said and did, move by move."""
        codes = combined_codes(self, "episode", "node", "peer")
        for rows in sorted(in_order(codes, self.numpy("move")), key=lambda part: int(part.min())):
            yield _transcript(self.take(rows), rows)


def turn_id(rollout: str, episode: str, seat: int, turn: int) -> str:
    """Return the id of a turn: that of its episode, and a hash of its rollout id and its place in the episode."""
    return f"{episode}-{digest(('turn', rollout, seat, turn))}"


def _transcript(turns: Turns, positions: "NDArray[np.int64]") -> Transcript:
    rewards = turns.values("reward") if "reward" in turns.table.column_names else [0.0] * len(turns)
    rows = turns.rows("seat", "heard", "completion", "action", "ending", "error")
    parts: list[tuple[str, str]] = []
    for row, reward in zip(rows, rewards, strict=True):
        parts += _spoken(row, reward)
    returns: dict[int, float] = {}
    for row, reward in zip(rows, rewards, strict=True):
        returns[row["seat"]] = returns.get(row["seat"], 0.0) + reward
    earned = ", ".join(f"seat {seat} {value:g}" for seat, value in sorted(returns.items()))
    endings = ", ".join(dict.fromkeys(row["ending"] for row in rows if row["ending"])) or "no end"
    facts = f"{len(rows)} {'turn' if len(rows) == 1 else 'turns'}, {endings}, {earned}"
    return Transcript(positions, facts, f"actions {' '.join(row['action'] for row in rows)}", tuple(parts))


def _spoken(row: Mapping[str, Any], reward: float) -> Iterator[tuple[str, str]]:
    """Yield the messages that a seat heard, its completion, and its action and reward where they add something."""
    for message in row["heard"]:
        yield f"[{message['role']} to seat {row['seat']}]", message["content"]
    notes = [f"plays {row['action']!r}"] if row["action"] not in ("", row["completion"].strip()) else []
    notes += [f"reward {reward:g}"] if reward else []
    yield f"[seat {row['seat']}{': ' * bool(notes)}{', '.join(notes)}]", row["completion"]
