"""Denoising steps against those of diffusers' own schedulers, and their log-density against scipy's."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from scipy.stats import norm

from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising
from genrl_graph.nodes.policy.denoising.transitions import Transitions, log_density

SHAPE = (3, 2, 4, 4)


def drawn(seed: int) -> torch.Tensor:
    """Latents in double precision: diffusers' own coefficients lose digits to cancellation in single precision."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_double(scheduler: Any) -> Any:
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_of_ddim_is_that_of_diffusers(prediction: str, clip: bool, eta: float) -> None:
    options: dict[str, Any] = {"prediction_type": prediction, "clip_sample": clip, "set_alpha_to_one": False}
    scheduler = in_double(DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, **options))
    scheduler.set_timesteps(7)
    transitions = Transitions.of(scheduler, Denoising("ddim", 7, eta))
    assert [step.timestep for step in transitions.steps] == scheduler.timesteps.tolist()
    assert len(transitions.random) == (7 if eta else 0)
    for number, step in enumerate(transitions.steps):
        latents, output, noise = drawn(number), drawn(100 + number), drawn(200 + number)
        expected = scheduler.step(output, step.timestep, latents, eta=eta, variance_noise=noise).prev_sample
        actual = transitions.mean(step, latents, output) + step.std * noise
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_step_of_ddpm_is_that_of_diffusers(clip: bool, spacing: str) -> None:
    scheduler = DDPMScheduler(clip_sample=clip, timestep_spacing=spacing)
    scheduler.set_timesteps(8)
    transitions = Transitions.of(scheduler, Denoising("ddpm", 8))
    for number, step in enumerate(transitions.steps):
        latents, output = drawn(number), drawn(100 + number)
        noise = drawn(300 + number)  # from the seed that the scheduler gets
        random = torch.Generator().manual_seed(300 + number)
        expected = scheduler.step(output, step.timestep, latents, generator=random).prev_sample
        actual = transitions.mean(step, latents, output) + step.std * noise
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_step_of_flow_matching_is_that_of_diffusers(eta: float, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=eta == 1.0)
    transitions = Transitions.of(scheduler, Denoising("flow", 6, eta))
    scheduler.set_timesteps(6)
    assert [step.timestep for step in transitions.steps] == scheduler.timesteps.tolist()
    assert len(transitions.random) == (4 if eta else 0)  # the last two have a share of noise of 0.001 or 0.003, and 0
    for number, step in enumerate(transitions.steps):
        latents, output = drawn(number), drawn(100 + number)
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))  # it draws in single precision
        random = torch.Generator().manual_seed(number)
        expected = scheduler.step(output, scheduler.timesteps[number], latents, generator=random).prev_sample
        actual = transitions.mean(step, latents, output) + step.std * noise
        left_out = 5 * step.next_noise if eta and step.std == 0 else 0.0
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6 + left_out, check_dtype=False)


@pytest.mark.parametrize("eta", [0.2, 0.8])
def test_steps_of_flow_matching_keep_the_shares_of_image_and_noise(eta: float) -> None:
    transitions = Transitions.of(FlowMatchEulerDiscreteScheduler(), Denoising("flow", 4, eta))
    image, noise = drawn(1), drawn(2)
    for step in transitions.steps:
        latents = step.signal * image + step.noise * noise
        mean = transitions.mean(step, latents, noise - image)  # of a network that knows both
        torch.testing.assert_close(mean, step.next_signal * image + (step.next_noise**2 - step.std**2) ** 0.5 * noise)
        assert step.std == pytest.approx(eta * step.next_noise if step.next_noise > 0.01 else 0.0)


@pytest.mark.parametrize("steps", [3, 4, 10, 50, 200])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_no_step_of_flow_matching_is_so_narrow_that_its_density_outweighs_the_others(steps: int, shift: float) -> None:
    transitions = Transitions.of(FlowMatchEulerDiscreteScheduler(shift=shift), Denoising("flow", steps, eta=1.0))
    assert transitions.random and min(step.std for step in transitions.random) >= 0.01


def test_the_log_density_is_that_of_the_normal_distribution() -> None:
    outcome, mean = drawn(1), drawn(2)
    expected = norm(mean.numpy().astype(float), 0.3).logpdf(outcome.numpy().astype(float)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(log_density(outcome, mean, 0.3).numpy(), expected, rtol=1e-5)


def test_what_cannot_be_sampled_is_said() -> None:
    with pytest.raises(ParamError, match="steps is 2000, but the policy has 1000 timesteps"):
        Transitions.of(DDIMScheduler(), Denoising("ddim", 2000))
    with pytest.raises(ParamError, match=r"scheduler is ddim, but the policy has a FlowMatchEuler.*; use flow"):
        Transitions.of(FlowMatchEulerDiscreteScheduler(), Denoising("ddim", 5))
    with pytest.raises(ParamError, match="scheduler is flow, but the policy has a DDIMScheduler; use ddim or ddpm"):
        Transitions.of(DDIMScheduler(), Denoising("flow", 5))
    with pytest.raises(ParamError, match="dynamic shifting is not supported"):
        Transitions.of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), Denoising("flow", 5))
    with pytest.raises(ParamError, match="thresholding is not supported"):
        Transitions.of(DDIMScheduler(thresholding=True), Denoising("ddim", 5))
