"""A tiny language model that sees, with random weights (imports torch): a LLaVA whose parts are small."""

from typing import TYPE_CHECKING, Any

import torch

from genrl_graph.nodes.policy.seeing.image_chat import ImageChat
from genrl_graph.nodes.policy.tiny_lm import SPECIAL, character_tokenizer
from genrl_graph.seeds import stream

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.vlm import TinyVision

IMAGE_TOKEN = "<image>"
CONTENTS = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
"""The chat template: the image, then the contents."""


def tiny_chat(sizes: "TinyVision", *, where: str) -> ImageChat:
    """Return a processor with one token per character, and one per patch of an image."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = character_tokenizer(sizes.alphabet)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    side = {"height": sizes.image_size, "width": sizes.image_size}
    pixels = CLIPImageProcessorPil(size=side, do_center_crop=False, resample=0)
    processor: Any = LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=sizes.patch_size,
        vision_feature_select_strategy="default",  # without the token of the class
        num_additional_image_tokens=1,
        chat_template=CONTENTS,
        image_token=IMAGE_TOKEN,
    )
    return ImageChat(processor, where=where)


def tiny_model(sizes: "TinyVision", *, seed: int, name: str) -> torch.nn.Module:
    """Return a model of these sizes; each weight is drawn from a stream of its own, of seed, name and its name."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    image_id = len(SPECIAL) + len(sizes.alphabet)
    shape = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
    }
    vision = CLIPVisionConfig(
        **shape,
        intermediate_size=2 * sizes.hidden_size,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    text = LlamaConfig(
        **shape,
        vocab_size=image_id + 1,
        intermediate_size=4 * sizes.hidden_size,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=sizes.max_context,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_id,
        image_seq_length=(sizes.image_size // sizes.patch_size) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model: torch.nn.Module = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            parameter.copy_(_drawn(label, parameter, seed=seed, name=name, spread=sizes.initializer_range))
    return model


def _drawn(label: str, parameter: torch.Tensor, *, seed: int, name: str, spread: float) -> torch.Tensor:
    """Return initial values: 0 for biases, 1 for the scales of norms, normal ones for the rest."""
    if label.endswith("bias"):
        return torch.zeros_like(parameter)
    if parameter.ndim < 2 and "embedding" not in label:
        return torch.ones_like(parameter)
    drawn = stream("tiny_vlm", seed, name, label).standard_normal(tuple(parameter.shape))
    return torch.from_numpy(spread * drawn).to(parameter.dtype)
