"""Turn played episodes into rows of `Trajectories`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.contract.node import Place
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.trajectories import Trajectories, episode_id, step_id, trajectory_id
from genrl_graph.nodes.generate.acting.episodes import Episode, SeatTrajectory
from genrl_graph.nodes.policy.actors.acting import Actor


class _Trajectory(NamedTuple):
    """The steps of one seat in an episode."""

    episode: Episode
    seat: int
    steps: SeatTrajectory

    @property
    def finish_reason(self) -> str:
        """Return why the seat stopped: "terminated", "truncated" or "failed"."""
        return self.steps.end.finish_reason if self.steps.end is not None else "failed"


def step_rows(
    place: Place, policy: Actor, episodes: Sequence[Episode], *, round: int, peer: str
) -> Scored[Trajectories]:
    """Return one row per step, ordered by episode, seat and step; a failed episode gives one row with its error."""
    trajectories = _trajectories(policy, episodes)
    if not trajectories:
        return Trajectories.empty(marks=[SCORED])
    lengths = np.asarray([len(trajectory.steps.actions) for trajectory in trajectories])
    repeat = pa.array(np.repeat(np.arange(len(trajectories)), lengths))
    last = np.cumsum(lengths) - 1
    finish, bootstrap = np.zeros(len(repeat), np.int64), np.zeros(len(repeat), np.float32)
    reasons = ["", *dict.fromkeys(trajectory.finish_reason for trajectory in trajectories)]
    finish[last] = [reasons.index(trajectory.finish_reason) for trajectory in trajectories]
    bootstrap[last] = _bootstrap_values(policy, trajectories)
    by_trajectory = _trajectory_columns(place, trajectories, round, peer)
    columns = {
        **{name: pa.array(values).take(repeat) for name, values in by_trajectory.items()},
        "id": _ids(place, trajectories, round=round, peer=peer),
        "peer": pa.repeat(peer, len(repeat)),
        "node": pa.repeat(place.node, len(repeat)),
        "stage": np.full(len(repeat), place.stage, np.int32),
        "round": np.full(len(repeat), round, np.int32),
        "policy": pa.repeat(policy.name, len(repeat)),
        "policy_version": np.full(len(repeat), policy.version, np.int64),
        "step": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "observation": np.stack([row for trajectory in trajectories for row in trajectory.steps.observations]),
        "mask": np.stack([mask for trajectory in trajectories for mask in trajectory.steps.masks]),
        "action": _concatenated(trajectories, "actions", np.int32),
        "logprob": _concatenated(trajectories, "logprobs", np.float32),
        "value": _concatenated(trajectories, "values", np.float32),
        "bootstrap": bootstrap,
        "finish_reason": pa.array(reasons).take(pa.array(finish)),
        "reward": _concatenated(trajectories, "rewards", np.float64),
    }
    return Trajectories.from_columns(columns, marks=[SCORED])


def _trajectories(policy: Actor, episodes: Sequence[Episode]) -> list[_Trajectory]:
    """Return the trajectories that have steps, and one placeholder for each failed episode."""
    trajectories: list[_Trajectory] = []
    for episode in episodes:
        if episode.error:
            trajectories.append(_Trajectory(episode, episode.seats.own[0], _placeholder(policy)))
        else:
            trajectories += [_Trajectory(episode, *trace) for trace in episode.traces.items() if trace[1].actions]
    return trajectories


def _trajectory_columns(
    place: Place, trajectories: Sequence[_Trajectory], round: int, peer: str
) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
    """Return the columns that all steps of a trajectory share, one value per trajectory."""
    return {
        "task_id": [episode.task_id for episode, _, _ in trajectories],
        "group_id": [
            episode_id(
                protocol=place.protocol,
                peer=peer,
                round=round,
                node=place.node,
                task_id=episode.task_id,
                sample=episode.sample,
            )
            for episode, _, _ in trajectories
        ],
        "sample": np.asarray([episode.sample for episode, _, _ in trajectories], np.int32),
        "seat": np.asarray([seat for _, seat, _ in trajectories], np.int32),
        "error": [episode.error for episode, _, _ in trajectories],
    }


def _ids(place: Place, trajectories: Sequence[_Trajectory], *, round: int, peer: str) -> list[str]:
    ids = []
    for episode, seat, steps in trajectories:
        where = {"peer": peer, "round": round, "node": place.node, "task_id": episode.task_id}
        where |= {"sample": episode.sample, "seat": seat}
        actions = np.asarray(steps.actions, np.int32)
        name = trajectory_id(protocol=place.protocol, actions=actions, where=where)
        ids += [step_id(name, step) for step in range(len(actions))]
    return ids


def _bootstrap_values(policy: Actor, trajectories: Sequence[_Trajectory]) -> NDArray[np.float32]:
    """Return the policy's value of the final observation of each truncated trajectory, 0 for the others."""
    bootstrap = np.zeros(len(trajectories), np.float32)
    ends = [trajectory.steps.end for trajectory in trajectories]
    finals = [None if end is None else end.observation for end in ends]
    truncated = [index for index, final in enumerate(finals) if final is not None]
    if truncated:
        observations = np.stack([final for final in finals if final is not None])
        bootstrap[truncated] = policy.values(observations, np.ones((len(truncated), policy.spaces.actions), np.int8))
    return bootstrap


def _concatenated(trajectories: Sequence[_Trajectory], name: str, dtype: Any) -> NDArray[Any]:
    return np.asarray([value for trajectory in trajectories for value in getattr(trajectory.steps, name)], dtype)


def _placeholder(policy: Actor) -> SeatTrajectory:
    """Return one empty step with a NaN reward, for an episode that failed."""
    observation = np.zeros(policy.spaces.observation, np.float32)
    return SeatTrajectory([observation], [np.zeros(policy.spaces.actions, np.int8)], [0], [0.0], [0.0], [float("nan")])
