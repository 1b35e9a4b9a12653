"""Denoising steps as Gaussian transitions: their mean, their deviation and the log-density of an outcome.

Latents are a share of an image and a share of noise. The mean of the next ones follows DDIM (arXiv 2010.02502,
equation 12) and its form for flow matching (arXiv 2509.05952), or the posterior of DDPM (arXiv 2006.11239, equation 7),
from what the network predicts: the noise, the image, or a velocity (arXiv 2202.00512, or arXiv 2210.02747 for flow
matching). The shares come from the noise schedule of a diffusers scheduler.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising

LEAST_VARIANCE = 1e-20  # as DDPM's scheduler bounds it: such a step is deterministic in float32
LEAST_NOISE = 0.01
"""Share of noise below which a step of flow matching adds none: the log-density of so narrow an outcome would outweigh
those of all other steps. Diffusers' last share of noise before 0 is 0.001 where the schedule is not shifted."""
FLOW = "flow_prediction"


@dataclass(frozen=True, slots=True)
class Transition:
    """One denoising step: its timestep, the shares of image and noise in the latents before and after it, its std.

    Latents are `signal` * image + `noise` * standard normal noise. `std` is 0 for a step without noise.
    """

    timestep: float
    signal: float
    noise: float
    next_signal: float
    next_noise: float
    std: float


@dataclass(frozen=True, slots=True)
class Transitions:
    """The steps of one way of denoising, from noise to image."""

    how: Denoising
    steps: tuple[Transition, ...]
    prediction: str
    clip: float  # bound on the predicted image; infinite: none

    @classmethod
    def of(cls, schedule: Any, how: Denoising) -> "Transitions":
        """Return the steps for the noise schedule of a diffusers scheduler.

        Raises `ParamError` for more steps than it has, or a scheduler that samples in another way.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        flows = isinstance(schedule, FlowMatchEulerDiscreteScheduler)
        if flows != (how.scheduler == "flow"):
            fitting = "flow" if flows else "ddim or ddpm"
            raise ParamError(f"scheduler is {how.scheduler}, but the policy has a {_name(schedule)}; use {fitting}")
        if how.steps > schedule.config.num_train_timesteps:
            most = schedule.config.num_train_timesteps
            raise ParamError(f"steps is {how.steps}, but the policy has {most} timesteps; lower it")
        return cls._of_flow(schedule, how) if flows else cls._of_diffusion(schedule, how)

    @classmethod
    def _of_flow(cls, schedule: Any, how: Denoising) -> "Transitions":
        scheduler = type(schedule).from_config(schedule.config)
        if scheduler.config.use_dynamic_shifting:
            raise ParamError("flow: dynamic shifting is not supported; turn it off in the scheduler")
        scheduler.set_timesteps(how.steps)
        sigmas = scheduler.sigmas.double().tolist()
        steps = tuple(
            Transition(timestep, 1 - before, before, 1 - after, after, how.eta * after if after >= LEAST_NOISE else 0.0)
            for timestep, (before, after) in zip(scheduler.timesteps.tolist(), pairwise(sigmas), strict=True)
        )
        return cls(how, steps, FLOW, math.inf)

    @classmethod
    def _of_diffusion(cls, schedule: Any, how: Denoising) -> "Transitions":
        from diffusers import DDIMScheduler, DDPMScheduler

        scheduler = (DDIMScheduler if how.scheduler == "ddim" else DDPMScheduler).from_config(schedule.config)
        config = scheduler.config
        if getattr(config, "thresholding", False):
            raise ParamError(f"{how.scheduler}: dynamic thresholding is not supported; turn it off in the scheduler")
        scheduler.set_timesteps(how.steps)
        alphas = scheduler.alphas_cumprod.double()
        final = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        gap = config.num_train_timesteps // how.steps
        steps = []
        for timestep in scheduler.timesteps.tolist():
            later = timestep - gap
            alpha, next_alpha = float(alphas[timestep]), float(alphas[later]) if later >= 0 else final
            variance = (1 - next_alpha) / (1 - alpha) * (1 - alpha / next_alpha)
            scale = how.eta if how.scheduler == "ddim" else 1.0
            std = scale * math.sqrt(variance) if variance > LEAST_VARIANCE else 0.0
            if how.scheduler == "ddpm" and timestep == 0:
                std = 0.0  # its scheduler adds no noise to the image itself
            before, after = _shares(alpha), _shares(next_alpha)
            steps.append(Transition(timestep, *before, *after, std))
        clip = config.clip_sample_range if config.clip_sample else math.inf
        return cls(how, tuple(steps), config.prediction_type, clip)

    @property
    def random(self) -> tuple[Transition, ...]:
        """The steps that add noise; deterministic ones come after them."""
        return tuple(step for step in self.steps if step.std > 0)

    def mean(self, step: Transition, latents: Tensor, output: Tensor) -> Tensor:
        """Return the mean of the next latents, given the network's output for these latents."""
        image, noise = self._predicted(step, latents, output)
        image = image.clamp(-self.clip, self.clip)
        if self.how.scheduler == "ddpm":
            kept = (step.signal / step.next_signal) ** 2
            of_image = step.next_signal * (1 - kept) / step.noise**2
            return of_image * image + math.sqrt(kept) * (step.next_noise / step.noise) ** 2 * latents
        direction = math.sqrt(max(step.next_noise**2 - step.std**2, 0.0))
        return step.next_signal * image + direction * noise

    def _predicted(self, step: Transition, latents: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the noise that the network predicts."""
        signal, noise = step.signal, step.noise
        if self.prediction == "epsilon":
            return (latents - noise * output) / signal, output
        if self.prediction == "sample":
            return output, (latents - signal * output) / noise
        if self.prediction == "v_prediction":
            return signal * latents - noise * output, signal * output + noise * latents
        if self.prediction == FLOW:
            return latents - noise * output, latents + signal * output
        known = "epsilon, sample and v_prediction"
        raise ParamError(f"a network that predicts {self.prediction!r} is not supported; {known} are")


def _shares(alpha: float) -> tuple[float, float]:
    """Return the shares of image and noise in latents with this alpha-bar."""
    return math.sqrt(alpha), math.sqrt(1 - alpha)


def _name(schedule: Any) -> str:
    return type(schedule).__name__


def log_density(outcome: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log-density of each row's outcome under a normal distribution, averaged over dimensions: [rows].

    The mean rather than the sum keeps ratios near 1, as in DDPO (arXiv 2305.13301) and its implementations.
    """
    squared = ((outcome - mean) / std) ** 2
    return (-0.5 * squared - math.log(std) - 0.5 * math.log(2 * math.pi)).flatten(1).mean(dim=1)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return the output that classifier-free guidance makes of two (arXiv 2207.12598)."""
    return torch.lerp(unconditional, conditional, guidance)
