"""Chats with tools in the own format of a policy: how tools are told, and how calls are read from its completions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ToolSchema = Mapping[str, Any]
"""A function as models are told of it: `{"type": "function", "function": {name, description, parameters}}`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call in a completion; `problem` says what is wrong with one that cannot be read."""

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


class ToolChat(ABC):
    """Renders and continues chats of a policy whose chat template tells of tools, and reads its calls."""

    @abstractmethod
    def render(self, messages: Sequence[dict[str, str]]) -> "NDArray[np.int32]":
        """Return the ids of a prompt, with the tools; results of calls are messages of the role `tool`."""

    @abstractmethod
    def extend(
        self, ids: "NDArray[np.int32]", messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> "NDArray[np.int32]":
        """Return the ids of the next prompt, as `TextPolicy.extend` does; `new` may be results of calls."""

    @abstractmethod
    def prove_extend(self) -> None:
        """Raise `DataError` unless `extend` spells what the chat template spells, results of calls included."""

    @abstractmethod
    def read(self, prompt_ids: "NDArray[np.int32]", completion_ids: "NDArray[np.int32]") -> list[ToolCall]:
        """Return the calls in a completion, in order; a malformed one has a `problem`."""
