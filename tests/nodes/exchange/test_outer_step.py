"""The arithmetic of averages, against torch and numpy."""

import numpy as np
import pytest
import torch

from genrl_graph.nodes.exchange.outer_step import BLOCK, combine, norm, outer_step, to_bfloat16


def test_the_outer_step_is_sgd_with_nesterov_momentum_of_torch() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(50).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    reference = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    momentum = np.zeros_like(weights)
    for _ in range(5):
        change = rng.standard_normal(50).astype(np.float32)
        weights, momentum = outer_step(weights, momentum, change, learning_rate=0.7, beta=0.9)
        parameter.grad = torch.from_numpy(change)
        reference.step()
    assert weights.dtype == momentum.dtype == np.float32
    np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = np.arange(0x3F800000, 0x3F900000, 0x8000, dtype=np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(to_bfloat16(values), expected)
    assert np.isnan(to_bfloat16(np.asarray([np.nan], np.float32))).all()


def test_combined_numbers_are_those_of_numpy_also_across_blocks() -> None:
    vectors = list(np.random.default_rng(0).standard_normal((5, BLOCK + 3)).astype(np.float32))
    stacked = np.stack(vectors).astype(np.float64)
    np.testing.assert_allclose(combine(vectors, "mean", trim=0.25), stacked.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(combine(vectors, "median", trim=0.25), np.median(stacked, 0).astype(np.float32))
    kept = np.sort(stacked, 0)[1:4]
    np.testing.assert_allclose(combine(vectors, "trimmed_mean", trim=0.25), kept.mean(0), rtol=1e-5, atol=1e-7)
    assert norm(vectors[0]) == pytest.approx(float(np.linalg.norm(stacked[0])), rel=1e-9)


def test_one_outlier_of_four_moves_the_mean_only() -> None:
    honest = [np.full(4, value, np.float32) for value in (0.9, 1.0, 1.1)]
    vectors = [*honest, np.full(4, 1e6, np.float32)]
    assert combine(vectors, "mean", trim=0.25)[0] > 1e5
    for how in ("median", "trimmed_mean"):
        assert combine(vectors, how, trim=0.25)[0] == pytest.approx(1.05)
