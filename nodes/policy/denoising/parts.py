"""The parts of a text-to-image pipeline, as diffusers and transformers make them (imports torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genrl_graph.errors import DataError

MISSING = "policy.diffusion: diffusers is not installed; pip install 'genrl-graph[images]'"


@dataclass(frozen=True, slots=True)
class PipelineParts:
    """UNet, image decoder (VAE), text encoder, tokenizer and noise schedule of a pipeline.

    They have no common type: diffusers makes most of them, transformers the two of text.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Write the pipeline as diffusers reads it (`StableDiffusionPipeline.from_pretrained`)."""
        self.pipeline().save_pretrained(folder, safe_serialization=True)

    def pipeline(self) -> Any:
        """Return a `StableDiffusionPipeline` of diffusers, with an adapter merged into a copy of the UNet."""
        from diffusers import StableDiffusionPipeline

        from genrl_graph.nodes.policy.denoising.adapter import merged

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=merged(self.unet),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def to(self, device: torch.device) -> None:
        """Move the weights to a device, in evaluation mode; only the UNet has gradients."""
        for module in (self.unet, self.vae, self.text_encoder):
            module.to(device).eval()
        self.vae.requires_grad_(False)
        self.text_encoder.requires_grad_(False)

    def embed(self, captions: list[str]) -> torch.Tensor:
        """Return the text encoder's states of captions, [rows, tokens, width], padded or cut to its length."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            states: torch.Tensor = self.text_encoder(tokens.input_ids.to(self.unet.device))[0]
        return states

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images of latents: uint8 [rows, height, width, RGB], rounded as diffusers rounds them."""
        with torch.no_grad():
            images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        shown: torch.Tensor = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return shown


def require_diffusers() -> None:
    """Raise `DataError` unless diffusers can be imported."""
    try:
        import diffusers
    except ImportError as error:
        raise DataError(MISSING) from error
    del diffusers


def latent_size(unet: Any) -> tuple[int, int]:
    """Return height and width of the latents that a UNet was made for."""
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)
