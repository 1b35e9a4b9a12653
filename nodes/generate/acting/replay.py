"""Play the recorded actions of another peer's episode again, and compare what happens with what was recorded."""

import numpy as np

from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.games.game import Game


class MissingSeatError(Exception):
    """The episode lacks the rows of a seat that has to move: an opponent played it."""


def replay_steps(episode: Trajectories, game: Game, seed: int, *, tolerance: float) -> str:
    """Play the episode's actions; return the first deviation from its recorded steps, "" if there is none.

    Raises `MissingSeatError` if it lacks a seat, and whatever the environment raises.
    """
    seats = {seat: at[np.argsort(episode.numpy("step")[at])] for seat, at in episode.positions("seat").items()}
    observations, masks = episode.numpy("observation"), episode.numpy("mask")
    actions, rewards = episode.numpy("action"), np.zeros(len(episode))
    played = dict.fromkeys(seats, 0)
    state = game.reset(seed)
    finish: dict[int, str] = {}
    while not state.over:
        if state.seat not in seats:
            raise MissingSeatError
        if played[state.seat] == len(seats[state.seat]):
            return f"seat {state.seat} makes {played[state.seat]} moves, and the game is not over"
        at = seats[state.seat][played[state.seat]]
        if not np.allclose(observations[at], state.observation, atol=tolerance):
            return f"seat {state.seat} sees something else at step {played[state.seat]}"
        if not np.array_equal(masks[at], state.mask):
            return f"seat {state.seat} has other legal moves at step {played[state.seat]}"
        played[state.seat] += 1
        state = game.step(int(actions[at]))
        finish |= {seat: end.finish_reason for seat, end in state.ends.items()}
        for seat, count in played.items():
            if count:
                rewards[seats[seat][count - 1]] += state.rewards[seat]
    if surplus := [seat for seat, count in played.items() if count < len(seats[seat])]:
        return f"seat {surplus[0]} moves after the end"
    if not np.allclose(rewards, episode.numpy("reward"), atol=tolerance):
        return f"rewards are {np.round(rewards, 3).tolist()[-4:]} at the end"
    recorded = episode.values("finish_reason")
    wrong = [seat for seat, at in seats.items() if recorded[int(at[-1])] != finish[seat]]
    return f"seat {wrong[0]} is {finish[wrong[0]]} at the end" if wrong else ""
