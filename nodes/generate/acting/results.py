"""Results of played episodes: returns, lengths, and wins by kind of opponent."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from genrl_graph.contract.resources import Log
from genrl_graph.nodes.generate.acting.seating import Seats


class PlayedEpisode(Protocol):
    """An episode that was played: its seats, the return of each, the moves of all, and why it failed ("" if not)."""

    seats: Seats[Any]
    returns: list[float]
    moves: int
    error: str


def log_results(log: Log, episodes: Sequence[PlayedEpisode]) -> None:
    """Log returns and lengths of the episodes that did not fail, and wins, draws and losses per kind of opponent.

    In self-play the result is that of the first seat.
    """
    played = [episode for episode in episodes if not episode.error]
    log.metric("failed", 1.0 - len(played) / len(episodes) if episodes else 0.0)
    if not played:
        return
    log.metric("return", float(np.mean([episode.returns[seat] for episode in played for seat in episode.seats.own])))
    log.metric("episode_length", float(np.mean([episode.moves for episode in played])))
    for kind in dict.fromkeys(episode.seats.opponent for episode in played):
        if kind:
            outcomes = np.asarray([_outcome(episode) for episode in played if episode.seats.opponent == kind])
            log.metric(f"{kind}/episodes", len(outcomes))
            log.metric(f"{kind}/wins", float((outcomes > 0).mean()))
            log.metric(f"{kind}/draws", float((outcomes == 0).mean()))
            log.metric(f"{kind}/losses", float((outcomes < 0).mean()))


def _outcome(episode: PlayedEpisode) -> int:
    """Return 1 if the policy's seat has the highest return, -1 if another seat has more, 0 for a tie at the top."""
    own = episode.seats.own[0]
    best = max(value for seat, value in enumerate(episode.returns) if seat != own)
    return int(episode.returns[own] > best) - int(episode.returns[own] < best)
