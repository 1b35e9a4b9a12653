"""The live diffusion policy: samples images, computes log-probs of its steps, trains the denoiser (imports torch)."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genrl_graph.nodes.policy.compute.adam_model import AdamModel
from genrl_graph.nodes.policy.compute.device import pick_device
from genrl_graph.nodes.policy.compute.exported import all_or_nothing
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising, DiffusionPolicy, Painting
from genrl_graph.nodes.policy.denoising.parts import Conditions, PipelineParts
from genrl_graph.nodes.policy.denoising.transitions import Transition, Transitions, guided, log_density


class PipelinePolicy(AdamModel, DiffusionPolicy):
    """The denoiser of a pipeline as the policy; text encoder, image decoder and noise schedule stay as they are.

    With `base`, the digest of a frozen denoiser, the policy is the adapter on it.
    """

    def __init__(self, name: str, parts: PipelineParts, *, device: str, base: str = "") -> None:
        parts.to(pick_device(device))
        super().__init__(name, parts.denoiser, base=base)
        self.parts = parts
        self.latent_shape = parts.latent_shape
        # one call for all steps of a batch: the text encoder is frozen
        self._embedded = lru_cache(maxsize=1)(lambda captions: parts.embed([*captions, ""]))
        self._transitions = lru_cache(maxsize=8)(lambda how: Transitions.of(parts.scheduler, how))

    def paint(
        self, captions: Sequence[str], how: Denoising, *, rngs: Sequence[np.random.Generator], batch_size: int
    ) -> list[Painting]:
        """Sample one image per caption; an image depends on its generator, not on the others of its batch."""
        paintings: list[Painting] = []
        for start in range(0, len(captions), batch_size):
            batch = slice(start, start + batch_size)
            paintings += self._paint_batch(list(captions[batch]), how, rngs[batch])
        return paintings

    def step_logprobs(self, captions: Sequence[str], how: Denoising, latents: Tensor, step: int) -> Tensor:
        """Return the log-probs of one random step of each row, [rows], with gradients."""
        transitions = self._transitions(how)
        chosen = transitions.random[step]
        output = self._output(latents[:, 0], chosen, self._conditions(captions, how), how)
        return log_density(latents[:, 1], transitions.mean(chosen, latents[:, 0], output), chosen.std)

    def random_steps(self, how: Denoising) -> int:
        """Return the number of steps that add noise."""
        return len(self._transitions(how).random)

    def export(self, folder: Path) -> None:
        """Write the pipeline as diffusers reads it; raises `StoreError`, with nothing left behind, if that fails."""
        with all_or_nothing(folder), without_progress():
            self.parts.save(folder)

    def frozen(self, name: str) -> Self:
        """Return a copy without optimiser state; what is frozen, such as the base of an adapter, is shared."""
        shared_weights = {id(weight): weight for weight in self.model.parameters() if not weight.requires_grad}
        denoiser = copy.deepcopy(self.model, dict[int, Any](shared_weights))
        denoiser.zero_grad(set_to_none=True)
        parts = self.parts.with_denoiser(denoiser)
        other = type(self)(name, parts, device=str(self._device), base=self._base)
        other.version = self.version
        return other

    @torch.no_grad()
    def _paint_batch(self, captions: list[str], how: Denoising, rngs: Sequence[np.random.Generator]) -> list[Painting]:
        transitions, conditions = self._transitions(how), self._conditions(captions, how)
        count = len(transitions.random)
        noise = self.tensor(
            np.stack([rng.standard_normal((count + 1, *self.latent_shape), np.float32) for rng in rngs])
        )
        latents, logprobs = [noise[:, 0]], []
        current = latents[0]
        for step in transitions.steps:
            mean = transitions.mean(step, current, self._output(current, step, conditions, how))
            current = mean
            if step.std > 0:
                current = mean + step.std * noise[:, len(latents)]
                logprobs.append(log_density(current, mean, step.std))
                latents.append(current)
        images = self.parts.decode(current).numpy(force=True)
        kept = torch.stack(latents, dim=1).numpy(force=True)
        densities = torch.stack(logprobs, dim=1) if logprobs else current.new_empty(len(captions), 0)
        finite = torch.isfinite(current).flatten(1).all(dim=1).tolist()
        rows = zip(images, kept, densities.numpy(force=True), finite, strict=True)
        return [Painting(image, kept, found, _error(ok)) for image, kept, found, ok in rows]

    def _conditions(self, captions: Sequence[str], how: Denoising) -> Conditions:
        """Return what the denoiser is told: rows of no caption, where guidance needs them, and then the captions."""
        distinct = tuple(dict.fromkeys(captions))
        rows = [distinct.index(caption) for caption in captions]
        chosen = rows if how.guidance == 1.0 else [len(distinct)] * len(rows) + rows
        return {name: states[chosen] for name, states in self._embedded(distinct).items()}

    def _output(self, latents: Tensor, step: Transition, conditions: Conditions, how: Denoising) -> Tensor:
        """Return what the denoiser predicts for latents, with guidance."""
        given = latents if how.guidance == 1.0 else torch.cat([latents, latents])
        times = torch.full((len(given),), step.timestep, device=given.device)
        output: Tensor = self.model(given, timestep=times, **conditions).sample
        if how.guidance == 1.0:
            return output
        plain, captioned = output.chunk(2)
        return guided(captioned, plain, how.guidance)


def _error(finite: bool) -> str:
    return "" if finite else "its latents are not finite; lower the learning rate or the guidance"
