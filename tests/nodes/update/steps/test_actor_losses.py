"""The losses against the papers' formulas, computed one row after the other with Python's own floats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.nodes.update.steps.actor_losses import (
    clipped_surrogate,
    entropies,
    normalized,
    q_loss,
    q_targets,
    reinforce_loss,
    value_loss,
)

logprob = st.floats(-5, 0)
number = st.floats(-4, 4)
rows = st.lists(st.tuples(logprob, logprob, number, number, number), min_size=1, max_size=8)


def tensors(given: list[tuple[float, ...]]) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*given, strict=True)]


@given(rows=rows, epsilon=st.floats(0.01, 0.9))
def test_the_clipped_surrogate(rows: list[tuple[float, ...]], epsilon: float) -> None:
    total = 0.0
    for new, old, advantage, _, _ in rows:
        ratio = math.exp(new - old)
        total += min(ratio * advantage, min(max(ratio, 1 - epsilon), 1 + epsilon) * advantage)
    news, olds, advantages, _, _ = tensors(rows)
    assert float(clipped_surrogate(news, olds, advantages, epsilon=epsilon).mean()) == pytest.approx(-total / len(rows))


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False)]
)
def test_the_gradient_stops_where_the_ratio_has_gone_far_enough(ratio: float, advantage: float, moves: bool) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_surrogate(new, torch.zeros(1), torch.tensor([advantage]), epsilon=0.2).mean().backward()
    assert new.grad is not None
    assert float(new.grad) == pytest.approx(-ratio * advantage if moves else 0.0)


@given(rows=rows, epsilon=st.none() | st.floats(0.01, 2))
def test_the_value_loss(rows: list[tuple[float, ...]], epsilon: float | None) -> None:
    total = 0.0
    for _, _, value, old, target in rows:
        error = (value - target) ** 2
        if epsilon is not None:
            near = old + min(max(value - old, -epsilon), epsilon)
            error = max(error, (near - target) ** 2)
        total += error / 2
    _, _, values, olds, targets = tensors(rows)
    assert float(value_loss(values, olds, targets, epsilon=epsilon)) == pytest.approx(total / len(rows))


@given(logits=st.lists(st.lists(number, min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_entropy_counts_legal_actions_alone(logits: list[list[float]]) -> None:
    given = torch.tensor(logits, dtype=torch.float64)
    illegal = torch.cat([given, torch.full((len(logits), 1), -1e8, dtype=torch.float64)], dim=1)
    actual = entropies(torch.log_softmax(illegal, dim=-1))
    for row, entropy in zip(logits, actual.tolist(), strict=True):
        weights = [math.exp(value) for value in row]
        chances = [weight / sum(weights) for weight in weights]
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in chances))


def test_reinforce_follows_the_score_function() -> None:
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    actions, advantages = torch.tensor([0, 1]), torch.tensor([2.0, -1.0], dtype=torch.float64)
    chosen = torch.log_softmax(logits, -1)[torch.arange(2), actions]
    reinforce_loss(chosen, advantages).mean().backward()
    chances = torch.softmax(logits.detach(), -1)
    score = torch.eye(2, dtype=torch.float64)[actions] - chances  # the gradient of a log-prob by its logits
    assert logits.grad is not None
    assert torch.allclose(logits.grad, -score * advantages[:, None] / 2)


@pytest.mark.parametrize("double", [False, True])
def test_targets_of_values_of_actions(double: bool) -> None:
    rng = np.random.default_rng(0)
    network, target = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    rewards, terminated = rng.normal(size=50), rng.random(50) < 0.3
    masks = (rng.random((50, 4)) < 0.6).astype(np.int8)
    masks[np.arange(50), rng.integers(4, size=50)] = 1
    expected = []
    for at in range(50):
        legal = [action for action in range(4) if masks[at, action]]
        best = max(legal, key=lambda action: network[at, action] if double else target[at, action])
        expected.append(rewards[at] + (0.0 if terminated[at] else 0.9 * target[at, best]))
    chosen_by = network if double else target
    given = (torch.from_numpy(values) for values in (rewards, terminated, target, chosen_by, masks))
    assert np.allclose(q_targets(*given, gamma=0.9).numpy(), expected)


def test_the_loss_of_values_is_hubers_of_the_action_taken() -> None:
    values = torch.tensor([[0.0, 0.5], [3.0, 9.0]])
    actual = q_loss(values, torch.tensor([1, 0]), torch.tensor([0.0, 0.0]))
    assert float(actual) == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)


@given(values=st.lists(number, min_size=2, max_size=9, unique=True))
def test_advantages_of_a_minibatch_have_mean_0_and_deviation_1(values: list[float]) -> None:
    given = torch.tensor(values, dtype=torch.float64) * 100
    if float(given.std()) > 1e-2:
        actual = normalized(given)
        assert float(actual.mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(actual.std()) == pytest.approx(1.0, abs=1e-4)
    assert float(normalized(given[:1])) == float(given[0])
