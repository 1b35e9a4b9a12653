"""Chats that show images, as token ids: a tokenizer and an image processor, as a processor of transformers has them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.edge_types.png import decode_png
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens

TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
"""Outputs of a processor that are of text; all others are inputs of the images."""
SHOWS = "image"
"""Key of a message that shows an image before its text."""


class ImageChat(ChatTokens):
    """The tokenizer and chat template of a processor, and its image processor.

    The template reads contents as lists of parts, as those of vision language models do, and writes one image token for
    an image. The processor says by which tokens an image of some size replaces it. Raises `DataError` as `ChatTokens`
    does, and for a processor without an image token.
    """

    def __init__(
        self,
        processor: Any,
        *,
        chat_template: str | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
        prefix: str = "",
        where: str,
    ) -> None:
        self.processor = processor
        self.image_token = getattr(processor, "image_token", None)
        if not isinstance(self.image_token, str):
            raise DataError(f"{where}: a {type(processor).__name__} has no image token; name a model that sees images")
        self.image_id = int(processor.tokenizer.convert_tokens_to_ids(self.image_token))
        template = chat_template or getattr(processor, "chat_template", None)
        super().__init__(processor.tokenizer, chat_template=template, variables=variables, prefix=prefix, where=where)
        processor.chat_template = processor.tokenizer.chat_template
        self._replacement = lru_cache(maxsize=256)(self._tokens_of)

    def render_with_image(self, messages: Sequence[Mapping[str, str]], image: bytes) -> NDArray[np.int32]:
        """Return the token ids of a chat whose last message shows an image before its text.

        Raises `ParamError` if the chat template does not write exactly one image token for it.
        """
        ids = self.render([*(dict(m) for m in messages[:-1]), {**messages[-1], SHOWS: "shown"}])
        places = np.flatnonzero(ids == self.image_id)
        if len(places) != 1:
            what = f"its chat template writes {len(places)} image tokens for one image"
            raise ParamError(f"{self.where}: {what}; set chat_template to one that writes {self.image_token!r} once")
        at = int(places[0])
        return np.concatenate([ids[:at], self._replacement(image), ids[at + 1 :]]).astype(np.int32)

    def model_inputs(self, images: Sequence[bytes]) -> dict[str, torch.Tensor]:
        """Return what the processor makes of encoded images for the model: pixels, and what goes with them."""
        inputs = self._processed(images)
        return {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}

    def _tokens_of(self, image: bytes) -> NDArray[np.int32]:
        """Return the ids that stand for an image."""
        return np.asarray(self._processed([image])["input_ids"][0], dtype=np.int32)

    def _processed(self, images: Sequence[bytes]) -> dict[str, Any]:
        shown = [[decode_png(image)] for image in images]
        text = [self.image_token] * len(images)
        return dict(self.processor(text=text, images=shown, add_special_tokens=False, return_tensors="pt"))

    def _content(self, message: Mapping[str, str]) -> Any:
        """Return the content of a message as the parts that the template reads."""
        text = {"type": "text", "text": super()._content(message)}
        return [{"type": "image"}, text] if SHOWS in message else [text]
