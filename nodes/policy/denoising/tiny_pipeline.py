"""A tiny text-to-image pipeline with random weights (imports torch): every part is one of Stable Diffusion's, small."""

import string
from typing import TYPE_CHECKING, Any

import torch

from genrl_graph.nodes.policy.denoising.parts import PipelineParts, require_diffusers
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.diffusion import TinyPipeline

WIDTH = 32  # of the text encoder
LATENT_CHANNELS = 4
CONTRAST, GREY = 4.0, 0.5
"""Factor on the weights of the decoder's last layer, and its bias: default weights give nearly black images."""


def tiny_parts(sizes: "TinyPipeline", *, seed: int, name: str) -> PipelineParts:
    """Return a pipeline of these sizes; its weights are drawn from seed and name."""
    require_diffusers()
    from diffusers import AutoencoderTiny, UNet2DConditionModel
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
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            mid_block_type=None,
            norm_num_groups=8,
            attention_head_dim=2,  # the number of heads, in spite of its name
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
            vae.decoder.layers[-1].bias.fill_(GREY)
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
    return PipelineParts(unet, vae, encoder, tokenizer, _noise_schedule(sizes.noise))


def _noise_schedule(noise: str) -> Any:
    """Return a scheduler for a network that predicts a velocity.

    Random weights predict about 0. As a velocity that keeps the scale of the latents; as noise it would multiply them
    in each step, and the images would be saturated.
    """
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if noise == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def character_tokenizer(characters: int) -> Any:
    """Return a CLIP tokenizer of one token per printable character, for captions of at most `characters`."""
    from transformers import CLIPTokenizer

    alphabet = sorted(set(string.printable) - set(string.whitespace))
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=characters + 2)
