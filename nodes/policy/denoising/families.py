"""The families of pipelines that can be trained, by the class of diffusers (imports torch)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genrl_graph.nodes.policy.denoising.parts import Conditions, PipelineParts

T5_TOKENS = 256
"""Tokens of a caption that T5 reads for Stable Diffusion 3, as its pipeline has them."""


@dataclass(frozen=True, slots=True)
class StableDiffusion(PipelineParts):
    """A UNet that reads a caption by cross-attention to the states of one CLIP encoder (arXiv 2112.10752)."""

    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    trained: ClassVar[str] = "unet"
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }
    unused: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    unet: Any
    text_encoder: Any
    tokenizer: Any

    def embed(self, captions: list[str]) -> Conditions:
        """Return the last states of the text encoder, [rows, tokens, width]."""
        with torch.no_grad():
            return {"encoder_hidden_states": self.text_encoder(_tokens(self.tokenizer, captions, self.vae.device))[0]}


@dataclass(frozen=True, slots=True)
class StableDiffusion3(PipelineParts):
    """A transformer over patches of latents and tokens of the caption, by flow matching (arXiv 2403.03206).

    Tokens are the states of two CLIP encoders, side by side, and then those of T5.
    """

    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    trained: ClassVar[str] = "transformer"
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
    }

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    text_encoder_2: Any
    tokenizer_2: Any
    text_encoder_3: Any
    tokenizer_3: Any

    def embed(self, captions: list[str]) -> Conditions:
        """Return the states [rows, tokens, width] of the encoders, and the pooled ones [rows, width] of CLIP."""
        device, length = self.vae.device, self.tokenizer.model_max_length
        with torch.no_grad():
            both = [
                encoder(_tokens(tokenizer, captions, device, length), output_hidden_states=True)
                for encoder, tokenizer in (
                    (self.text_encoder, self.tokenizer),
                    (self.text_encoder_2, self.tokenizer_2),
                )
            ]
            others = self.text_encoder_3(_tokens(self.tokenizer_3, captions, device, T5_TOKENS))[0]
        states = torch.cat([each.hidden_states[-2] for each in both], dim=-1)
        padded = torch.nn.functional.pad(states, (0, others.shape[-1] - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([padded, others], dim=1),
            "pooled_projections": torch.cat([each.text_embeds for each in both], dim=-1),
        }


def _tokens(tokenizer: Any, captions: list[str], device: torch.device, length: int | None = None) -> torch.Tensor:
    """Return ids [rows, length], padded or cut; without a length as many as the tokenizer's model reads."""
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids: torch.Tensor = tokenizer(captions, max_length=length or tokenizer.model_max_length, **options).input_ids
    return ids.to(device)


FAMILIES: Mapping[str, type[PipelineParts]] = {
    family.pipeline_class: family for family in (StableDiffusion, StableDiffusion3)
}
