"""Tokenise chats and decode completions, with a Hugging Face tokenizer, its chat template and their fingerprint."""

import json
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.templates.rendering import TemplateFailed, TemplateTooCostly, render
from genrl_graph.seeds import digest

_ANSWER = "Zebra"
"""The answer of a chat that is rendered to see how a turn ends."""


class ChatTokens:
    """A tokenizer with a chat template; raises `DataError` if it has no chat template or no end token.

    `fingerprint` is a digest of both: equal fingerprints give equal ids.
    """

    def __init__(self, tokenizer: Any, *, chat_template: str | None = None, where: str) -> None:
        self.tokenizer = tokenizer
        self.where = where
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        elif isinstance(tokenizer.chat_template, dict):  # several by name; the others are for tools or documents
            tokenizer.chat_template = tokenizer.chat_template.get("default")
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
            ids = chat_ids(self.tokenizer, escaped)
        except TemplateTooCostly as error:
            raise ParamError(f"{self.where}: its chat template: {error}") from error
        except TemplateFailed as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ParamError(f"{self.where}: its chat template refuses the roles {roles}: {error}") from error
        return np.asarray(ids, dtype=np.int32)

    @cached_property
    def end_of_turn(self) -> int:
        """The id with which the chat template ends an assistant's turn; the tokenizer's end token if it writes none."""
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
        try:
            text = _chat_text(self.tokenizer, chat, add_generation_prompt=False)
        except TemplateTooCostly as error:
            raise ParamError(f"{self.where}: its chat template: {error}") from error
        except TemplateFailed:  # it has no assistant, or wants other contents
            return int(self.tokenizer.eos_token_id)
        _, answered, after = text.rpartition(_ANSWER)
        added = {str(token): int(id) for id, token in self.tokenizer.added_tokens_decoder.items()}
        written = re.search("|".join(map(re.escape, sorted(added, key=len, reverse=True))), after) if answered else None
        return added[written[0]] if written else int(self.tokenizer.eos_token_id)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a completion's text, then the end of turn if it `ended`.

        Special tokens spelled out in the text stay text.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return np.asarray([*ids, self.end_of_turn] if ended else ids, dtype=np.int32)

    def unknown_ids(self, vocab_size: int) -> list[int]:
        """Return the ids below `vocab_size` that the tokenizer does not know, such as those of a padded embedding."""
        known = set(self.tokenizer.get_vocab().values())
        return [] if len(known) == vocab_size else [id for id in range(vocab_size) if id not in known]

    def texts(self, rows: Sequence[Sequence[int]], *, ends: Collection[int]) -> list[str]:
        """Decode each row of ids without the end tokens `ends`, padding, and the token for unknown characters.

        Other special tokens, such as <think>, are text that rewards read.
        """
        silent = {*ends, self.tokenizer.pad_token_id, self.tokenizer.unk_token_id}
        kept = [[id for id in row if id not in silent] for row in rows]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # about ten times as fast as its transformers wrapper
            return [str(backend.decode(row, skip_special_tokens=False)) for row in kept]
        return [str(self.tokenizer.decode(row, clean_up_tokenization_spaces=False)) for row in kept]


def chat_ids(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids of a chat, up to the start of the completion, as the tokenizer's `apply_chat_template` does.

    Raises `TemplateFailed` if the chat template fails, or exceeds a limit, which transformers does not have.
    """
    text = _chat_text(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _chat_text(tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
    values = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
    return render("chat", tokenizer.chat_template, {**tokenizer.special_tokens_map, **values})


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
