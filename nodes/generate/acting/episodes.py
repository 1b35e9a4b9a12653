"""Plays episodes side by side: each tick lets every player move in all the games in which it is its turn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import BrokenGame, Floats, Game, Mask, Turn
from genrl_graph.nodes.generate.acting.seating import Player, Seats


@dataclass(slots=True)
class SeatTrajectory:
    """What one seat saw, did and earned, step by step; `left` is what it saw when the episode was truncated."""

    observations: list[Floats] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    left: Floats | None = None


@dataclass(slots=True)
class Episode:
    """One episode to play, and what came of it; `error` says why it failed."""

    task_id: str
    sample: int
    environment: Environment
    seed: int
    seats: Seats
    traces: dict[int, SeatTrajectory] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)  # by seat
    moves: int = 0
    finish: str = ""
    error: str = ""


class _Running:
    """An episode that is being played on one copy of its environment."""

    def __init__(self, episode: Episode, game: Game, *, max_steps: int) -> None:
        self.episode, self.game, self.turn = episode, game, game.reset(episode.seed)
        self._max_steps = max_steps
        episode.traces = {seat: SeatTrajectory() for seat in episode.seats.own}
        episode.returns = [0.0] * len(episode.seats.players)

    @property
    def player(self) -> Player:
        """Who is to move."""
        return self.episode.seats.players[self.turn.seat]

    def move(self, action: int, logprob: float, value: float) -> None:
        """Play an action of the seat whose turn it is; raises what the environment raises."""
        episode, before = self.episode, self.turn
        if episode.moves == self._max_steps:
            raise BrokenGame(f"no end after max_steps = {self._max_steps} moves")
        turn = self.turn = self.game.step(action)
        episode.moves += 1
        trace = episode.traces.get(before.seat)
        if trace is not None:
            trace.observations.append(before.observation)
            trace.masks.append(before.mask)
            trace.actions.append(action)
            trace.logprobs.append(logprob)
            trace.values.append(value)
            trace.rewards.append(0.0)
        self._earn(turn)
        if turn.finish:
            episode.finish = turn.finish
            for seat, own in episode.traces.items() if turn.finish == "truncated" else ():
                own.left = self.game.left(seat)

    def _earn(self, turn: Turn) -> None:
        """A reward belongs to the last action of its seat, whoever moved since."""
        for seat, reward in enumerate(turn.rewards):
            self.episode.returns[seat] += reward
            trace = self.episode.traces.get(seat)
            if trace is not None and trace.rewards:
                trace.rewards[-1] += reward


def play_episodes(
    episodes: Sequence[Episode], pool: GamePool, *, num_envs: int, max_steps: int, rng: np.random.Generator
) -> None:
    """Play all episodes, `num_envs` at a time, and write into them what came of it.

    What an environment raises fails its episode; its copy is not played again.
    """
    waiting = list(reversed(episodes))
    running: list[_Running] = []
    while waiting or running:
        while waiting and len(running) < num_envs:
            begun = _begin(waiting.pop(), pool, max_steps=max_steps)
            running += [begun] if begun is not None else []
        going = []
        for player, games in _by_player(running):
            observations = np.stack([game.turn.observation for game in games])
            acts = player.act(observations, np.stack([game.turn.mask for game in games]), rng=rng)
            moves = zip(games, acts.actions.tolist(), acts.logprobs.tolist(), acts.values.tolist(), strict=True)
            going += [game for game, *move in moves if _goes_on(game, pool, *move)]
        running = going


def _begin(episode: Episode, pool: GamePool, *, max_steps: int) -> _Running | None:
    game = pool.take(episode.environment)
    try:
        return _Running(episode, game, max_steps=max_steps)
    except Exception as error:  # an environment is anybody's code
        _fail(episode, error)
        return None


def _goes_on(running: _Running, pool: GamePool, action: int, logprob: float, value: float) -> bool:
    episode = running.episode
    try:
        running.move(action, logprob, value)
    except Exception as error:  # an environment is anybody's code
        _fail(episode, error)
        return False
    if episode.finish:
        pool.give_back(episode.environment, running.game)
    return not episode.finish


def _fail(episode: Episode, error: Exception) -> None:
    what = str(error) if isinstance(error, BrokenGame) else f"{type(error).__name__}: {error}"
    episode.finish, episode.error = "failed", f"move {episode.moves}: {' '.join(what.split())}"


def _by_player(running: Sequence[_Running]) -> list[tuple[Player, list[_Running]]]:
    """The games by who is to move, in the order of their first games."""
    found: dict[int, tuple[Player, list[_Running]]] = {}
    for game in running:
        player = game.player
        found.setdefault(id(player), (player, []))[1].append(game)
    return list(found.values())
