"""Play another peer's dialogue again from its recorded completions, and compare what happens with what was recorded."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genrl_graph.contract.policy import Completion, TextPolicy
from genrl_graph.edge_types.task import Task
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.generate.acting.replay import MissingSeatError
from genrl_graph.nodes.generate.acting.seating import Seats
from genrl_graph.nodes.generate.speaking.episodes import Dialogue, Rules, RunningDialogue, SpokenTurn, Table
from genrl_graph.nodes.generate.speaking.players import DialoguePlayer, RecordedPlayer
from genrl_graph.nodes.generate.speaking.starts import start_of

Row = Mapping[str, Any]
_READ = ("seat", "turn", "move", "heard", "messages", "prompt_ids", "completion_ids", "completion", "action", "reward")


def replay_turns(
    episode: Turns,
    task: Task,
    table: Table,
    rules: Rules,
    *,
    policy: TextPolicy | None,
    room: int,
    tolerance: float,
    until: float,
) -> str:
    """Play the episode's completions; return the first deviation from its recorded turns, "" if there is none.

    The replay hears, words, extracts, calls tools, rewards and ends as `rules` say. With a `policy` of the same
    tokenizer it computes the prompt ids too, and admits that an episode was truncated because its next prompt has more
    than `room` tokens. It may take until a monotonic time. Raises `MissingSeatError` if a seat is missing, and whatever
    the environment raises.
    """
    start = start_of(task, rules.environment)
    seats = start.environment.text_spaces().seats
    player = RecordedPlayer(policy)
    seated: Seats[DialoguePlayer] = Seats((player,) * seats, tuple(range(seats)), "self")
    played = Dialogue(start.task, 0, start.environment, start.seed, seated, start.row)
    rows = sorted(episode.rows(*_READ, "ending"), key=lambda row: (row["seat"], row["turn"]))
    waiting = {seat: [row for row in rows if row["seat"] == seat] for seat in {row["seat"] for row in rows}}
    running = RunningDialogue(played, table, rules, np.random.default_rng(0))
    running.begin()
    recorded: list[Row] = []
    while not played.over:
        if time.monotonic() > until:
            raise GameError("its time is over")
        seat = running.turn.seat
        if seat not in waiting:
            raise MissingSeatError
        running.ask(player)
        if not waiting[seat]:
            if not played.over and (policy is None or running.asked is None or len(running.asked.ids) <= room):
                turns = sum(row["seat"] == seat for row in rows)
                return f"seat {seat} makes {turns} turn{'s' * (turns != 1)}, and the game is not over"
            running.end("truncated")
        elif not played.over:
            row = waiting[seat].pop(0)
            recorded.append(row)
            running.say(_completion(row), drawn=row["action"])
    table.pool.give_back(start.environment, running.game)
    if late := [seat for seat, left in waiting.items() if left]:
        return f"seat {late[0]} speaks after the end"
    differing = (_differences(row, turn, policy, tolerance) for row, turn in zip(recorded, played.turns, strict=True))
    return next((reason for reasons in differing for reason in reasons), "")


def _completion(row: Row) -> Completion:
    ids = np.asarray(row["completion_ids"], np.int32)
    return Completion(ids, np.zeros(len(ids), np.float32), row["completion"], "stop")


def _differences(row: Row, turn: SpokenTurn, policy: TextPolicy | None, tolerance: float) -> Iterator[str]:
    """Yield how a recorded turn differs from the one that was played."""
    where = f"at turn {row['turn']} of seat {row['seat']}"
    if (row["turn"], row["move"]) != (turn.turn, turn.move):
        yield f"another move is due {where}: it is {turn.move}, not {row['move']}"
    if row["heard"] != turn.heard:
        yield f"something else is heard {where}"
    if row["messages"] != turn.asked.messages:
        yield f"the prompt is worded in another way {where}"
    if policy is not None and row["prompt_ids"] != turn.asked.ids.tolist():
        yield f"the prompt has other ids {where}"
    if row["action"] != turn.action:
        yield f"the completion plays {turn.action!r} {where}, not {row['action'][:40]!r}"
    if not abs(row["reward"] - turn.reward) <= tolerance:
        yield f"the reward is {turn.reward:g} {where}, not {row['reward']:g}"
    if row["ending"] != turn.ending:
        yield f"the seat is {turn.ending or 'still in the game'} {where}, not {row['ending'] or 'in the game'}"
