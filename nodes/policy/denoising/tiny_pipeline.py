"""A tiny text-to-image pipeline with random weights (imports torch): every part is one of Stable Diffusion's, small."""

import string
from typing import TYPE_CHECKING, Any

import torch

from genrl_graph.nodes.policy.denoising.parts import PipelineParts, require_diffusers
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.diffusion import TinySizes

WIDTH = 32  # of the text encoder
LATENT_CHANNELS = 4
CONTRAST = 8.0
"""Factor on the last layer of the decoder, whose default weights give nearly grey images."""


def tiny_parts(sizes: "TinySizes", *, seed: int, name: str) -> PipelineParts:
    """Return a pipeline of these sizes; its weights are drawn from seed and name."""
    require_diffusers()
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = character_tokenizer(sizes.caption_characters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(digest(("tiny_diffusion", seed, name), size=7), 16))
        unet = UNet2DConditionModel(
            sample_size=(sizes.height // 2, sizes.width // 2),
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            layers_per_block=1,
            block_out_channels=(sizes.channels, sizes.channels),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            mid_block_type=None,
            norm_num_groups=8,
            attention_head_dim=sizes.channels // 2,
            cross_attention_dim=WIDTH,
        )
        # without the group norms of AutoencoderKL, which with random weights would give all latents the same contrast
        vae = AutoencoderTiny(
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=LATENT_CHANNELS,
            scaling_factor=1.0,
        )
        with torch.no_grad():
            vae.decoder.layers[-1].weight.mul_(CONTRAST)
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoder = CLIPTextModel(text)
    schedule = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return PipelineParts(unet, vae, encoder, tokenizer, schedule)


def character_tokenizer(characters: int) -> Any:
    """Return a CLIP tokenizer of one token per printable character, for captions of at most `characters`."""
    from transformers import CLIPTokenizer

    alphabet = sorted(set(string.printable) - set(string.whitespace))
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=characters + 2)
