"""The parts of a text-to-image pipeline, as diffusers and transformers make them (imports torch)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from genrl_graph.errors import DataError

MISSING = "policy.diffusion: diffusers is not installed; pip install 'genrl-graph[images]'"
Conditions = Mapping[str, torch.Tensor]
"""Conditions of a denoiser by a caption: keyword arguments of its forward pass, [rows, ...]."""


@dataclass(frozen=True, slots=True)
class PipelineParts(ABC):
    """The parts of a pipeline, each a field of the name that diffusers has for it.

    A subclass is a family: the class of diffusers, the classes of its parts, and how captions reach the denoiser. Parts
    have no common type: diffusers makes most of them, transformers those of text.
    """

    pipeline_class: ClassVar[str]
    trained: ClassVar[str]
    """Name of the part that is the denoiser."""
    classes: ClassVar[Mapping[str, tuple[str, ...]]]
    """Names of the classes that a part may have; the scheduler may have any."""
    unused: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the pipeline of diffusers that leave other parts out."""

    vae: Any
    scheduler: Any

    @abstractmethod
    def embed(self, captions: list[str]) -> Conditions:
        """Return what the denoiser is told of captions; those longer than a tokenizer reads are cut."""

    @property
    def denoiser(self) -> Any:
        """The network that is trained."""
        return getattr(self, self.trained)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents that the denoiser was made for."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.denoiser.config.in_channels, height, width

    def with_denoiser(self, denoiser: Any) -> Self:
        """Return the parts with another denoiser; the others are shared."""
        return replace(self, **{self.trained: denoiser})

    def save(self, folder: Path) -> None:
        """Write the pipeline as diffusers reads it (`DiffusionPipeline.from_pretrained`)."""
        self.pipeline().save_pretrained(folder, safe_serialization=True)

    def pipeline(self) -> Any:
        """Return the pipeline of diffusers, with an adapter merged into a copy of the denoiser."""
        import diffusers

        from genrl_graph.nodes.policy.denoising.adapter import merged

        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        parts[self.trained] = merged(self.denoiser)
        return getattr(diffusers, self.pipeline_class)(**parts, **self.unused)

    def to(self, device: torch.device) -> None:
        """Move the weights to a device, in evaluation mode; only the denoiser has gradients."""
        for field in fields(self):
            module = getattr(self, field.name)
            if isinstance(module, torch.nn.Module):
                module.to(device).eval()
                if field.name != self.trained:
                    module.requires_grad_(False)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images of latents: uint8 [rows, height, width, RGB], rounded as diffusers rounds them."""
        config = self.vae.config
        with torch.no_grad():
            images = self.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample
        shown: torch.Tensor = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return shown


def require_diffusers() -> None:
    """Raise `DataError` unless diffusers can be imported."""
    try:
        import diffusers
    except ImportError as error:
        raise DataError(MISSING) from error
    del diffusers
