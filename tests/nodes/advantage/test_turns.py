"""`advantage.turns`: outcomes and returns to go of the turns of dialogues, and their baselines."""

from typing import Any

import numpy as np
import pytest

from genrl_graph import Graph, GraphError, Log
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.advantage.baseline import STD_EPSILON
from genrl_graph.nodes.advantage.turns import TurnsAdvantage
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.grpo import Grpo

CHAT = [{"role": "user", "content": "go"}]


def episode(
    task: str, sample: int, seat: int, rewards: list[float], ending: str = "terminated"
) -> list[dict[str, Any]]:
    """The turns of one seat in an episode."""
    shared = {"task_id": task, "group_id": "g", "parent_ids": [], "peer": "a", "node": "play", "stage": 0, "round": 0}
    shared |= {"sample": sample, "policy": "policy", "policy_version": 0, "tokenizer_fingerprint": "t"}
    shared |= {"temperature": 1.0, "messages": CHAT, "prompt_ids": [1], "completion_ids": [2], "completion_mask": [1]}
    shared |= {"logprobs": [-1.0], "completion": "", "finish_reason": "stop", "error": "", "heard": [], "action": ""}
    shared |= {"episode": f"{task}-{sample}", "seat": seat}
    last = len(rewards) - 1
    places = [
        {"turn": at, "move": at, "ending": ending if at == last else "", "reward": r} for at, r in enumerate(rewards)
    ]
    return [shared | place | {"id": f"{task}-{sample}-{seat}-{place['turn']}"} for place in places]


def credited(rows: list[dict[str, Any]], **params: Any) -> list[float]:
    frame = Turns.from_rows(rows, marks=[SCORED])
    values = TurnsAdvantage(**{"scale": "none"} | params).run(frame, log=Log()).numpy("advantage")
    return [round(value, 6) for value in values.tolist()]


TWO = [*episode("t/0", 0, 0, [0.0, 0.0, 1.0]), *episode("t/0", 1, 0, [-1.0])]


def test_every_turn_gets_the_outcome_of_its_episode_minus_the_mean_of_episodes() -> None:
    assert credited(TWO) == [1.0, 1.0, 1.0, -1.0]  # the mean over episodes is 0, that over turns would be 0.5
    assert credited(TWO, weight="episode") == [round(2 / 3, 6)] * 3 + [-2.0]
    assert credited(TWO[::-1]) == [-1.0, 1.0, 1.0, 1.0]


def test_returns_to_go_are_discounted_rewards_from_a_turn_on() -> None:
    rows = [*episode("t/0", 0, 0, [0.5, 0.0, 1.0]), *episode("t/0", 0, 1, [0.25])]
    assert credited(rows, credit="return_to_go", gamma=0.5, scope="task") == [
        *np.round(np.asarray([0.75, 0.5, 1.0]) - 0.75, 6).tolist(),
        0.0,
    ]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("task", [0.5, -0.5, 0.0, 0.0]), ("seat", [2 / 3, -1 / 3, 0.0, -1 / 3]), ("batch", [0.25, -0.75, 1.25, -0.75])],
)
def test_scopes_choose_the_episodes_of_a_baseline(scope: str, expected: list[float]) -> None:
    rows = [*episode("t/0", 0, 0, [1.0]), *episode("t/0", 1, 0, [0.0]), *episode("t/1", 0, 1, [2.0])]
    rows += episode("t/1", 1, 0, [0.0])
    assert credited(rows, scope=scope) == np.round(expected, 6).tolist()
    other = [*rows, *(row | {"peer": "b", "id": f"b{row['id']}", "reward": 9.0} for row in rows)]
    assert credited(other, scope=scope)[:4] == credited(rows, scope=scope)  # peers have baselines of their own


def test_normalisation_by_agent_gives_each_seat_mean_0_and_deviation_1() -> None:
    rows = [row for at in range(4) for row in episode("t/0", at, 0, [float(at)]) + episode("t/0", at, 1, [-100.0 * at])]
    values = np.asarray(credited(rows, scope="seat", scale="group"))
    for seat in (values[0::2], values[1::2]):
        assert seat.mean() == pytest.approx(0, abs=1e-5) and seat.std(ddof=1) == pytest.approx(1, abs=10 * STD_EPSILON)


def test_failed_and_incomplete_episodes_have_no_advantage_and_are_in_no_baseline() -> None:
    failed = [
        row | {"reward": float("nan"), "finish_reason": "failed"} for row in episode("t/0", 2, 0, [0.0], "failed")
    ]
    for extra in (failed, episode("t/0", 2, 0, [5.0, 5.0])[1:], episode("t/0", 2, 0, [5.0, 5.0])[:1]):
        values = credited([*TWO, *extra])
        assert values[:4] == credited(TWO) and np.isnan(values[4:]).all()
    assert len(TurnsAdvantage().run(Turns.empty(marks=[SCORED]), log=Log())) == 0


def game(**params: Any) -> Graph:
    graph = Graph("game")
    policy = graph.carry("policy", TinyLM())
    kuhn = Environment(kind="open_spiel", id="kuhn_poker")
    tasks = graph.add("tasks", EnvironmentSource(environment=kuhn))
    play = graph.add("play", DialogueGenerator(num_generations=params.pop("times")), tasks=tasks, policy=policy)
    credit = graph.add("credit", TurnsAdvantage(**params), scored=play)
    graph.next_round(policy=graph.add("update", Grpo(), policy=policy, credited=[credit]))
    return graph


def test_one_episode_of_a_task_is_no_baseline_for_itself() -> None:
    with pytest.raises(
        GraphError, match=r"nodes.credit: can never learn: 'play' samples a single episode for each seat"
    ):
        compile_graph(game(times=1))
    for params in ({"times": 2}, {"times": 1, "scope": "seat"}, {"times": 1, "credit": "return_to_go"}):
        compile_graph(game(**params))
