"""Interface of policies that make images by denoising; imports no torch."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import TrainedPolicy

if TYPE_CHECKING:
    from torch import Tensor

Scheduler = Literal["ddim", "ddpm", "flow"]


@dataclass(frozen=True, slots=True)
class Denoising:
    """A way of sampling images: the scheduler, its number of steps, their randomness, and classifier-free guidance.

    `eta` scales the noise of the steps of DDIM and flow matching: 0 is deterministic; 1 has the variance of DDPM (arXiv
    2010.02502, equation 16), or draws all noise of the latents anew. `guidance` 1 is none (arXiv 2207.12598).
    """

    scheduler: Scheduler
    steps: int
    eta: float = 1.0
    guidance: float = 1.0


@dataclass(frozen=True, slots=True)
class Painting:
    """One sampled image: uint8 [height, width, RGB], its latents, and the log-probs of its random steps.

    `latents` is float32 [random steps + 1, ...]: those before the first random step, and after each. `logprobs`
    [random steps] are log-densities, averaged over the dimensions of the latents. `error` says why there is no image.
    """

    image: NDArray[np.uint8]
    latents: NDArray[np.float32]
    logprobs: NDArray[np.float32]
    error: str = ""


class DiffusionPolicy(TrainedPolicy):
    """A policy that makes an image of a caption by denoising latents step by step, each step a random action."""

    latent_shape: tuple[int, ...]

    @abstractmethod
    def paint(
        self, captions: Sequence[str], how: Denoising, *, rngs: Sequence[np.random.Generator], batch_size: int
    ) -> list[Painting]:
        """Sample one image per caption, with the generator of each, `batch_size` at a time."""

    @abstractmethod
    def step_logprobs(self, captions: Sequence[str], how: Denoising, latents: "Tensor", step: int) -> "Tensor":
        """Return the log-probs of one random step of each row, float32 [rows], with gradients.

        `latents` [rows, 2, ...] are those before and after the step, `step` counts the random steps from 0.
        """

    @abstractmethod
    def random_steps(self, how: Denoising) -> int:
        """Return the number of steps that add noise."""

    @abstractmethod
    def tensor(self, values: "NDArray[np.generic]") -> "Tensor":
        """Return an array as a tensor on the device of the weights."""
