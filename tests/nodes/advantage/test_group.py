"""`advantage.group` against TRL's formula, and the scopes of its baseline."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import score
from genrl_graph.errors import ParamError
from genrl_graph.nodes.advantage.group import GroupAdvantage

Advantages = Callable[..., NDArray[np.float64]]


@pytest.fixture(scope="session")
def advantages(make_rollouts: MakeRollouts) -> Advantages:
    def of(
        rewards: Sequence[float] | NDArray[np.float64],
        *,
        log: Log | None = None,
        columns: dict[str, list[str]] | None = None,
        **params: Any,
    ) -> NDArray[np.float64]:
        rows = score(make_rollouts(["x"] * len(rewards), **(columns or {})), {"t": rewards})
        return GroupAdvantage(**params).run(rows, log=log or Log()).numpy("advantage")

    return of


@given(
    rewards=arrays(np.float64, (3, 4), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, -2.0])),
    scale=st.sampled_from(["group", "batch", "none"]),
    order=st.permutations(range(12)),
)
def test_against_torch(advantages: Advantages, rewards: NDArray[np.float64], scale: str, order: list[int]) -> None:
    given = torch.tensor(rewards)
    expected = given - given.mean(dim=1, keepdim=True)
    if scale != "none":
        deviation = given.std(dim=1, keepdim=True) if scale == "group" else given.std()
        expected = expected / (deviation + 1e-4)
    groups = [f"g{at // 4}" for at in order]
    actual = advantages(rewards.ravel()[order], columns={"group_id": groups}, scale=scale)
    np.testing.assert_allclose(actual, expected.numpy().ravel()[order], atol=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=2, max_size=6))
def test_leave_one_out_is_the_mean_of_the_others(advantages: Advantages, rewards: list[float]) -> None:
    actual = advantages(rewards, scale="none", leave_one_out=True)
    expected = [reward - np.mean(rewards[:at] + rewards[at + 1 :]) for at, reward in enumerate(rewards)]
    np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_groups_without_variance_get_exactly_zero(advantages: Advantages, scale: str, leave_one_out: bool) -> None:
    rewards, groups = [0.1, 0.1, 0.1, 0.7, 1.0, 0.0], ["a", "a", "a", "one", "b", "b"]
    actual = advantages(rewards, columns={"group_id": groups}, scale=scale, leave_one_out=leave_one_out)
    assert actual[:4].tolist() == [0.0] * 4
    assert actual[4] == -actual[5] > 0.0


def test_what_was_not_judged_counts_in_no_mean(advantages: Advantages) -> None:
    for scale in ("group", "batch", "none"):
        with_nan = advantages([1.0, np.nan, 0.0, np.inf], scale=scale)
        assert np.isnan(with_nan).tolist() == [False, True, False, True]
        np.testing.assert_array_equal(with_nan[[0, 2]], advantages([1.0, 0.0], scale=scale))


def test_groups_of_other_nodes_and_peers_stay_apart_unless_told(advantages: Advantages) -> None:
    columns = {"node": ["n", "n", "n", "m"], "peer": ["p", "p", "q", "q"], "task_id": ["t/0", "t/0", "t/0", "t/1"]}
    rewards = [0.0, 1.0, 5.0, 9.0]

    def of(scope: str) -> list[float]:
        actual: list[float] = advantages(rewards, columns=columns, scale="none", scope=scope).tolist()
        return actual

    assert of("group") == [-0.5, 0.5, 0.0, 0.0]
    assert of("task") == of("node") == [-2.0, -1.0, 3.0, 0.0]
    assert of("peer") == [-0.5, 0.5, 0.0, 0.0]
    assert of("batch") == [-3.75, -2.75, 1.25, 5.25]


def test_metrics(advantages: Advantages, log: Log) -> None:
    advantages([1.0, 0.0, 1.0, 1.0, np.nan], columns={"group_id": ["a", "a", "b", "b", "c"]}, log=log)
    assert log.metrics == {"groups": 2, "groups_with_variance": 1, "zero_variance": 0.5, "reward": 0.75}
    empty = Log()
    assert len(advantages([], log=empty)) == 0
    assert empty.metrics == {"groups": 0, "groups_with_variance": 0}


def test_marks_stay(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = score(make_rollouts(["x"]), {"t": [1.0]}).marked(PEER)
    assert PEER in GroupAdvantage().run(rows, log=log).marks
    with pytest.raises(ParamError, match="scale"):
        GroupAdvantage(scale="std")


def test_512_rows_take_less_than_3_ms(make_rollouts: MakeRollouts) -> None:
    groups = [f"g{at // 8}" for at in range(512)]
    rows = score(make_rollouts(["x"] * 512, group_id=groups), {"t": np.arange(512) % 3})
    times = []
    for _ in range(20):
        start = time.perf_counter()
        GroupAdvantage().run(rows, log=Log())
        times.append(time.perf_counter() - start)
    assert min(times) < 0.003
