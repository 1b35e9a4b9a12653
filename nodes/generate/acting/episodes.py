"""Play episodes concurrently: each player acts in one batch for all games in which it is to move."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import Floats, Game, GameError, Mask, SeatEnd, Turn
from genrl_graph.nodes.generate.acting.seating import Player, Seats


@dataclass(slots=True)
class SeatTrajectory:
    """Observations, actions and rewards of one seat, step by step, and how it ended."""

    observations: list[Floats] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    end: SeatEnd | None = None


@dataclass(slots=True)
class Episode:
    """One episode to play, and its result; `error` is the reason of a failure."""

    task_id: str
    sample: int
    environment: Environment
    seed: int
    seats: Seats[Player]
    traces: dict[int, SeatTrajectory] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)  # by seat
    moves: int = 0
    over: bool = False
    error: str = ""


class _RunningEpisode:
    """An episode in progress on one copy of its environment."""

    def __init__(self, episode: Episode, game: Game, *, max_steps: int) -> None:
        self.episode, self.game, self.turn = episode, game, game.reset(episode.seed)
        if self.turn.over:
            raise GameError("the game is over before the first move")
        self._max_steps = max_steps
        episode.traces = {seat: SeatTrajectory() for seat in episode.seats.own}
        episode.returns = [0.0] * len(episode.seats.players)

    @property
    def player(self) -> Player:
        """The player to move."""
        return self.episode.seats.players[self.turn.seat]

    def move(self, action: int, logprob: float, value: float) -> None:
        """Play and record an action of the seat to move; raises whatever the environment raises."""
        episode, before = self.episode, self.turn
        if episode.moves == self._max_steps:
            raise GameError(f"no end after max_steps = {self._max_steps} moves")
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
        self._add_rewards(turn)
        episode.over = turn.over
        for seat, end in turn.ends.items():
            if seat in episode.traces:
                episode.traces[seat].end = end

    def _add_rewards(self, turn: Turn) -> None:
        """Add each seat's reward to the last action of that seat, even if other seats moved since."""
        for seat, reward in enumerate(turn.rewards):
            self.episode.returns[seat] += reward
            trace = self.episode.traces.get(seat)
            if trace is not None and trace.rewards:
                trace.rewards[-1] += reward


def play_episodes(
    episodes: Sequence[Episode], pool: GamePool[Game], *, num_envs: int, max_steps: int, rng: np.random.Generator
) -> None:
    """Play all episodes, `num_envs` at a time, and record the result in each of them.

    An exception of an environment fails its episode; that copy of the environment is not used again.
    """
    waiting = list(reversed(episodes))
    running: list[_RunningEpisode] = []
    while waiting or running:
        while waiting and len(running) < num_envs:
            started = _start(waiting.pop(), pool, max_steps=max_steps)
            running += [started] if started is not None else []
        unfinished = []
        for player, games in _by_player(running):
            observations = np.stack([game.turn.observation for game in games])
            output = player.act(observations, np.stack([game.turn.mask for game in games]), rng=rng)
            moves = zip(games, output.actions.tolist(), output.logprobs.tolist(), output.values.tolist(), strict=True)
            unfinished += [game for game, *move in moves if _move(game, pool, *move)]
        running = unfinished


def _start(episode: Episode, pool: GamePool[Game], *, max_steps: int) -> _RunningEpisode | None:
    game = pool.take(episode.environment)
    try:
        return _RunningEpisode(episode, game, max_steps=max_steps)
    except Exception as error:  # environments are third-party code and raise anything
        _fail(episode, error)
        return None


def _move(running: _RunningEpisode, pool: GamePool[Game], action: int, logprob: float, value: float) -> bool:
    """Play one move; return whether the episode goes on."""
    episode = running.episode
    try:
        running.move(action, logprob, value)
    except Exception as error:  # environments are third-party code and raise anything
        _fail(episode, error)
        return False
    if episode.over:
        pool.give_back(episode.environment, running.game)
    return not episode.over


def _fail(episode: Episode, error: Exception) -> None:
    reason = str(error) if isinstance(error, GameError) else f"{type(error).__name__}: {error}"
    episode.over, episode.error = True, f"move {episode.moves}: {' '.join(reason.split())}"


def _by_player(running: Sequence[_RunningEpisode]) -> list[tuple[Player, list[_RunningEpisode]]]:
    """Group games by the player to move; groups are in the order of their first games."""
    groups: dict[int, tuple[Player, list[_RunningEpisode]]] = {}
    for game in running:
        player = game.player
        groups.setdefault(id(player), (player, []))[1].append(game)
    return list(groups.values())
