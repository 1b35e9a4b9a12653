"""The live policy of a language model that sees images: prompts are token ids and, beside them, an image each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText

from genrl_graph.contract.policy import Completion, Randomness, Sampling, TokenSequence, VisionPolicy
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.compute import exported
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.prompt_images import PromptImages, ReadImages
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.reading import Reading
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.seeing.image_chat import ImageChat

READING = Reading(packs=False, shares_prompts=False, recomputes=False)
"""Rows are read one by one, padded: what two prompts share as token ids may be of two images."""


class VisionLanguagePolicy(CausalPolicy, VisionPolicy):
    """A policy over a Hugging Face model of text and images, all of whose weights are trained.

    The image token is never sampled: a completion shows no image.
    """

    tokens: ImageChat

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokens: ImageChat,
        *,
        context: int,
        training: Training,
        reading: Reading = READING,
    ) -> None:
        super().__init__(name, model, tokens, context=context, training=training, reading=reading)
        self.__dict__["_has_plain_head"] = False  # the whole model reads images, not its trunk alone
        self.unknown_ids |= {tokens.image_id}

    def render_with_image(self, messages: Sequence[dict[str, str]], image: bytes) -> NDArray[np.int32]:
        """Return the token ids of a chat whose last message shows an image before its text."""
        return self.tokens.render_with_image(messages, image)

    def generate_with_images(
        self,
        prompts: Sequence[NDArray[np.int32]],
        images: Sequence[bytes],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample `num_generations` completions per prompt and its image.

        Raises `NodeFailed` if log-probs are not finite.
        """
        return self._sampled(
            prompts,
            num_generations,
            sampling=sampling,
            rng=rng,
            max_batch_tokens=max_batch_tokens,
            images=PromptImages(images, self._images_reader()),
        )

    def can_read(self, rows: Rollouts) -> NDArray[np.bool_]:
        """Return which rows have the image that their prompt shows; those of other peers come without."""
        known = rows.with_local(rows.local_columns)
        pairs = zip(known.ragged("prompt_ids"), known.ragged("image"), strict=True)
        return np.asarray([len(image) > 0 or not self._shows(prompt) for prompt, image in pairs], dtype=np.bool_)

    def export(self, folder: Path) -> None:
        """Write model and processor for plain transformers, and verify that it computes the same log-probs of text.

        Raises `StoreError`, with nothing left behind, if it does not.
        """
        with exported.all_or_nothing(folder):
            with without_progress():
                cast(Any, self.model).save_pretrained(folder)
            self.tokens.processor.save_pretrained(folder)
            self._verify(folder, exported.load_exported(folder, AutoModelForImageTextToText))

    def _images_reader(self) -> ReadImages:
        return partial(_on, self.device, self.tokens)

    def _logprobs_of(
        self, model: torch.nn.Module, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]
    ) -> torch.Tensor:
        for row in sequences:
            if self._shows(row.prompt_ids) and not row.image:
                raise NodeFailed(f"policy {self.name!r}: a prompt shows an image that its row lacks; leave it out")
        return super()._logprobs_of(model, sequences, temperatures)

    def _shows(self, prompt: NDArray[np.int32]) -> bool:
        return bool((prompt == self.tokens.image_id).any())


def _on(device: torch.device, tokens: ImageChat, images: Sequence[bytes]) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in tokens.model_inputs(images).items()}
