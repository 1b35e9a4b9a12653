"""Tokenise chats and decode completions, with a Hugging Face tokenizer, its chat template and their fingerprint."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from genrl_graph.errors import DataError, ParamError
from genrl_graph.seeds import digest


class ChatTokens:
    """A tokenizer with a chat template; raises `DataError` if it has no chat template or no end token.

    `fingerprint` is a digest of both: equal fingerprints give equal ids.
    """

    def __init__(self, tokenizer: Any, *, chat_template: str | None = None, where: str) -> None:
        self.tokenizer = tokenizer
        self.where = where
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        if not isinstance(tokenizer.chat_template, str):
            raise DataError(f"{where}: its tokenizer has no chat template; set the param chat_template")
        if tokenizer.eos_token_id is None:
            raise DataError(f"{where}: its tokenizer has no end token; use a model that has one")
        self.fingerprint = _fingerprint(tokenizer)
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        ordered = sorted({*special, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered)))

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the token ids of a chat, up to the start of the completion.

        A special token spelled out in a content stays text, because a zero-width space splits it: a quoted completion
        cannot end a message. Raises `ParamError` if the chat template refuses the messages.
        """
        escaped = [
            {"role": m["role"], "content": self._special.sub(lambda match: _split(match[0]), m["content"])}
            for m in messages
        ]
        try:
            ids = self.tokenizer.apply_chat_template(
                escaped, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ParamError(f"{self.where}: its chat template refuses the roles {roles}: {error}") from error
        return np.asarray(ids, dtype=np.int32)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a completion's text, then the end token if it `ended`; spelled-out ones stay text."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return np.asarray([*ids, self.tokenizer.eos_token_id] if ended else ids, dtype=np.int32)

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Decode each row of ids, without special tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # about ten times as fast as its transformers wrapper
            return [str(backend.decode(row, skip_special_tokens=True)) for row in rows]
        return [
            str(self.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for row in rows
        ]


def _split(token: str) -> str:
    return token[0] + "\u200b" + token[1:]


def _fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        for setting in ("truncation", "padding"):  # left over from the last call, not part of the vocabulary
            content.pop(setting, None)
    return digest(("tokenizer", json.dumps(content, sort_keys=True), tokenizer.chat_template))
