"""The interface through which generators play a game in text, and checks of what an environment returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

from genrl_graph.contract.tool import Function
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import GameError, read_reward

TextEnding = Literal["terminated", "truncated"]
NARRATOR = "game"
MOST_CHARACTERS = 2**18
"""Most characters of one message or action."""


@dataclass(frozen=True, slots=True)
class TextSpaces:
    """Facts of a game in text before it is played: its seats, and whether seed and actions determine it.

    `plays_tasks` says that it plays tasks of any source: each is a row that `begin` gets beside the seed.
    """

    seats: int
    deterministic: bool
    plays_tasks: bool = False

    def __str__(self) -> str:
        seats = f"{self.seats} seat{'s' * (self.seats > 1)}"
        return f"text, {seats}, {'deterministic' if self.deterministic else 'not deterministic'}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A message to a seat, and who speaks: the game, or another seat."""

    text: str
    speaker: str = NARRATOR


@dataclass(frozen=True, slots=True)
class TextTurn:
    """The seat to move and the messages that are new to it since its last turn.

    `legal` are the texts of the legal actions, None if the environment judges actions itself. `rewards` holds what each
    seat earned since the previous turn, `ends` the seats that ended since. When the game is `over`, all seats have
    ended and none is to move.
    """

    seat: int
    heard: Sequence[Spoken]
    rewards: Sequence[float]
    legal: Sequence[str] | None = None
    ends: Mapping[int, TextEnding] = field(default_factory=dict)
    over: bool = False


class TextGame(Protocol):
    """One copy of a game in text; any exception it raises, `GameError` included, fails the episode, not the run.

    Seats may move in any order, several times in a row too. Copies are reused: `reset` forgets the last episode.
    A game may also be a `TaskGame`, a `ToolGame` or a `SolvedGame`.
    """

    seats: int
    deterministic: bool

    def reset(self, seed: int) -> TextTurn:
        """Start an episode; in a deterministic game, seed and actions determine everything that happens in it."""

    def step(self, action: str) -> TextTurn:
        """Play the action of the seat to move."""

    def close(self) -> None:
        """Release the environment's resources."""


@runtime_checkable
class RemoteTextGame(TextGame, Protocol):
    """A game that a server plays: what several games ask of it is sent first, and their turns are awaited then."""

    def start(self, seed: int) -> None:
        """Ask for the episode that the next `reset` begins."""

    def send(self, action: str) -> None:
        """Send the action that the next `step` plays."""

    def release(self) -> None:
        """Give back what an episode takes at the server; the game may begin another."""


@runtime_checkable
class TaskGame(TextGame, Protocol):
    """A game that plays the tasks of a source."""

    def begin(self, seed: int, row: Mapping[str, Any]) -> TextTurn:
        """Start an episode of a task; `row` has its `prompt` (chat messages), its `answer`, and its metadata."""


@runtime_checkable
class ToolGame(TextGame, Protocol):
    """A game whose seats may call functions before they move."""

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions by name, with type hints and docstrings; they act on the episode that was started last."""

    def truncate(self) -> Sequence[float]:
        """Return what each seat earns where the episode ends before the game does."""


@runtime_checkable
class SolvedGame(TextGame, Protocol):
    """A game in which perfect play is known."""

    def best_moves(self) -> Sequence[str]:
        """Return the actions from which the seat to move still gets as much as it can; raises `DataError` for none."""


class CheckedTextGame:
    """A game in text whose turns are checked: `GameError` names what an environment returned that no game can."""

    def __init__(self, game: TextGame) -> None:
        self._game = game
        self._remote = game if isinstance(game, RemoteTextGame) else None
        self._ended: set[int] = set()
        self.spaces = TextSpaces(int(game.seats), bool(game.deterministic), isinstance(game, TaskGame))

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions that seats may call, none in most games."""
        return self._game.functions if isinstance(self._game, ToolGame) else {}

    def reset(self, seed: int, row: Mapping[str, Any] | None = None) -> TextTurn:
        """Start an episode, of a task if there is a `row`.

        Raises `GameError` for a turn that is none, a game that is over at once, or one that plays no tasks.
        """
        self._ended = set()
        if row is None:
            turn = self._checked(self._game.reset(seed))
        elif isinstance(self._game, TaskGame):
            turn = self._checked(self._game.begin(seed, row))
        else:
            raise GameError("the environment plays no tasks of another source")
        if turn.over:
            raise GameError("the game is over before the first move")
        return turn

    @property
    def remote(self) -> bool:
        """Return whether a server plays the game."""
        return self._remote is not None

    def start(self, seed: int) -> None:
        """Let a server begin the episode of the next `reset` from now on; other games begin it in `reset`."""
        if self._remote is not None:
            self._remote.start(seed)

    def send(self, action: str) -> None:
        """Let a server compute the next `step` from now on; other games compute in `step`."""
        if self._remote is not None:
            self._remote.send(action)

    def step(self, action: str) -> TextTurn:
        """Play an action; raises `GameError` for a turn that is none."""
        return self._checked(self._game.step(action))

    def best_moves(self) -> Sequence[str]:
        """Return the actions of perfect play for the seat to move.

        Raises `DataError` if they are not known, and `GameError` if they are no texts.
        """
        if not isinstance(self._game, SolvedGame):
            raise DataError("perfect play is not known; remove the opponent `perfect`")
        moves = [_text(move, "a move") for move in self._game.best_moves()]
        if not moves:
            raise GameError("perfect play has no move")
        return moves

    def release(self) -> None:
        """Give back what the last episode takes at a server."""
        if self._remote is not None:
            self._remote.release()

    def truncate(self) -> Sequence[float]:
        """Return what each seat earns where the episode ends before the game does; raises `GameError` for no number."""
        if not isinstance(self._game, ToolGame):
            return [0.0] * self.spaces.seats
        rewards = list(map(read_reward, self._game.truncate()))
        if len(rewards) != self.spaces.seats:
            raise GameError(f"{len(rewards)} rewards for {self.spaces.seats} seats")
        return rewards

    def close(self) -> None:
        """Close the environment."""
        self._game.close()

    def _checked(self, turn: TextTurn) -> TextTurn:
        seats = self.spaces.seats
        if not isinstance(turn, TextTurn):
            raise GameError(f"a turn is a {type(turn).__name__}, not a TextTurn")
        if len(turn.rewards) != seats:
            raise GameError(f"{len(turn.rewards)} rewards for {seats} seats")
        rewards = tuple(map(read_reward, turn.rewards))
        ends = {int(seat): _ending(ending) for seat, ending in turn.ends.items()}
        for seat in ends:
            if not 0 <= seat < seats or seat in self._ended:
                raise GameError(f"seat {seat} ends{' twice' if seat in self._ended else ''}, of seats 0 to {seats - 1}")
        self._ended |= set(ends)
        if turn.over:
            if missing := set(range(seats)) - self._ended:
                raise GameError(f"the game is over, but seat {min(missing)} has not ended")
            return TextTurn(turn.seat, (), rewards, None, ends, over=True)
        if not 0 <= turn.seat < seats or turn.seat in self._ended:
            state = "has ended" if turn.seat in self._ended else f"is none of 0 to {seats - 1}"
            raise GameError(f"seat {turn.seat} is to move, which {state}")
        if turn.legal is not None and not turn.legal:
            raise GameError("no action is legal")
        legal = None if turn.legal is None else tuple(_text(action, "an action") for action in turn.legal)
        return TextTurn(turn.seat, tuple(map(_spoken, turn.heard)), rewards, legal, ends)


def _spoken(message: Spoken) -> Spoken:
    if not isinstance(message, Spoken):
        raise GameError(f"a message is a {type(message).__name__}, not Spoken")
    return Spoken(_text(message.text, "a message"), _text(message.speaker, "a speaker"))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise GameError(f"{what} is {str(value)[:40]!r}, which is a {type(value).__name__} and no text")
    if len(value) > MOST_CHARACTERS:
        raise GameError(f"{what} has {len(value)} characters; at most {MOST_CHARACTERS} are read")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise GameError(f"{what} holds a lone surrogate, which is no text")
    return value


def _ending(ending: str) -> TextEnding:
    if ending not in ("terminated", "truncated"):
        raise GameError(f"a seat ends by {ending!r}, not terminated or truncated")
    return cast(TextEnding, ending)
