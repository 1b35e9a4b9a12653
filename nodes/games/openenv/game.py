"""A game in text that an OpenEnv server plays."""

import time
from contextlib import suppress
from json import dumps
from typing import Any

from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.openenv.params import OpenEnvParams
from genrl_graph.nodes.games.openenv.replies import (
    Refusal,
    Reply,
    heard,
    is_truncated,
    legal_of,
    read_reply,
    rewards_of,
    seat_of,
)
from genrl_graph.nodes.games.openenv.session import AGAIN_S, Session, SessionRefused, ask, begin, require_websockets
from genrl_graph.nodes.games.text_game import Spoken, TextEnding, TextTurn
from genrl_graph.store.strict_json import bounded_json


class OpenEnvGame:
    """A game whose every episode is a session of its own, on a server at a URL.

    The server has no way back into a session that is lost: such an episode raises `EpisodeLost`. With `waits` a server
    that is away or full is waited for as an episode begins.
    """

    def __init__(self, params: OpenEnvParams, *, where: str, waits: bool = True) -> None:
        require_websockets(where)
        self.seats, self.deterministic = params.seats, params.deterministic
        self._params, self._waits = params, waits
        self._session: Session | None = None
        self._asked: Session | None = None  # for the next episode
        self._turn = TextTurn(0, (), ())
        self._unheard: dict[int, list[Spoken]] = {}
        self._waiting: Refusal | float | None = None  # for the reply to a move: its refusal, or the time until when

    def start(self, seed: int) -> None:
        """Ask for an episode in a new session, so that the server begins it while others are asked for, too."""
        self.release()
        with suppress(SessionRefused):  # `reset` tries again, and waits
            self._asked = ask(self._params, self._reset(seed), seconds=min(AGAIN_S, self._params.timeout_s))

    def reset(self, seed: int) -> TextTurn:
        """Begin an episode, that of `start` or one in a new session."""
        asked, self._asked, self._unheard = self._asked, None, {}
        self.release()
        self._session, message = begin(self._params, self._reset(seed), asked=asked, waits=self._waits)
        reply = read_reply(message)
        if isinstance(reply, Refusal):
            raise GameError(f"the server begins no episode: {reply}")
        return self._read(reply)

    def send(self, action: str) -> None:
        """Send a move, so that the server computes while other moves are sent; `step` returns what it leads to."""
        assert self._session is not None, "an episode has begun"
        try:
            data = self._action(action)
        except ValueError as error:
            self._waiting = Refusal("INVALID_JSON", f"an action is a JSON object ({error})")
            return
        self._session.send({"type": "step", "data": data})
        self._waiting = time.monotonic() + self._params.timeout_s

    def step(self, action: str) -> TextTurn:
        """Return what a move leads to, after sending it if `send` has not."""
        if self._waiting is None:
            self.send(action)
        assert self._session is not None and self._waiting is not None, "a move was sent"
        waiting, self._waiting = self._waiting, None
        reply = waiting if isinstance(waiting, Refusal) else read_reply(self._session.receive(waiting))
        if isinstance(reply, Reply):
            return self._read(reply)
        if self._params.errors == "fail":
            raise GameError(f"the server refuses the action: {reply}")
        return TextTurn(self._turn.seat, [Spoken(f"Error: {reply.message}")], (0.0,) * self.seats, self._turn.legal)

    def release(self) -> None:
        """End the session, if there is one: an idle game takes no place at the server."""
        for session in (self._session, self._asked):
            if session is not None:
                session.close()
        self._session, self._asked, self._waiting = None, None, None

    def close(self) -> None:
        """End the session."""
        self.release()

    def _reset(self, seed: int) -> dict[str, Any]:
        return {"type": "reset", "data": {**self._params.reset, "seed": seed}}

    def _action(self, move: str) -> dict[str, Any]:
        """Return the action of a move; raises `ValueError` if it is none."""
        if self._params.action is not None:
            return {**self._params.constants, self._params.action: move}
        action = bounded_json(move)
        if not isinstance(action, dict):
            raise ValueError(f"it is {dumps(action)[:40]}")
        return {**action, **self._params.constants}

    def _read(self, reply: Reply) -> TextTurn:
        """Return the turn of a reply; ends the session of an episode that is over."""
        rewards = rewards_of(reply, self._params)
        if reply.done:
            ending: TextEnding = "truncated" if is_truncated(reply, self._params) else "terminated"
            self.release()
            return TextTurn(0, (), rewards, None, dict.fromkeys(range(self.seats), ending), over=True)
        seat = seat_of(reply, self._params)
        for at, text in heard(reply, self._params, seat).items():
            self._unheard.setdefault(at, []).append(Spoken(text))
        self._turn = TextTurn(seat, self._unheard.pop(seat, []), rewards, legal_of(reply, self._params))
        return self._turn
