"""Play dialogues side by side: each policy completes the turns of all episodes in which it is to speak in one call.

Randomness is drawn per episode, seat and turn, so that an episode does not depend on those beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from genrl_graph.contract.policy import BrokenChat, Completion
from genrl_graph.errors import UserError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import EpisodeLost, GameError
from genrl_graph.nodes.games.text_game import CheckedTextGame, TextTurn
from genrl_graph.nodes.games.timed_calls import TimedCalls
from genrl_graph.nodes.generate.acting.seating import Seats
from genrl_graph.nodes.generate.prompting.prompts import AskedTask
from genrl_graph.nodes.generate.speaking.chats import Asked, Chat, Messages, Wording
from genrl_graph.nodes.generate.speaking.moves import Illegal, Move, move_of
from genrl_graph.nodes.generate.speaking.players import DialoguePlayer, Mover, PolicyPlayer, RecordedPlayer
from genrl_graph.nodes.generate.speaking.toolbox import RunningCalls, Toolbox, ToolRules
from genrl_graph.seeds import substream


@dataclass(slots=True)
class SpokenTurn:
    """A turn of a recorded seat: what it heard and was asked, what it said and did, and what that earned.

    A turn with `calls` of tools is no move of the game.
    """

    seat: int
    turn: int
    move: int
    heard: Messages
    asked: Asked
    completion: Completion
    action: str = ""
    legal: bool = True
    reward: float = 0.0
    ending: str = ""
    calls: RunningCalls | None = None


@dataclass(slots=True)
class Dialogue:
    """One episode to play, and its result; `error` is the reason of a failure.

    `row` is the task that the environment plays, None if the seed is all of it. An episode that its environment has
    `lost` begins again; `restarts` are the reasons.
    """

    task: AskedTask
    sample: int
    environment: Environment
    seed: int
    seats: Seats[DialoguePlayer]
    row: Mapping[str, Any] | None = None
    turns: list[SpokenTurn] = field(default_factory=list)  # of the recorded seats, in order
    returns: list[float] = field(default_factory=list)  # by seat
    moves: int = 0
    over: bool = False
    error: str = ""
    lost: bool = False
    restarts: list[str] = field(default_factory=list)

    def again(self) -> "Dialogue":
        """Return this episode as it was before it began, and note why it begins again."""
        self.restarts.append(self.error)
        self.turns, self.returns, self.moves = [], [], 0
        self.over, self.error, self.lost = False, "", False
        return self


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a dialogue: the wording of turns, the reading of moves, tools, and limits on turns and seconds.

    `environment` plays the tasks; None: each task names its own.
    """

    wording: Wording
    extract: str
    illegal: Illegal
    illegal_reward: float
    max_turns: int
    step_timeout_s: float
    tools: ToolRules
    environment: Environment | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Environments of dialogues: a pool of them, and the thread that calls them."""

    pool: GamePool[CheckedTextGame]
    calls: TimedCalls


class RunningDialogue:
    """An episode in progress on one copy of its environment; a server begins it from the start, others at `begin`."""

    def __init__(self, episode: Dialogue, table: Table, rules: Rules, rng: np.random.Generator) -> None:
        self.episode, self._rules, self._rng = episode, rules, rng
        self._call = partial(table.calls.call, limit_s=rules.step_timeout_s)
        self.game: CheckedTextGame = self._call(partial(table.pool.take, episode.environment))
        self._open = set(range(self.game.spaces.seats))
        self._chats: dict[int, Chat] = {}
        self._heard: Messages = []
        self._calls: dict[int, RunningCalls] = {}
        episode.returns = [0.0] * self.game.spaces.seats
        self.turn = TextTurn(0, (), ())
        self.asked: Asked | None = None
        self._sent: str | None = None
        if self.game.remote:
            self._call(partial(self.game.start, episode.seed))

    def begin(self) -> None:
        """Begin the episode; raises whatever the environment raises."""
        self.turn = self._call(partial(self.game.reset, self.episode.seed, self.episode.row))

    @property
    def player(self) -> DialoguePlayer:
        """The player to move."""
        return self.episode.seats.players[self.turn.seat]

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the random generator of this episode, seat and move for one purpose."""
        where = (self.episode.task.id, self.episode.sample, self.turn.seat, self.episode.moves)
        return substream(self._rng, purpose, *where)

    def ask(self, player: PolicyPlayer | RecordedPlayer) -> None:
        """Set the prompt of the next turn; a seat without room or turns left truncates the episode."""
        seat = self.turn.seat
        chat = self._chats.get(seat)
        if chat is None:
            tools = self._toolbox(player)
            chat = self._chats[seat] = Chat(player.policy, self._rules.wording, self.episode.task, tools)
        calls = self._calls.pop(seat, None)
        heard = [{"role": message.speaker, "content": message.text} for message in self.turn.heard]
        if calls is not None:
            # the programs of another peer's episode count for its time
            heard = calls.heard() if isinstance(player, PolicyPlayer) else self._call(calls.heard)
        self._heard = heard
        self.asked = None
        if chat.turns < self._rules.max_turns:
            asked = chat.ask(seat, self._heard, self.turn.legal, results=calls is not None)
            self.asked = asked if player.fits(asked) else None
            if len(asked.ids) == 0 and player.policy is not None:
                raise GameError("the prompt has no tokens")
            if self.asked is None and chat.turns == 0 and isinstance(player, PolicyPlayer):
                raise GameError(f"the first prompt has {len(asked.ids)} tokens, but at most {player.limit} fit")
        if self.asked is None:
            self.end("truncated")

    def _toolbox(self, player: PolicyPlayer | RecordedPlayer) -> Toolbox | None:
        """Return the tools of a seat: those of the dialogue, and those of the environment; None if there are none."""
        rules, own = self._rules.tools, self.game.functions
        if not rules.tools and not own:
            return None
        return self._call(partial(Toolbox, rules, own, player.policy))

    def say(self, completion: Completion, *, drawn: str | None = None) -> None:
        """Start the calls of tools in a completion or else play its move, and record the turn.

        Raises whatever the environment raises. `drawn` is the random move that a recorded episode played in place of an
        illegal one.
        """
        self.speak(completion, drawn=drawn)
        self.listen()

    def speak(self, completion: Completion, *, drawn: str | None = None) -> None:
        """Record the turn of a completion as `say` does, and send its move; `listen` plays it."""
        assert self.asked is not None, "a prompt was asked"
        chat, rules = self._chats[self.turn.seat], self._rules
        if chat.tools is not None and (calls := chat.tools.read(self.asked.ids, completion)):
            self._call_tools(chat, chat.tools.run(calls, self._call), completion)
            return
        rng = self.stream("illegal")
        move = move_of(completion.text, self.turn.legal, pattern=rules.extract, illegal=rules.illegal, rng=rng)
        if drawn is not None and not move.legal and rules.illegal == "random" and drawn in (self.turn.legal or ()):
            move = Move(drawn, legal=False)
        spoken = self._record(chat, completion)
        spoken.action, spoken.legal = move.action or "", move.legal
        self._send(move)

    def _call_tools(self, chat: Chat, calls: RunningCalls, completion: Completion) -> None:
        """Record a turn of calls; the seat hears their results in its next turn, before anybody moves."""
        self._record(chat, completion).calls = calls
        self._calls[self.turn.seat] = calls
        self.episode.moves += 1

    def _record(self, chat: Chat, completion: Completion) -> SpokenTurn:
        """Add a completion to its chat, and to the episode if the seat is recorded."""
        assert self.asked is not None, "a prompt was asked"
        spoken = SpokenTurn(self.turn.seat, chat.turns, self.episode.moves, self._heard, self.asked, completion)
        chat.answer(self.asked, completion)
        if self.turn.seat in self.episode.seats.own:
            self.episode.turns.append(spoken)
        return spoken

    def draw(self, player: Mover) -> None:
        """Play one of the moves of a player for the seat to move; raises whatever the environment raises."""
        moves = self._call(partial(player.moves, self.game, self.turn.legal))
        self._send(Move(moves[int(self.stream(player.kind).integers(len(moves)))]))
        self.listen()

    def _send(self, move: Move) -> None:
        """Send a move to a server, which computes while those of other episodes are sent; keep it for `listen`."""
        seat = self.turn.seat
        self.episode.moves += 1
        if not move.legal and self._rules.illegal != "pass_on":
            self._earn(seat, self._rules.illegal_reward)
        if move.action is None:
            self.end("terminated")
            return
        if self.game.remote:
            self._call(partial(self.game.send, move.action))
        self._sent = move.action

    def listen(self) -> None:
        """Play the move that was sent, if one was; raises whatever the environment raises."""
        if self._sent is None:
            return
        action, self._sent = self._sent, None
        self.turn = self._call(partial(self.game.step, action))
        for at, reward in enumerate(self.turn.rewards):
            self._earn(at, reward)
        for at, ending in self.turn.ends.items():
            self._close(at, ending)
        self.episode.over = self.turn.over

    def end(self, ending: str) -> None:
        """End the episode for all seats that are still in it, with what the environment pays for it as it stands."""
        if ending == "truncated":
            for at, reward in enumerate(self._call(self.game.truncate)):
                self._earn(at, reward)
        for seat in sorted(self._open):
            self._close(seat, ending)
        self.episode.over = True

    def _close(self, seat: int, ending: str) -> None:
        self._open.discard(seat)
        last = self._last(seat)
        if last is not None:
            last.ending = ending

    def _earn(self, seat: int, reward: float) -> None:
        """Add a reward to the last recorded turn of a seat, even if other seats have moved since."""
        self.episode.returns[seat] += reward
        last = self._last(seat)
        if last is not None:
            last.reward += reward

    def _last(self, seat: int) -> SpokenTurn | None:
        return next((turn for turn in reversed(self.episode.turns) if turn.seat == seat), None)


def play_dialogues(
    episodes: Sequence[Dialogue],
    table: Table,
    rules: Rules,
    *,
    num_envs: int,
    rng: np.random.Generator,
) -> None:
    """Play all episodes, `num_envs` at a time, and record the result in each of them.

    An environment that raises or does not return fails its episode; that copy of it is not used again. An episode that
    a server loses begins again from its seed, as often as its environment allows.
    """
    waiting = list(reversed(episodes))
    running: list[RunningDialogue] = []
    while waiting or running:
        active, first = [dialogue.episode for dialogue in running], len(running)
        while waiting and len(running) < num_envs:
            active.append(episode := waiting.pop())
            with _recorded(episode):
                running.append(RunningDialogue(episode, table, rules, rng))
        for dialogue in running[first:]:
            with _recorded(dialogue.episode):
                dialogue.begin()
        for player, dialogues in _by_player(running):
            if isinstance(player, PolicyPlayer):
                _speak(player, dialogues)
            elif isinstance(player, Mover):
                _move(player, dialogues)
        for dialogue in running:
            if dialogue.episode.over and not dialogue.episode.error:
                table.pool.give_back(dialogue.episode.environment, dialogue.game)
        running = [dialogue for dialogue in running if not dialogue.episode.over]
        waiting += [episode.again() for episode in active if episode.lost]


def _speak(player: PolicyPlayer, dialogues: Sequence[RunningDialogue]) -> None:
    """Let a policy complete the next turn of each episode, in one call."""
    for dialogue in dialogues:
        with _recorded(dialogue.episode):
            dialogue.ask(player)
    asked = [(dialogue, dialogue.asked) for dialogue in dialogues if not dialogue.episode.over]
    prompts = [prompt for _, prompt in asked if prompt is not None]
    rngs = [dialogue.stream("completion") for dialogue, _ in asked]
    completions = player.complete(prompts, rngs) if prompts else []
    for (dialogue, _), completion in zip(asked, completions, strict=True):
        with _recorded(dialogue.episode):
            if completion.error:
                raise GameError(completion.error)
            dialogue.speak(completion)
    for dialogue, _ in asked:  # all moves are sent: servers compute side by side
        if not dialogue.episode.over:
            with _recorded(dialogue.episode):
                dialogue.listen()


def _move(player: Mover, dialogues: Sequence[RunningDialogue]) -> None:
    for dialogue in dialogues:
        with _recorded(dialogue.episode):
            dialogue.draw(player)


@contextmanager
def _recorded(episode: Dialogue) -> Iterator[None]:
    """Record what an environment raises as the failure of its episode; errors of the user's own params are raised."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # environments are third-party code and raise anything
        plain = isinstance(error, GameError | BrokenChat)
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        episode.over, episode.error = True, f"move {episode.moves}: {' '.join(reason.split())}"
        episode.lost = isinstance(error, EpisodeLost) and len(episode.restarts) < error.restarts


def _by_player(running: Sequence[RunningDialogue]) -> list[tuple[DialoguePlayer, list[RunningDialogue]]]:
    """Group episodes by the player to move; groups are in the order of their first episodes."""
    groups: dict[int, tuple[DialoguePlayer, list[RunningDialogue]]] = {}
    for dialogue in running:
        if dialogue.episode.over:  # it could not begin
            continue
        player = dialogue.player
        groups.setdefault(id(player), (player, []))[1].append(dialogue)
    return list(groups.values())
