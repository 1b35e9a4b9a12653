"""Chats with tools for one tokenizer: its chat template tells of the tools, and TRL knows how its model calls them."""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.tool_chat import ToolCall, ToolChat, ToolSchema
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.turn_tokens import TurnTokens

INSTEAD = "set tool_format: json"


def tool_tokens(tokens: ChatTokens, tools: Sequence[ToolSchema], *, ends: Collection[int]) -> "ToolTokens | None":
    """Return chats with tools, None if the chat template takes none, or nobody knows how to read its calls."""
    template = str(tokens.tokenizer.chat_template)
    if not re.search(r"\btools\b", template):
        return None
    parser = _parser(tokens.tokenizer)
    return None if parser is None else ToolTokens(tokens.with_tools(tools), tools, parser, ends=ends)


def _parser(tokenizer: Any) -> Any:
    """Return a copy of the tokenizer that parses responses, None if TRL does not know its chat template."""
    if getattr(tokenizer, "response_template", None) is not None:
        return tokenizer
    from trl.chat_template_utils import add_response_schema

    try:
        return add_response_schema(copy.copy(tokenizer))
    except ValueError:
        return None


class ToolTokens(ToolChat):
    """Chats with tools, rendered and continued like those without; calls are read as TRL reads them."""

    def __init__(self, tokens: ChatTokens, tools: Sequence[ToolSchema], parser: Any, *, ends: Collection[int]) -> None:
        self._tokens, self._turns = tokens, TurnTokens(tokens, ends=ends)
        self._tools, self._parser, self._ends = list(tools), parser, frozenset(ends)

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the ids of a prompt, with the tools."""
        return self._tokens.render(messages)

    def extend(
        self, ids: NDArray[np.int32], messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> NDArray[np.int32]:
        """Return the ids of the next prompt: `ids` unchanged, then what the chat template adds."""
        return self._turns.extend(ids, messages, new)

    def prove_extend(self) -> None:
        """Raise `DataError` unless `extend` spells what the chat template spells, results of calls included."""
        self._turns.prove()
        try:
            self._turns.prove(role="tool")
        except DataError as error:
            raise DataError(f"{str(error).rpartition('; set ')[0]}, after a call of a tool; {INSTEAD}") from error

    def read(self, prompt_ids: NDArray[np.int32], completion_ids: NDArray[np.int32]) -> list[ToolCall]:
        """Return the calls in a completion; what begins like one and is none is malformed."""
        from trl.chat_template_utils import parse_response

        message = parse_response(self._parser, completion_ids.tolist(), prefix=prompt_ids.tolist(), tools=self._tools)
        calls = [_call(call.get("function", call)) for call in message.get("tool_calls") or ()]
        text = self._tokens.texts([completion_ids.tolist()], ends=self._ends)[0]
        if not calls and self._begins_call(text):
            return [ToolCall(problem="a call that cannot be read")]
        return calls

    def _begins_call(self, text: str) -> bool:
        fields = getattr(self._parser, "response_template", {}).get("fields", {})
        opening = fields.get("tool_calls", {})
        pattern = opening.get("open_pattern") or re.escape(opening.get("open") or "")
        return bool(pattern) and re.search(pattern, text) is not None


def _call(function: Mapping[str, Any]) -> ToolCall:
    name, arguments = function.get("name"), function.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return ToolCall(problem="a call without a name, or with arguments that are no object")
    return ToolCall(name, arguments)
