"""`select.verified`: episodes of other peers are replayed; those that deviate are dropped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Log, TaskBook
from genrl_graph.contract import registry
from genrl_graph.contract.node import Place
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.task import Task
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.select.verified import Verified
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "corridors.py")
TIC_TAC_TOE = Environment(id="tictactoe_v3", kind="pettingzoo")
CARTPOLE = Environment(id="CartPole-v1")
HEAP = Environment(id="heap", kind="pettingzoo")


def source(environment: Environment, episodes: int = 4) -> EnvironmentSource:
    return EnvironmentSource(environment=environment, num_episodes=episodes).placed(Place("tasks"))


def played(environment: Environment, peer: str, **params: Any) -> Trajectories:
    """Play four episodes as `peer`."""
    policy = ActorCriticCarry(environment=environment).init("policy", seed=0)
    tasks = source(environment).run(rng=stream(0), round=0)
    actual: Trajectories = Play(**params).run(tasks, policy, rng=stream(peer), log=Log(), round=0, peer=peer)
    return actual


def verified(rows: Trajectories, environment: Environment, **params: Any) -> tuple[Trajectories, Log]:
    log, book = Log(), TaskBook({"tasks": source(environment)})
    actual: Trajectories = Verified(**params).run(rows, tasks=book, peer="own", log=log)
    return actual, log


def lying(rows: Trajectories, change: Callable[[dict[str, Any]], None]) -> Trajectories:
    """Return the rows with columns edited by `change`."""
    columns = {name: np.array(rows.numpy(name)) for name in rows.table.column_names}
    change(columns)
    return Trajectories.from_columns(
        {name: value.tolist() if value.dtype == object else value for name, value in columns.items()}, marks=[SCORED]
    )


@pytest.mark.parametrize("environment", [TIC_TAC_TOE, CARTPOLE, HEAP], ids=str)
def test_what_was_played_so_is_kept(environment: Environment) -> None:
    rows = Trajectories.concat([played(environment, "own"), played(environment, "other")])
    actual, log = verified(rows.take(np.random.default_rng(0).permutation(len(rows))), environment)
    assert sorted(actual.values("id")) == sorted(rows.values("id"))
    assert log.metrics == {"kept": 1.0, "refuted": 0.0}


def richer(columns: dict[str, Any]) -> None:
    columns["reward"][0] += 1.0


def elsewhere(columns: dict[str, Any]) -> None:
    columns["observation"][0] = 1.0 - columns["observation"][0]


def freer(columns: dict[str, Any]) -> None:
    columns["mask"][1] = 1 - columns["mask"][1]


def cut(columns: dict[str, Any]) -> None:
    first = columns["group_id"] == columns["group_id"][0]
    columns["finish_reason"][first & (columns["finish_reason"] == "terminated")] = "truncated"


def another(columns: dict[str, Any]) -> None:
    first = columns["group_id"] == columns["group_id"][0]
    columns["task_id"][first] = columns["task_id"][~first][0]
    columns["observation"][first] += 1e-3


@pytest.mark.parametrize(
    ("environment", "change", "message"),
    [
        (TIC_TAC_TOE, richer, "rewards are"),
        (TIC_TAC_TOE, elsewhere, "seat 0 sees something else at step 0"),
        (TIC_TAC_TOE, freer, "has other legal moves at step 1"),
        (TIC_TAC_TOE, cut, "seat 0 is terminated at the end"),
        (CARTPOLE, richer, "rewards are"),
        (CARTPOLE, another, "seat 0 sees something else at step 0"),
    ],
)
def test_an_episode_that_did_not_happen_so_goes_and_is_told(
    environment: Environment, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rows = lying(played(environment, "liar"), change)
    actual, log = verified(rows, environment)
    lie = rows.values("group_id")[0]
    assert set(rows.values("group_id")) - set(actual.values("group_id")) == {lie}
    refuted = log.tables["refuted"]
    assert (refuted["id"], refuted["peer"]) == ([lie], ["liar"]) and message in refuted["reason"][0]
    own, _ = verified(lying(played(environment, "own"), change), environment)
    assert len(own) == len(played(environment, "own")), "a peer believes itself"


def test_moves_after_the_end_and_before_it_are_no_episode() -> None:
    rows = played(CARTPOLE, "liar")
    (first, *_) = rows.positions("group_id").values()
    short = rows.take(first[:-1])
    actual, log = verified(short, CARTPOLE)
    assert len(actual) == 0 and "and the game is not over" in log.tables["refuted"]["reason"][0]
    longer = Trajectories.concat([rows.take(first), lying(rows.take(first[-1:]), _later)])
    actual, log = verified(longer, CARTPOLE)
    assert len(actual) == 0 and log.tables["refuted"]["reason"] == ["seat 0 moves after the end"]


def _later(columns: dict[str, Any]) -> None:
    columns["step"] += 1


@pytest.mark.parametrize("unseen", ["drop", "keep"])
def test_what_an_opponent_did_cannot_be_verified(unseen: str) -> None:
    rows = played(TIC_TAC_TOE, "other", opponents={"random": 1.0})
    actual, log = verified(rows, TIC_TAC_TOE, unseen=unseen)
    assert len(actual) == (len(rows) if unseen == "keep" else 0)
    assert log.metrics["refuted"] == 0


def test_tasks_without_an_environment_cannot_be_played_again() -> None:
    """Own tasks without one are an error of the graph; a task that another peer names costs that peer's rows."""
    rows, log = played(CARTPOLE, "other"), Log()
    book = TaskBook({"tasks": _Named(tasks=[{"question": "?", "answer": "!"}])})
    with pytest.raises(NodeFailed, match=r"names no environment and seed; wire a source\.environment"):
        Verified().run(rows, tasks=book, peer="other", log=log)
    assert not len(Verified().run(rows, tasks=book, peer="own", log=log))
    assert "names no environment and seed" in log.tables["refuted"]["reason"][0]


class _Named(ListSource, name="verified_test_source"):
    """A source that resolves any id to a task without an environment."""

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [], "", {})
