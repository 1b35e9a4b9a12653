"""Turn played dialogues into rows of `Turns`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.cast import CHAT, IDS
from genrl_graph.contract.node import Place
from genrl_graph.contract.policy import Completion, Sampling, TextPolicy
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.trajectories import episode_id
from genrl_graph.edge_types.turns import Turns, turn_id
from genrl_graph.nodes.generate.prompting.rows import local_columns
from genrl_graph.nodes.generate.speaking.chats import Asked
from genrl_graph.nodes.generate.speaking.episodes import Dialogue, SpokenTurn
from genrl_graph.seeds import group_id, rollout_id

_NOTHING = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "", "failed")


class _Row(NamedTuple):
    """A turn, its episode, and the place that goes into its ids."""

    episode: Dialogue
    spoken: SpokenTurn
    place: dict[str, str | int]


def turn_rows(
    place: Place,
    policy: TextPolicy,
    episodes: Sequence[Dialogue],
    *,
    sampling: Sampling,
    round: int,
    peer: str,
) -> Scored[Turns]:
    """Return one row per recorded turn, ordered by episode and move; a failed episode gives one row with its error."""
    rows = [_row(place, episode, spoken, round, peer) for episode in episodes for spoken in _recorded(episode)]
    if not rows:
        return Turns.empty(marks=[SCORED])
    count, spoken = len(rows), [row.spoken for row in rows]
    completions = [turn.completion for turn in spoken]
    episode_ids = [episode_id(**row.place, sample=row.episode.sample) for row in rows]  # type: ignore[arg-type]
    ends = np.cumsum([0, *(len(row.ids) for row in completions)], dtype=np.int32)
    failed = [bool(row.episode.error) for row in rows]
    columns = {
        "id": [_id(row, episode) for row, episode in zip(rows, episode_ids, strict=True)],
        "task_id": [row.episode.task.id for row in rows],
        "group_id": [group_id(**row.place, prompt_ids=row.spoken.asked.ids) for row in rows],  # type: ignore[arg-type]
        "parent_ids": [[]] * count,
        "peer": [peer] * count,
        "node": [place.node] * count,
        "stage": np.full(count, place.stage, np.int32),
        "round": np.full(count, round, np.int32),
        "sample": np.asarray([row.episode.sample for row in rows], np.int32),
        "policy": [policy.name] * count,
        "policy_version": np.full(count, policy.version, np.int64),
        "tokenizer_fingerprint": [policy.tokenizer_fingerprint] * count,
        "temperature": np.full(count, sampling.temperature, np.float32),
        "messages": pa.array([turn.asked.messages for turn in spoken], CHAT),
        "prompt_ids": pa.array([turn.asked.ids for turn in spoken], IDS),
        "completion_ids": [row.ids for row in completions],
        "completion_mask": pa.ListArray.from_arrays(pa.array(ends), np.ones(ends[-1], np.int8)),
        "logprobs": [row.logprobs for row in completions],
        "completion": [row.text for row in completions],
        "finish_reason": ["failed" if lost else c.finish_reason for lost, c in zip(failed, completions, strict=True)],
        "error": [row.episode.error for row in rows],
        "episode": episode_ids,
        "seat": np.asarray([turn.seat for turn in spoken], np.int32),
        "turn": np.asarray([turn.turn for turn in spoken], np.int32),
        "move": np.asarray([turn.move for turn in spoken], np.int32),
        "heard": pa.array([turn.heard for turn in spoken], CHAT),
        "action": [turn.action for turn in spoken],
        "ending": ["failed" if lost else turn.ending for lost, turn in zip(failed, spoken, strict=True)],
        "reward": np.where(failed, np.nan, [turn.reward for turn in spoken]),
        **local_columns(completions, sampling, policy),
    }
    return Turns.from_columns(columns, marks=[SCORED])


def restart_rows(place: Place, episodes: Sequence[Dialogue], *, round: int, peer: str) -> dict[str, list[str]]:
    """Return the episodes that began again, each time with the reason."""
    columns: dict[str, list[str]] = {"episode": [], "task_id": [], "reason": []}
    for episode in episodes:
        where = _place(place, episode, round, peer)
        for reason in episode.restarts:
            id = episode_id(**where, sample=episode.sample)  # type: ignore[arg-type]
            for name, value in {"episode": id, "task_id": episode.task.id, "reason": reason}.items():
                columns[name].append(value)
    return columns


def _recorded(episode: Dialogue) -> list[SpokenTurn]:
    """Return the turns of an episode; of a failed one the last, or an empty one if there is none."""
    if not episode.error:
        return episode.turns
    nothing = SpokenTurn(episode.seats.own[0], 0, 0, [], Asked([], np.empty(0, np.int32)), _NOTHING)
    return episode.turns[-1:] or [nothing]


def _row(place: Place, episode: Dialogue, spoken: SpokenTurn, round: int, peer: str) -> _Row:
    return _Row(episode, spoken, _place(place, episode, round, peer))


def _place(place: Place, episode: Dialogue, round: int, peer: str) -> dict[str, str | int]:
    """Return what goes into the ids of an episode, besides its sample."""
    where: dict[str, str | int] = {"protocol": place.protocol, "peer": peer, "round": round, "node": place.node}
    return where | {"task_id": episode.task.id}


def _id(row: _Row, episode: str) -> str:
    asked, completion = row.spoken.asked, row.spoken.completion
    tokens = {"prompt_ids": asked.ids, "completion_ids": completion.ids}
    rollout = rollout_id(**row.place, parent_ids=[], sample=row.episode.sample, **tokens)  # type: ignore[arg-type]
    return turn_id(rollout, episode, row.spoken.seat, row.spoken.turn)
