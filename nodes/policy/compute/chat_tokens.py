"""Tokenise chats and decode completions, with a Hugging Face tokenizer, its chat template and their fingerprint."""

import copy
import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.templates.rendering import TemplateFailed, TemplateTooCostly, render
from genrl_graph.seeds import digest

DATE = date(2026, 1, 1)
"""The day that chat templates write where they write one."""
_TODAY = {"date_string": DATE.strftime("%d %b %Y")}
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_ANSWER = "Zebra"
"""A message of a chat that is rendered to see what the template makes of it."""


class ChatFormat(Protocol):
    """The params of a policy that say how a chat becomes a prompt."""

    @property
    def chat_template(self) -> str | None:
        """The template in place of the tokenizer's."""

    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]:
        """Variables that the template reads."""

    @property
    def assistant_prefix(self) -> str:
        """The text with which every reply begins."""


class ChatTokens:
    """A tokenizer with a chat template; raises `DataError` if it has no chat template or no end token.

    `variables` are given to the template, and `prefix` is the text with which every reply begins: it ends the prompt.
    Raises `ParamError` for a variable that the template does not read. `fingerprint` is a digest of all of these: equal
    fingerprints give equal ids.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
        prefix: str = "",
        where: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.where = where
        self._variables, self._prefix = dict(variables), prefix
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        elif isinstance(tokenizer.chat_template, dict):  # several by name; the others are for tools or documents
            tokenizer.chat_template = tokenizer.chat_template.get("default")
        if not isinstance(tokenizer.chat_template, str):
            raise DataError(f"{where}: its tokenizer has no chat template; set the param chat_template")
        if tokenizer.eos_token_id is None:
            raise DataError(f"{where}: its tokenizer has no end token; use a model that has one")
        for name in self._variables:
            if not re.search(rf"\b{re.escape(name)}\b", tokenizer.chat_template):
                raise ParamError(f"{where}: its chat template reads no {name!r}; leave it out of chat_template_kwargs")
        self.fingerprint = _fingerprint(tokenizer, self._variables, prefix)
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        ordered = sorted({*special, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered)))

    @classmethod
    def of(cls, params: ChatFormat, tokenizer: Any, *, where: str) -> "ChatTokens":
        """Return the tokens of a policy with these params."""
        return cls(
            tokenizer,
            chat_template=params.chat_template,
            variables=params.chat_template_kwargs,
            prefix=params.assistant_prefix,
            where=where,
        )

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> "ChatTokens":
        """Return these tokens for chats whose template is given tools."""
        other = copy.copy(self)
        other._variables = {**self._variables, "tools": list(tools)}
        return other

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the token ids of a chat, up to the start of the completion, with the prefix of the reply.

        Template and prefix are tokenised as one text. A special token spelled out in a content stays text, because a
        zero-width space splits it: a quoted completion cannot end a message. Raises `ParamError` if the chat template
        refuses the messages.
        """
        ids: Any = self.tokenizer.encode(self.text(messages), add_special_tokens=False)
        return np.asarray(ids, dtype=np.int32)

    def text(self, messages: Sequence[Mapping[str, str]], *, prompting: bool = True) -> str:
        """Return the text of a chat, up to the start of the completion and with the prefix of the reply if `prompting`.

        Dates that a chat template writes are always `DATE`, so that a run that goes on later has the same prompts.
        Raises `ParamError` if the chat template refuses the messages.
        """
        try:
            text = self._filled(messages, reply=prompting)
        except TemplateFailed as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ParamError(f"{self.where}: its chat template refuses the roles {roles}: {error}") from error
        return text + self._prefix if prompting else text

    @cached_property
    def _dated_template(self) -> str:
        """The chat template with `DATE` for now; the tokenizer keeps the original, which is exported with a model."""
        template = str(self.tokenizer.chat_template)
        formats = {match[2]: DATE.strftime(match[2]) for match in _NOW.finditer(template)}
        if not formats:
            return template
        return (
            f"{{%- macro strftime_now(format) -%}}{{{{ {json.dumps(formats)}[format] }}}}{{%- endmacro -%}}{template}"
        )

    def _content(self, message: Mapping[str, str]) -> Any:
        """Return the content of a message as the template reads it: text, without special tokens."""
        return self._special.sub(lambda match: _split(match[0]), message["content"])

    def _filled(self, messages: Sequence[Mapping[str, str]], *, reply: bool) -> str:
        """Return the text that the template makes of a chat, with the beginning of a `reply`.

        Raises `TemplateFailed` if it fails, and `ParamError` if it exceeds a limit, which transformers does not have.
        """
        try:
            return _chat_text(
                self.tokenizer,
                [{"role": message["role"], "content": self._content(message)} for message in messages],
                add_generation_prompt=reply,
                variables={**_TODAY, **self._variables},
                template=self._dated_template,
            )
        except TemplateTooCostly as error:
            raise ParamError(f"{self.where}: its chat template: {error}") from error

    @property
    def end_of_turn(self) -> int:
        """The id with which the chat template ends an assistant's turn; the tokenizer's end token if it writes none."""
        return int(self.tokenizer.eos_token_id) if self._written_end is None else self._written_end

    @cached_property
    def _written_end(self) -> int | None:
        """The first token after an assistant's message that the tokenizer has by name; None if there is none."""
        text = self._try([{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}])
        _, answered, after = text.rpartition(_ANSWER)
        added = {str(token): int(id) for id, token in self.tokenizer.added_tokens_decoder.items()}
        written = re.search("|".join(map(re.escape, sorted(added, key=len, reverse=True))), after) if answered else None
        return added[written[0]] if written else None

    def _try(self, messages: Sequence[dict[str, str]]) -> str:
        """Return what the template makes of a chat, "" if it refuses its roles or wants other contents."""
        try:
            return self._filled(messages, reply=False)
        except TemplateFailed:
            return ""

    def notes(self) -> list[str]:
        """Return what a user of this chat template should know, one phrase each."""
        notes = []
        user = {"role": "user", "content": "a"}
        with_system = self._try([{"role": "system", "content": _ANSWER}, user])
        if with_system and _ANSWER not in with_system:
            notes.append(
                "its chat template leaves system messages out: what the param `system` of a node or a system message "
                "of a data set says is lost; write it into `template`, or set chat_template"
            )
        if self._written_end is None and self._try([user, {"role": "assistant", "content": _ANSWER}]):
            end = self.tokenizer.eos_token
            notes.append(
                f"its chat template ends the assistant's turns with no token, so completions may never end; set `stop` "
                f"of the generators, or a chat_template that ends them with {end}"
            )
        return notes

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a completion's text, then the end of turn if it `ended`.

        Special tokens spelled out in the text stay text.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return np.asarray([*ids, self.end_of_turn] if ended else ids, dtype=np.int32)

    def unknown_ids(self, vocab_size: int) -> frozenset[int]:
        """Return the ids below `vocab_size` that the tokenizer does not know, such as those of a padded embedding."""
        return frozenset() if len(self._known_ids) == vocab_size else frozenset(range(vocab_size)) - self._known_ids

    @cached_property
    def _known_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    def silent(self, ends: Collection[int]) -> frozenset[int]:
        """Return the ids that are no text: the end tokens `ends`, padding, and the token for unknown characters."""
        ids = {*ends, self.tokenizer.pad_token_id, self.tokenizer.unk_token_id}
        return frozenset(int(id) for id in ids if id is not None)

    def texts(self, rows: Sequence[Sequence[int]], *, ends: Collection[int]) -> list[str]:
        """Decode each row of ids without the end tokens `ends`, padding, and the token for unknown characters.

        Other special tokens, such as <think>, are text that rewards read.
        """
        silent = self.silent(ends)
        kept = [[id for id in row if id not in silent] for row in rows]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # about ten times as fast as its transformers wrapper
            return [str(backend.decode(row, skip_special_tokens=False)) for row in kept]
        return [str(self.tokenizer.decode(row, clean_up_tokenization_spaces=False)) for row in kept]


def chat_ids(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids of a chat, up to the start of the completion, as the tokenizer's `apply_chat_template` does.

    Raises `TemplateFailed` if the chat template fails, or exceeds a limit, which transformers does not have.
    """
    text = _chat_text(tokenizer, messages, add_generation_prompt=True, variables={})
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _chat_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
    template: str | None = None,
) -> str:
    values = {**variables, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
    return render("chat", template or tokenizer.chat_template, {**tokenizer.special_tokens_map, **values})


def _split(token: str) -> str:
    return token[0] + "\u200b" + token[1:]


def _fingerprint(tokenizer: Any, variables: Mapping[str, Any], prefix: str) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        for setting in ("truncation", "padding"):  # left over from the last call, not part of the vocabulary
            content.pop(setting, None)
    format = [json.dumps(variables, sort_keys=True), prefix] if variables or prefix else []
    return digest(("tokenizer", json.dumps(content, sort_keys=True), tokenizer.chat_template, *format))
