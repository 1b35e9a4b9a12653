"""`advantage.gae` and `advantage.return_to_go` against the definitions of their papers, and incomplete trajectories."""

import numpy as np
import pytest
from fixture_types import MakeSteps
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrl_graph import Log
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.advantage.return_to_go import ReturnToGo
from genrl_graph.nodes.advantage.returns import WholeTrajectories, generalized_advantages

numbers = st.floats(-10, 10, width=32)
episodes = st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9), min_size=1, max_size=4)


def by_definition(
    rewards: list[float], values: list[float], bootstrap_value: float, gamma: float, lam: float
) -> list[float]:
    """Compute equation 16 of arXiv 1506.02438 as the weighted mean of k-step advantages, equations 11 to 15."""
    count, actual = len(rewards), []
    after = [*values[1:], bootstrap_value]
    for t in range(count):
        longest = count - t
        k_step = []
        for k in range(1, longest + 1):
            returns = sum(gamma**i * rewards[t + i] for i in range(k)) + gamma**k * after[t + k - 1]
            k_step.append(returns - values[t])
        weights = [(1 - lam) * lam ** (k - 1) for k in range(1, longest)] + [lam ** (longest - 1)]
        actual.append(sum(w * a for w, a in zip(weights, k_step, strict=True)))
    return actual


@given(episodes=episodes, bootstrap_value=numbers, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_it_is_the_weighted_mean_of_all_k_step_advantages(
    episodes: list[list[tuple[float, float]]], bootstrap_value: float, gamma: float, lam: float
) -> None:
    lengths = np.asarray([len(episode) for episode in episodes])
    padded = np.zeros((2, len(episodes), lengths.max()))
    for at, episode in enumerate(episodes):
        padded[:, at, : len(episode)] = np.asarray(episode).T
    bootstrap = np.asarray([bootstrap_value if at % 2 else 0.0 for at in range(len(episodes))])
    actual = generalized_advantages(padded[0], padded[1], bootstrap, lengths, gamma=gamma, lam=lam)
    for at, episode in enumerate(episodes):
        rewards, values = map(list, zip(*episode, strict=True))
        expected = by_definition(rewards, values, bootstrap[at], gamma, lam)
        assert np.allclose(actual[at, : len(episode)], expected, atol=1e-8)
        assert (actual[at, len(episode) :] == 0).all()


def shuffled(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)


def test_rows_in_any_order_get_what_is_theirs(make_steps: MakeSteps) -> None:
    rewards, values = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]], [[0.1, 0.2, 0.3], [0.4], [0.5, 0.6]]
    rows = make_steps(
        rewards, values=values, bootstrap=[9.0, 0.0, 0.0], finish_reason=["truncated", "terminated", "terminated"]
    )
    order = shuffled(len(rows))
    log = Log()
    credited = GaeAdvantage(gamma=0.9, lam=0.8).run(rows.take(order), log=log)
    expected = [
        *by_definition(rewards[0], values[0], 9.0, 0.9, 0.8),
        *by_definition(rewards[1], values[1], 0.0, 0.9, 0.8),
        *by_definition(rewards[2], values[2], 0.0, 0.9, 0.8),
    ]
    assert np.allclose(credited.numpy("advantage"), np.asarray(expected)[order])
    assert np.allclose(credited.numpy("target"), (np.asarray(expected) + np.concatenate(values))[order])
    assert log.metrics["reward"] == pytest.approx(3.5)
    assert log.metrics["left_out"] == 0


def test_what_failed_or_is_not_whole_gets_nan(make_steps: MakeSteps) -> None:
    rows = make_steps(
        [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0]], finish_reason=["terminated", "terminated", "failed", ""]
    )
    log = Log()
    credited = GaeAdvantage().run(rows.take([0, 1, 3, 4, 5, 6]), log=log)
    assert np.isfinite(credited.numpy("advantage")).tolist() == [True, True, False, False, False, False]
    assert log.metrics["left_out"] == 4
    twice = GaeAdvantage().run(rows.take([0, 1, 1]), log=log)
    assert np.isnan(twice.numpy("advantage")).all()
    assert len(GaeAdvantage().run(rows.take([]), log=log)) == 0


def test_seats_and_peers_of_one_episode_do_not_mix(make_steps: MakeSteps) -> None:
    rows = make_steps([[1.0, 2.0], [10.0, 20.0]], seats=[0, 1])
    one_episode = type(rows)(
        rows.table.set_column(rows.table.column_names.index("group_id"), "group_id", [["g"] * 4]), marks=rows.marks
    )
    credited = GaeAdvantage(gamma=1.0, lam=1.0).run(one_episode, log=Log())
    assert credited.values("advantage") == [3.0, 2.0, 30.0, 20.0]
    assert len(WholeTrajectories.of(one_episode).rows) == 2


def test_returns_to_go_are_discounted_sums_less_a_baseline(make_steps: MakeSteps) -> None:
    rewards = [[1.0, 2.0, 4.0], [8.0, 16.0]]
    plain = [[1 + 1 + 1, 2 + 2, 4], [8 + 8, 16]]
    rows = make_steps(
        rewards, values=[[9.0] * 3, [9.0] * 2], bootstrap=[0.0, 5.0], finish_reason=["terminated", "truncated"]
    )

    def credited(baseline: str) -> list[float]:
        node = ReturnToGo(gamma=0.5, baseline=baseline)
        actual: list[float] = node.run(rows, log=Log()).values("advantage")
        return actual

    flat = [float(value) for episode in plain for value in episode]
    assert credited("none") == flat
    assert credited("batch") == pytest.approx([value - np.mean(flat) for value in flat])
    assert credited("step") == pytest.approx([3 - 9.5, 4 - 10, 0, 16 - 9.5, 16 - 10])
