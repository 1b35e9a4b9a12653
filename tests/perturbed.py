"""`policy.perturbed_lm`: a tiny model that another sampler plays for, whose weights differ by noise of a given size."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.policy import Completion, Randomness, Sampling, TextPolicy
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.seeds import stream


class PerturbedPolicy(CausalPolicy):
    """A policy whose rows, and their log-probs, are those of a copy with noise in its matrices.

    Greedy rows are the policy's own, so that evaluations show what it learned.
    """

    spread: float

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample from the copy; its noise is drawn anew for each version."""
        engine = cast(CausalPolicy, self.frozen("engine"))
        spread = self.spread if sampling.temperature > 0 else 0.0
        with torch.no_grad():
            for name, weight in engine.model.named_parameters():
                if weight.ndim >= 2:
                    noise = stream("perturbed", self.version, name).standard_normal(tuple(weight.shape))
                    weight.add_(spread * weight.std() * torch.from_numpy(noise).float())
        engine.__class__ = CausalPolicy
        return engine.generate(
            prompts, num_generations=num_generations, sampling=sampling, rng=rng, max_batch_tokens=max_batch_tokens
        )


class PerturbedLM(TinyLM, name="perturbed_lm"):
    """A tiny model with a perturbed sampler."""

    spread: float = Field(default=0.0, ge=0, description="size of the noise, relative to the deviation of each matrix")

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Return the policy."""
        policy = super().init(name, seed=seed)
        policy.__class__ = PerturbedPolicy
        assert isinstance(policy, PerturbedPolicy)
        policy.spread = self.spread
        return policy
