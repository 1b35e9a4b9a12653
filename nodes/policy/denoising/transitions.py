"""Denoising steps as Gaussian transitions: their mean, their deviation and the log-density of an outcome.

The mean follows DDIM (arXiv 2010.02502, equation 12) or the posterior of DDPM (arXiv 2006.11239, equation 7), from
what the network predicts: the noise, the image, or the velocity (arXiv 2202.00512). The coefficients come from the
noise schedule of a diffusers scheduler.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising

LEAST_VARIANCE = 1e-20  # as DDPM's scheduler bounds it: such a step is deterministic in float32


@dataclass(frozen=True, slots=True)
class Transition:
    """One denoising step: its timestep, the share of the image in the latents (alpha-bar) before and after it, its std.

    `std` is 0 for a step without noise.
    """

    timestep: int
    alpha: float
    next_alpha: float
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
        from diffusers import DDIMScheduler, DDPMScheduler

        classes = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}
        scheduler = classes[how.scheduler].from_config(schedule.config)
        config = scheduler.config
        if how.steps > config.num_train_timesteps:
            most = config.num_train_timesteps
            raise ParamError(f"steps is {how.steps}, but the policy has {most} timesteps; lower it")
        if getattr(config, "thresholding", False):
            raise ParamError(f"{how.scheduler}: dynamic thresholding is not supported; turn it off in the scheduler")
        scheduler.set_timesteps(how.steps)
        alphas = scheduler.alphas_cumprod.double()
        final = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        gap = config.num_train_timesteps // how.steps
        steps = []
        for timestep in scheduler.timesteps.tolist():
            before = timestep - gap
            alpha, next_alpha = float(alphas[timestep]), float(alphas[before]) if before >= 0 else final
            variance = (1 - next_alpha) / (1 - alpha) * (1 - alpha / next_alpha)
            scale = how.eta if how.scheduler == "ddim" else 1.0
            std = scale * math.sqrt(variance) if variance > LEAST_VARIANCE else 0.0
            if how.scheduler == "ddpm" and timestep == 0:
                std = 0.0  # its scheduler adds no noise to the image itself
            steps.append(Transition(timestep, alpha, next_alpha, std))
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
            kept = step.alpha / step.next_alpha
            share = math.sqrt(step.next_alpha) * (1 - kept) / (1 - step.alpha)
            return share * image + math.sqrt(kept) * (1 - step.next_alpha) / (1 - step.alpha) * latents
        direction = math.sqrt(max(1 - step.next_alpha - step.std**2, 0.0))
        return math.sqrt(step.next_alpha) * image + direction * noise

    def _predicted(self, step: Transition, latents: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the noise that the network predicts."""
        signal, noise = math.sqrt(step.alpha), math.sqrt(1 - step.alpha)
        if self.prediction == "epsilon":
            return (latents - noise * output) / signal, output
        if self.prediction == "sample":
            return output, (latents - signal * output) / noise
        if self.prediction == "v_prediction":
            return signal * latents - noise * output, signal * output + noise * latents
        known = "epsilon, sample and v_prediction"
        raise ParamError(f"a network that predicts {self.prediction!r} is not supported; {known} are")


def log_density(outcome: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log-density of each row's outcome under a normal distribution, averaged over dimensions: [rows].

    The mean rather than the sum keeps ratios near 1, as in DDPO (arXiv 2305.13301) and its implementations.
    """
    squared = ((outcome - mean) / std) ** 2
    return (-0.5 * squared - math.log(std) - 0.5 * math.log(2 * math.pi)).flatten(1).mean(dim=1)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return the output that classifier-free guidance makes of two (arXiv 2207.12598)."""
    return torch.lerp(unconditional, conditional, guidance)
