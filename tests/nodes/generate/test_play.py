import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Log, Tasks
from genrl_graph.contract import registry
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.errors import NodeFailed, ParamError
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.actors.acting import Actor
from genrl_graph.nodes.update.snapshots import Snapshots
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "corridors.py")

CORRIDOR = {"id": "test/Corridor-v0"}
TIC_TAC_TOE = {"id": "tictactoe_v3", "kind": "pettingzoo"}
HEAP = {"id": "heap", "kind": "pettingzoo"}


def policy_of(environment: dict[str, Any], name: str = "policy", seed: int = 0) -> Actor:
    return ActorCriticCarry(environment=Environment.model_validate(environment)).init(name, seed=seed)


def tasks_of(*environments: dict[str, Any]) -> Tasks:
    rows = [
        {
            "id": f"tasks/{at}",
            "messages": [],
            "answer": "",
            "metadata": json.dumps({"environment": environment, "seed": at}),
        }
        for at, environment in enumerate(environments)
    ]
    return Tasks.from_rows(rows) if rows else Tasks.empty()


def play(
    node: Play, tasks: Tasks, policy: Actor, *, log: Log | None = None, seed: int = 0, **more: Any
) -> Trajectories:
    resources: dict[str, Any] = {"rng": stream(seed), "log": log or Log(), "round": 0, "peer": "peer0000"}
    return node.run(tasks, policy, **resources | more)


def test_the_steps_are_those_of_the_environment() -> None:
    rows = play(Play(num_envs=2), tasks_of(*[CORRIDOR] * 5), policy_of(CORRIDOR))
    assert [flaw.rule for flaw in rows.violations(ReceiverContext("", {})) if flaw.rows.any()] == []
    for task_id, at in rows.positions("task_id").items():
        episode = rows.take(at)
        game = Environment.model_validate(CORRIDOR).open()
        turn = game.reset(int(task_id.partition("/")[2]))
        for step, row in enumerate(episode.rows("step", "action", "reward", "finish_reason")):
            assert np.array_equal(episode.numpy("observation")[step], turn.observation)
            turn = game.step(row["action"])
            assert row == {
                "step": step,
                "action": row["action"],
                "reward": turn.rewards[0],
                "finish_reason": turn.ends[0].finish_reason if turn.over else "",
            }
        assert turn.over


def test_logprobs_and_values_are_those_of_the_policy_that_acted() -> None:
    import torch

    policy: Any = policy_of(CORRIDOR)
    rows = play(Play(), tasks_of(*[CORRIDOR] * 4), policy)
    with torch.no_grad():
        logits, values = policy.model(torch.from_numpy(rows.numpy("observation").copy()))
    expected = torch.log_softmax(logits.double(), -1).numpy()[np.arange(len(rows)), rows.numpy("action")]
    assert np.allclose(rows.numpy("logprob"), expected, atol=1e-6)
    assert np.allclose(rows.numpy("value"), values[:, 0].numpy(), atol=1e-6)
    assert set(rows.values("policy")) == {"policy"}


def test_equal_seeds_play_equal_games_and_ids_tell_others_apart() -> None:
    policy = policy_of(TIC_TAC_TOE)
    rows = play(Play(), tasks_of(*[TIC_TAC_TOE] * 4), policy)
    assert play(Play(), tasks_of(*[TIC_TAC_TOE] * 4), policy) == rows
    other = play(Play(), tasks_of(*[TIC_TAC_TOE] * 4), policy, seed=1)
    assert len(set(rows.values("id"))) == len(rows)
    same = set(rows.values("id")) & set(other.values("id"))
    assert all(
        rows.values("action")[rows.values("id").index(id)] == other.values("action")[other.values("id").index(id)]
        for id in same
    )
    assert rows.content_ids(protocol="") == rows.values("id")
    assert play(Play(), tasks_of(*[TIC_TAC_TOE] * 4), policy, peer="peer0001").content_ids(protocol="") != rows.values(
        "id"
    )


def test_both_seats_of_self_play_are_given_and_only_legal_moves_are_made() -> None:
    log = Log()
    rows = play(Play(), tasks_of(*[TIC_TAC_TOE] * 20), policy_of(TIC_TAC_TOE), log=log)
    assert set(rows.values("seat")) == {0, 1}
    assert rows.numpy("mask")[np.arange(len(rows)), rows.numpy("action")].all()
    returns = [rows.take(at).numpy("reward").sum() for at in rows.positions("group_id").values()]
    assert returns == [0.0] * 20
    shares = [log.metrics[f"self/{name}"] for name in ("wins", "draws", "losses")]
    assert sum(shares) == pytest.approx(1.0)
    assert log.metrics["self/episodes"] == 20
    assert log.metrics["steps"] == len(rows)


def test_a_reward_during_the_moves_of_others_belongs_to_the_last_move_of_its_seat() -> None:
    rows = play(Play(opponents={"self": 1}), tasks_of(HEAP), policy_of(HEAP))
    taken = [min(action + 1, 2) for action in rows.take(np.argsort(_order(rows))).values("action")]
    taken[-1] = 10 - sum(taken[:-1])
    moves = list(zip(np.asarray(rows.values("seat"))[np.argsort(_order(rows))].tolist(), taken, strict=True))
    for seat in range(3):
        expected: list[float] = []
        for mover, count in moves:
            if mover == seat:
                expected.append(0.0)
            elif expected:
                expected[-1] += count / 2
        assert rows.where(rows.numpy("seat") == seat).values("reward") == expected


def _order(rows: Trajectories) -> Any:
    """Return each row's place in the game; the three seats move in turn."""
    return rows.numpy("step") * 3 + rows.numpy("seat")


def test_against_an_opponent_the_seat_goes_round_and_only_the_policy_is_given() -> None:
    log = Log()
    rows = play(Play(opponents={"random": 1}), tasks_of(*[HEAP] * 6), policy_of(HEAP), log=log)
    seats = {id: set(rows.take(at).values("seat")) for id, at in rows.positions("task_id").items()}
    assert list(seats.values()) == [{0}, {1}, {2}] * 2
    assert log.metrics["random/episodes"] == 6
    assert log.metrics["steps"] > len(rows)


def test_opponents_are_drawn_by_weight_and_an_empty_pool_is_the_policy_itself() -> None:
    node = Play(opponents={"policy": 0.5, "snapshots": 0.5})
    policy, other = policy_of(TIC_TAC_TOE), policy_of(TIC_TAC_TOE, "other", seed=1)
    tasks, log = tasks_of(*[TIC_TAC_TOE] * 40), Log()
    play(node, tasks, policy, log=log, opponent=other, snapshots=Snapshots())
    assert set(log.metrics) >= {"policy/wins", "self/wins"}
    log = Log()
    play(node, tasks, policy, log=log, opponent=other, snapshots=Snapshots([other, policy.frozen("old")]))
    assert 10 <= log.metrics["policy/episodes"] <= 30
    assert log.metrics["policy/episodes"] + log.metrics["snapshots/episodes"] == 40


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("reset", "move 0: OSError: no such corridor"),
        ("raise", "move 2: RuntimeError: the floor gave way"),
        ("nan", "move 2: observation holds nan, outside its space"),
        ("outside", "move 2: observation holds 7.0, outside its space"),
        ("shape", "move 2: observation of shape [3]; its space says [6]"),
        ("reward", "move 2: reward is nan"),
        ("illegal", "move 2: no action is legal"),
        ("endless", "move 60: no end after max_steps = 60 moves"),
    ],
)
def test_an_episode_that_breaks_is_one_failed_row_with_its_reason(breaks: str, message: str) -> None:
    log = Log()
    tasks = tasks_of(CORRIDOR, CORRIDOR | {"params": {"breaks": breaks}}, CORRIDOR)
    rows = play(Play(max_steps=60, num_envs=2), tasks, policy_of(CORRIDOR), log=log)
    (failed,) = rows.where(rows.finish_is("failed")).rows("task_id", "error", "step", "reward")
    assert (failed["task_id"], failed["error"], failed["step"]) == ("tasks/1", message, 0)
    assert np.isnan(failed["reward"])
    assert set(rows.finished().values("task_id")) == {"tasks/0", "tasks/2"}
    assert log.metrics["failed"] == pytest.approx(1 / 3)


def test_a_round_in_which_everything_breaks_is_rows_all_the_same() -> None:
    broken = CORRIDOR | {"params": {"breaks": "raise"}}
    rows = play(Play(), tasks_of(broken, broken), policy_of(CORRIDOR))
    assert rows.values("finish_reason") == ["failed"] * 2
    assert rows.numpy("observation").shape == (2, 6)
    assert len(play(Play(), tasks_of(), policy_of(CORRIDOR))) == 0


def test_a_truncated_episode_bootstraps_from_the_value_of_its_final_observation() -> None:
    policy: Any = policy_of(CORRIDOR)
    rows = play(Play(), tasks_of(*[CORRIDOR | {"params": {"limit": 2}}] * 8), policy)
    truncated = rows.finish_is("truncated")
    assert truncated.sum() == 8
    assert (rows.numpy("bootstrap")[~truncated] == 0).all()
    game = Environment.model_validate(CORRIDOR).open()
    game.reset(0)
    for action in rows.where(np.asarray(rows.values("task_id")) == "tasks/0").values("action"):
        turn = game.step(action)
    value = policy.values(turn.observation[None], np.ones((1, 2), np.int8))
    assert rows.numpy("bootstrap")[1] == pytest.approx(value[0])


def test_a_seat_that_dies_before_the_game_is_truncated_bootstraps_nothing() -> None:
    policy: Any = policy_of(HEAP)
    rows = play(Play(), tasks_of(HEAP | {"params": {"leaver": True, "moves": 5}}), policy)
    last = rows.take([int(at[-1]) for at in rows.positions("seat").values()])
    assert last.values("finish_reason") == ["truncated", "terminated", "truncated"]
    assert last.numpy("bootstrap")[1] == 0
    credited = GaeAdvantage(gamma=0.9, lam=1.0).run(rows, log=Log()).take([int(rows.positions("seat")[1][-1])])
    assert credited.numpy("advantage")[0] == pytest.approx(last.numpy("reward")[1] - last.numpy("value")[1])
    assert (last.numpy("bootstrap")[[0, 2]] != 0).all()


def test_an_evaluation_plays_its_own_opponents_at_the_best() -> None:
    node = Play(opponents={"self": 1}).evaluated(Evaluation(num_tasks=4, temperature=0))
    policy, log = policy_of(TIC_TAC_TOE), Log()
    rows = play(node, tasks_of(*[TIC_TAC_TOE] * 8), policy, log=log, round=7)
    assert log.metrics["random/episodes"] == 8
    best = np.where(rows.numpy("mask") > 0, policy_logits(policy, rows), -np.inf).argmax(1)
    assert np.array_equal(best, rows.numpy("action"))
    assert rows.values("seat")[0] == 0


def policy_logits(policy: Any, rows: Trajectories) -> Any:
    import torch

    with torch.no_grad():
        return policy.model(torch.from_numpy(rows.numpy("observation").copy()))[0].numpy()


def test_each_episode_may_be_played_several_times() -> None:
    rows = play(Play(num_generations=3), tasks_of(CORRIDOR), policy_of(CORRIDOR))
    assert set(rows.values("sample")) == {0, 1, 2}
    first = rows.where(rows.numpy("step") == 0)
    assert len(np.unique(first.numpy("observation"), axis=0)) == 1
    assert len(set(rows.values("group_id"))) == 3


def test_a_policy_made_elsewhere_that_does_not_fit_is_refused() -> None:
    with pytest.raises(NodeFailed, match=r"test/Corridor-v0 has observations \[6\], 2 actions, but policy 'p' has .*9"):
        play(Play(), tasks_of(CORRIDOR), policy_of(TIC_TAC_TOE, "p"))
    with pytest.raises(NodeFailed, match="names no environment"):
        play(
            Play(),
            Tasks.from_rows([{"id": "t/0", "messages": [], "answer": "", "metadata": "{}"}]),
            policy_of(CORRIDOR),
        )


@pytest.mark.parametrize(
    ("params", "inputs", "message"),
    [
        ({"opponents": {"policy": 1}}, {}, "opponents names 'policy', but no `opponent` is wired"),
        ({"eval_opponents": {"snapshots": 1}}, {}, "eval_opponents names 'snapshots', but no `snapshots` is wired"),
        ({}, {"opponent": "other"}, "`opponent` is wired, but never plays"),
        ({"opponents": {"policy": 1}}, {"opponent": "other"}, ""),
    ],
)
def test_opponents_must_be_wired(params: dict[str, Any], inputs: dict[str, str], message: str) -> None:
    problems = list(Play(**params).check_inputs({"tasks": "tasks", "policy": "policy", **inputs}))
    assert [problem[: len(message)] for problem in problems] == ([message] if message else [])


@pytest.mark.parametrize("weights", [{}, {"self": 0}, {"self": -1, "random": 2}])
def test_weights_without_sense_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ParamError, match="weights are at least 0 and not all 0"):
        Play(opponents=weights)


def test_perfect_play_is_of_games_in_text() -> None:
    with pytest.raises(ParamError, match="'perfect' plays games in text; play them with gen"):
        Play(eval_opponents={"perfect": 1})
