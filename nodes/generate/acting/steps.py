"""The rows that played episodes become, and what they say about who won."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.trajectories import Trajectories, episode_id, step_id, trajectory_id
from genrl_graph.nodes.generate.acting.episodes import Episode, SeatTrajectory
from genrl_graph.nodes.policy.compute.acting import Actor

_Part = tuple[Episode, int, SeatTrajectory]


def step_rows(
    place: Place, policy: Actor, episodes: Sequence[Episode], *, round: int, peer: str
) -> Scored[Trajectories]:
    """One row a step, by episode, seat and step; of an episode that failed one row that says why."""
    parts: list[_Part] = []
    for episode in episodes:
        if episode.error:
            parts.append((episode, episode.seats.own[0], _nothing(policy)))
        else:
            parts += [(episode, seat, trace) for seat, trace in episode.traces.items() if trace.actions]
    if not parts:
        return Trajectories.empty(marks=[SCORED])
    lengths = np.asarray([len(trace.actions) for _, _, trace in parts])
    repeat = pa.array(np.repeat(np.arange(len(parts)), lengths))
    last = np.cumsum(lengths) - 1
    finish, bootstrap = np.zeros(len(repeat), np.int64), np.zeros(len(repeat), np.float32)
    endings = ["", *dict.fromkeys(episode.finish for episode, _, _ in parts)]
    finish[last] = [endings.index(episode.finish) for episode, _, _ in parts]
    bootstrap[last] = _left_values(policy, parts)
    columns = {
        **{name: pa.array(values).take(repeat) for name, values in _by_part(place, parts, round, peer).items()},
        "id": _ids(place, parts, round=round, peer=peer),
        "peer": pa.repeat(peer, len(repeat)),
        "node": pa.repeat(place.node, len(repeat)),
        "stage": np.full(len(repeat), place.stage, np.int32),
        "round": np.full(len(repeat), round, np.int32),
        "policy": pa.repeat(policy.name, len(repeat)),
        "policy_version": np.full(len(repeat), policy.version, np.int64),
        "step": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "observation": np.stack([seen for _, _, trace in parts for seen in trace.observations]),
        "mask": np.stack([mask for _, _, trace in parts for mask in trace.masks]),
        "action": _joined(parts, "actions", np.int32),
        "logprob": _joined(parts, "logprobs", np.float32),
        "value": _joined(parts, "values", np.float32),
        "bootstrap": bootstrap,
        "finish": pa.array(endings).take(pa.array(finish)),
        "reward": _joined(parts, "rewards", np.float64),
    }
    return Trajectories.from_columns(columns, marks=[SCORED])


def log_results(log: Log, episodes: Sequence[Episode]) -> None:
    """Returns and lengths of the episodes that did not fail, and wins, draws and losses by opponent.

    In self-play it is the first seat that wins or loses.
    """
    played = [episode for episode in episodes if not episode.error]
    log.metric("steps", sum(episode.moves for episode in episodes))
    log.metric("failed", 1.0 - len(played) / len(episodes) if episodes else 0.0)
    if not played:
        return
    log.metric("return", float(np.mean([episode.returns[seat] for episode in played for seat in episode.seats.own])))
    log.metric("episode_length", float(np.mean([episode.moves for episode in played])))
    for kind in dict.fromkeys(episode.seats.opponent for episode in played):
        if kind:
            against = np.asarray([_outcome(episode) for episode in played if episode.seats.opponent == kind])
            log.metric(f"{kind}/episodes", len(against))
            log.metric(f"{kind}/wins", float((against > 0).mean()))
            log.metric(f"{kind}/draws", float((against == 0).mean()))
            log.metric(f"{kind}/losses", float((against < 0).mean()))


def _outcome(episode: Episode) -> int:
    """1 where the policy's seat earned more than every other, -1 where another earned more, else 0."""
    own = episode.seats.own[0]
    best = max(value for seat, value in enumerate(episode.returns) if seat != own)
    return int(episode.returns[own] > best) - int(episode.returns[own] < best)


def _by_part(place: Place, parts: Sequence[_Part], round: int, peer: str) -> Mapping[str, Any]:
    """The columns that are one value in all steps of a part."""
    return {
        "task_id": [episode.task_id for episode, _, _ in parts],
        "group_id": [
            episode_id(
                protocol=place.protocol,
                peer=peer,
                round=round,
                node=place.node,
                task_id=episode.task_id,
                sample=episode.sample,
            )
            for episode, _, _ in parts
        ],
        "sample": np.asarray([episode.sample for episode, _, _ in parts], np.int32),
        "seat": np.asarray([seat for _, seat, _ in parts], np.int32),
        "error": [episode.error for episode, _, _ in parts],
    }


def _ids(place: Place, parts: Sequence[_Part], *, round: int, peer: str) -> list[str]:
    ids = []
    for episode, seat, trace in parts:
        where = {"peer": peer, "round": round, "node": place.node, "task_id": episode.task_id}
        where |= {"sample": episode.sample, "seat": seat}
        actions = np.asarray(trace.actions, np.int32)
        name = trajectory_id(protocol=place.protocol, actions=actions, where=where)
        ids += [step_id(name, step) for step in range(len(actions))]
    return ids


def _left_values(policy: Actor, parts: Sequence[_Part]) -> NDArray[np.float32]:
    """What the observations are worth in which episodes were truncated, 0 elsewhere."""
    found = np.zeros(len(parts), np.float32)
    cut = [at for at, (_, _, trace) in enumerate(parts) if trace.left is not None]
    if cut:
        seen = np.stack([left for at in cut if (left := parts[at][2].left) is not None])
        found[cut] = policy.values(seen, np.ones((len(cut), policy.spaces.actions), np.int8))
    return found


def _joined(parts: Sequence[_Part], name: str, dtype: Any) -> NDArray[Any]:
    return np.asarray([value for _, _, trace in parts for value in getattr(trace, name)], dtype)


def _nothing(policy: Actor) -> SeatTrajectory:
    """One step in which nothing happened, for an episode that failed."""
    observation = np.zeros(policy.spaces.observation, np.float32)
    return SeatTrajectory([observation], [np.zeros(policy.spaces.actions, np.int8)], [0], [0.0], [0.0], [float("nan")])
