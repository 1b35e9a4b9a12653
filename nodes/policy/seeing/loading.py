"""Load a vision language model from a folder or the hub (imports torch): safetensors only, no code of the folder."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.edge_types.png import encode_png
from genrl_graph.errors import DataError, GenrlGraphError
from genrl_graph.nodes.policy.compute.device import line_of, pick_device
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.loading.pretrained import context_of, folder_of, read_model
from genrl_graph.nodes.policy.seeing.image_chat import ImageChat
from genrl_graph.nodes.policy.seeing.vision_policy import VisionLanguagePolicy
from genrl_graph.seeds import stream

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.vlm import Vlm

CLOSE = 1e-3
"""Largest difference of a token's log-probs, sampled and read in one pass, in nats."""


def load_vision_policy(name: str, params: "Vlm") -> VisionLanguagePolicy:
    """Return the policy of a model that transformers loads as one of images and text.

    Raises `DataError` if it cannot be read, or if its log-probs depend on how a row is read (see `prove`).
    """
    assert params.model is not None
    where = f"{params.type_name}.model {params.model!r}"
    folder = folder_of(params.model, params.revision, where=where)
    model, processor = read_model(AutoModelForImageTextToText, AutoProcessor, folder, where=where)
    chat = ImageChat(processor, chat_template=params.chat_template, where=where)
    policy = VisionLanguagePolicy(
        name,
        model.to(pick_device(params.device)),
        chat,
        context=context_of(model.config.get_text_config(), params.max_context),
        training=Training(weight_decay=params.weight_decay, betas=params.betas),
    )
    prove(policy, where=where)
    return policy


def prove(policy: VisionLanguagePolicy, *, where: str) -> None:
    """Raise `DataError` unless two rows that are sampled together have the log-probs of each, read in one pass.

    Models whose positions depend on the image, or whose image tokens see those after them, do not.
    """
    rng = stream("prove")
    images = [encode_png(rng.integers(0, 256, (size, 32, 3), np.uint8)) for size in (32, 48)]
    texts = ("Describe it.", "What is in the picture? Say it in one word.")
    try:
        prompts = [
            policy.render_with_image([{"role": "user", "content": text}], image)
            for text, image in zip(texts, images, strict=True)
        ]
        rows = policy.generate_with_images(
            prompts,
            images,
            num_generations=1,
            sampling=Sampling(4),
            rng=rng,
            max_batch_tokens=1 << 20,
        )
        gaps = []
        with torch.no_grad():
            for prompt, image, (row,) in zip(prompts, images, rows, strict=True):
                sequence = TokenSequence(prompt, row.ids, image=image)
                read = policy.logprobs([sequence], temperatures=np.ones(1, np.float32))[0].cpu().numpy()
                gaps.append(float(np.abs(read - row.logprobs).max()))
    except GenrlGraphError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise DataError(f"{where}: its model does not read images as those of LLaVA do: {line_of(error)}") from error
    if not max(gaps) <= CLOSE:
        raise DataError(
            f"{where}: its log-probs differ by {max(gaps):.2g} between sampling and one pass (at most {CLOSE:g}); "
            "name a model whose positions and attention are those of text, such as LLaVA or SmolVLM"
        )
