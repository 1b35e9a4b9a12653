"""`select.verified` on dialogues: turns of other peers are played again, and those that deviate are dropped."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Log, TaskBook
from genrl_graph.contract import registry
from genrl_graph.contract.node import Place
from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.select.verified import Verified
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "text_games.py")
KUHN = Environment(id="kuhn_poker", kind="open_spiel", params={"actions": "numbers"})
GUESS, QUEUE = Environment(id="guess", kind="text"), Environment(id="queue", kind="text")
NODE = DialogueGenerator(max_new_tokens=2, max_turns=3, illegal="random", num_generations=2)
Edit = Callable[[list[dict[str, Any]]], object]


def tiny(**params: Any) -> TextPolicy:
    alphabet = {"alphabet": "0123456789guesmorlab\n :,L", "initializer_range": 0.5}
    return TinyLM(**{"hidden_size": 8, "heads": 1, "layers": 1, "max_context": 256} | alphabet | params).init(
        "policy", seed=0
    )


def played(environment: Environment, peer: str, node: DialogueGenerator = NODE) -> Turns:
    """Play two episodes of each of three tasks as `peer`."""
    tasks = (
        EnvironmentSource(environment=environment, num_episodes=3).placed(Place("tasks")).run(rng=stream(0), round=0)
    )
    rng: Any = {"rng": stream(peer), "log": Log(), "round": 0, "peer": peer}
    rows: Turns = node.placed(Place("play")).run(tasks, tiny(), **rng)
    return rows


def verified(
    rows: Turns,
    environment: Environment,
    *,
    policy: TextPolicy | None = None,
    node: DialogueGenerator = NODE,
    **more: Any,
) -> tuple[Turns, Log]:
    """Verify the rows with a replay by the rules of `node`."""
    book = TaskBook({"tasks": EnvironmentSource(environment=environment).placed(Place("tasks"))})
    select, log = Verified(**more).placed(Place("verified", origins=(RowOrigin("play", node),))), Log()
    kept: Turns = select.run(rows, policy, tasks=book, peer="own", log=log)
    return kept, log


def edited(rows: Turns, edit: Edit) -> Turns:
    """Return the rows after `edit` has changed the first of their episodes."""
    table = rows.rows(*rows.table.column_names)
    edit([row for row in table if row["episode"] == table[0]["episode"]])
    return Turns.from_rows(table, marks=[SCORED])


@pytest.mark.parametrize("environment", [KUHN, GUESS, QUEUE], ids=str)
@pytest.mark.parametrize("illegal", ["random", "forfeit", "pass_on"])
@pytest.mark.parametrize("reads", [True, False], ids=["tokenizer", "text"])
def test_what_was_played_so_is_kept(environment: Environment, illegal: Any, reads: bool) -> None:
    node = NODE.model_copy(update={"illegal": illegal})
    rows = Turns.concat([played(environment, peer, node) for peer in ("own", "other", "third")])
    rows = rows.take(np.random.default_rng(0).permutation(len(rows)))
    failed = rows.where(
        [
            ending == "failed" and peer != "own"
            for ending, peer in zip(*map(rows.values, ("ending", "peer")), strict=True)
        ]
    )
    kept, log = verified(rows, environment, policy=tiny() if reads else None, node=node)
    assert log.metrics["refuted"] == 0, log.tables["refuted"]
    assert len(kept) == len(rows) - len(failed)
    assert (len(failed) > 0) == (environment is KUHN and illegal == "pass_on")  # a game that judges no moves itself


def last(column: str, value: Any) -> Edit:
    return lambda rows: rows[-1].update({column: value})


FORGED: list[tuple[Environment, Edit, str]] = [
    (GUESS, last("reward", 1.0), r"the reward is \S+ at turn \d of seat 0, not 1"),
    (GUESS, last("heard", [{"role": "game", "content": "you win"}]), "something else is heard at turn"),
    (GUESS, last("action", "right"), r"the completion plays '.*' at turn \d of seat 0, not 'right'"),
    (GUESS, last("messages", [{"role": "user", "content": "say 5"}]), "the prompt is worded in another way"),
    (GUESS, last("prompt_ids", [5, 6, 7]), "the prompt has other ids at turn"),
    (GUESS, last("ending", "terminated"), "the seat is truncated at turn 2 of seat 0, not terminated"),
    (GUESS, last("move", 7), "another move is due at turn 2 of seat 0: it is 2, not 7"),
    (GUESS, last("turn", 0), "something else is heard|the prompt is worded|the completion plays|another move is due"),
    (QUEUE, lambda rows: (rows[1].update(turn=1), rows[2].update(turn=0)), "of seat 1"),
    (KUHN, last("reward", 2.0), "the reward is"),
]


@pytest.mark.parametrize(("environment", "edit", "reason"), FORGED)
def test_an_episode_that_did_not_happen_so_goes_with_its_reason(
    environment: Environment, edit: Edit, reason: str
) -> None:
    rows = edited(played(environment, "liar"), edit)
    kept, log = verified(rows, environment, policy=tiny(), unseen="keep")
    lie = rows.values("episode")[0]
    assert set(rows.values("episode")) - set(kept.values("episode")) == {lie}
    assert (log.tables["refuted"]["id"], log.tables["refuted"]["peer"]) == ([lie], ["liar"])
    assert re.search(reason, log.tables["refuted"]["reason"][0]), log.tables["refuted"]["reason"]
    own = edited(played(environment, "own"), edit)
    assert len(verified(own, environment, policy=tiny())[0]) == len(own), "a peer believes itself"


def test_an_episode_that_was_left_early_is_none() -> None:
    rows = played(GUESS, "liar")
    (first, *_) = rows.positions("episode").values()
    short = edited(rows.take(first[:-1]), last("ending", "truncated"))
    kept, log = verified(short, GUESS, policy=tiny())
    assert not len(kept)
    assert log.tables["refuted"]["reason"] == ["seat 0 makes 2 turns, and the game is not over"]
    narrow = tiny(max_context=len(rows.ragged("prompt_ids")[int(first[-1])]))
    assert len(verified(short, GUESS, policy=narrow)[0]) == 2, "the next prompt leaves no room for two tokens"


def test_ids_of_another_tokenizer_are_not_compared_but_all_text_is() -> None:
    rows = edited(played(GUESS, "other"), last("prompt_ids", [5, 6, 7]))
    other = tiny(alphabet="0123456789guesmorl\n")
    assert len(verified(rows, GUESS, policy=other)[0]) == len(rows)
    reworded, log = verified(rows, GUESS, policy=other, node=NODE.model_copy(update={"system": "Guess."}))
    assert not len(reworded)
    assert set(log.tables["refuted"]["reason"]) == {"the prompt is worded in another way at turn 0 of seat 0"}


@pytest.mark.parametrize("unseen", ["drop", "keep"])
def test_what_an_opponent_said_cannot_be_verified(unseen: str) -> None:
    rows = played(KUHN, "other", NODE.model_copy(update={"opponents": {"random": 1.0}}))
    kept, log = verified(rows, KUHN, unseen=unseen)
    assert len(kept) == (len(rows) if unseen == "keep" else 0) and log.metrics["refuted"] == 0


def test_rows_of_a_node_that_is_no_dialogue_here_are_refused() -> None:
    rows = edited(played(GUESS, "liar"), lambda part: [row.update(node="elsewhere") for row in part])
    assert "no generate.dialogue named 'elsewhere' leads here" in verified(rows, GUESS)[1].tables["refuted"]["reason"]
