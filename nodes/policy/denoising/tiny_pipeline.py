"""A tiny text-to-image pipeline with random weights (imports torch): every part is one of a known family's, small."""

import string
from typing import TYPE_CHECKING, Any

import torch

from genrl_graph.nodes.policy.denoising.families import StableDiffusion, StableDiffusion3
from genrl_graph.nodes.policy.denoising.parts import PipelineParts, require_diffusers
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.diffusion import TinyPipeline

WIDTH = 32  # of the text encoder
LATENT_CHANNELS = 4
ALPHABET = sorted(set(string.printable) - set(string.whitespace))
CONTRAST, GREY = 4.0, 0.5
"""Factor on the weights of the decoder's last layer, and its bias: default weights give nearly black images."""


def tiny_parts(sizes: "TinyPipeline", *, seed: int, name: str) -> PipelineParts:
    """Return a pipeline of these sizes; its weights are drawn from seed and name."""
    require_diffusers()
    tokenizer, scheduler = character_tokenizer(sizes.caption_characters), _noise_schedule(sizes.noise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(digest(("tiny_diffusion", seed, name), size=7), 16))
        if sizes.denoiser == "unet":
            unet, vae, encoder = _unet(sizes), _decoder(), _text_encoder(tokenizer)
            return StableDiffusion(vae, scheduler, unet, encoder, tokenizer)
        transformer, vae = _transformer(sizes), _decoder()
        first, second = (_text_encoder(tokenizer, projection=WIDTH) for _ in range(2))
        third, characters = _t5_encoder()
        return StableDiffusion3(vae, scheduler, transformer, first, tokenizer, second, tokenizer, third, characters)


def _unet(sizes: "TinyPipeline") -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
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


def _transformer(sizes: "TinyPipeline") -> Any:
    from diffusers import SD3Transformer2DModel

    size = sizes.height // 2
    return SD3Transformer2DModel(
        sample_size=size,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=sizes.channels // 8,
        joint_attention_dim=2 * WIDTH,  # the states of both text encoders, side by side
        caption_projection_dim=sizes.channels,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=size // 2,
    )


def _decoder() -> Any:
    """Return an autoencoder without AutoencoderKL's group norms.

    With random weights, these would give all latents the same contrast.
    """
    from diffusers import AutoencoderTiny

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
    return vae


def _text_encoder(tokenizer: Any, *, projection: int | None = None) -> Any:
    """Return a CLIP encoder; with `projection`, also of one state of this width for the whole caption."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=projection or WIDTH,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5_encoder() -> tuple[Any, Any]:
    """Return a T5 encoder, and its tokenizer of one token per printable character."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *ALPHABET]
    tokenizer = T5TokenizerFast(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces), d_model=2 * WIDTH, d_kv=8, d_ff=2 * WIDTH, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config), tokenizer


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

    tokens = [*ALPHABET, *(f"{character}</w>" for character in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=characters + 2)
