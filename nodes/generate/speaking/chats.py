"""The chat of one seat: what it heard and said, and the token ids that its policy reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.policy import Completion, TextPolicy
from genrl_graph.nodes.generate.prompting.examples import Example, example_messages
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, fill
from genrl_graph.nodes.generate.speaking.toolbox import Toolbox

History = Annotated[
    Literal["sampled", "template", "none"],
    Field(
        description="what a turn's prompt holds of earlier turns: their tokens as they were sampled, the whole chat as "
        "the chat template writes it anew (it may drop thoughts), or none"
    ),
]
SHOWN = ("heard", "legal", "seat", "turn")
"""Variables of the templates of a dialogue, besides `task`."""

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Wording:
    """Templates that put what a seat hears into its chat, examples before it, and what a prompt holds of past turns."""

    system: str
    examples: tuple[Example, ...]
    template: str
    history: History
    where: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompt of one turn: the messages as rendered, and their ids."""

    messages: Messages
    ids: NDArray[np.int32]


@dataclass(slots=True)
class Chat:
    """The chat of a seat: all messages so far, and the ids of the last prompt and its completion.

    Without a policy prompts have messages, but no ids. A seat with tools is told of them at the beginning.
    """

    policy: TextPolicy | None
    wording: Wording
    task: AskedTask
    tools: Toolbox | None = None
    messages: Messages = field(default_factory=list)
    ids: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    turns: int = 0

    def ask(
        self, seat: int, heard: Sequence[dict[str, str]], legal: Sequence[str] | None, *, results: bool = False
    ) -> Asked:
        """Add what the seat heard, or the `results` of its calls, and return the prompt of its next turn.

        Raises `ParamError` if a template fails, or the chat template refuses the messages.
        """
        wording = self.wording
        shown: dict[str, Any] = {"heard": list(heard), "legal": legal and list(legal), "seat": seat, "turn": self.turns}
        if results and self.tools is not None and self.tools.chat is not None:
            new: Messages = [{"role": "tool", "content": message["content"]} for message in heard]
        else:
            new = [{"role": "user", "content": fill(wording.template, self.task, shown, where=wording.where)}]
        begins = not self.messages or wording.history == "none"
        if begins:
            system = self._system(shown)
            opening = [{"role": "system", "content": system}] * bool(system)
            new = [*opening, *example_messages(wording.examples), *new]
        messages = new if begins else [*self.messages, *new]
        ids = self._ids(messages, new, begins=begins)
        self.messages = messages
        return Asked(messages, ids)

    def _ids(self, messages: Messages, new: Messages, *, begins: bool) -> NDArray[np.int32]:
        if self.policy is None:
            return self.ids
        own = self.tools.chat if self.tools is not None else None
        if begins or self.wording.history == "template":
            return (own or self.policy).render(messages)
        return (own or self.policy).extend(self.ids, self.messages, new)

    def _system(self, shown: Mapping[str, Any]) -> str:
        parts = [fill(self.wording.system, self.task, shown, where=self.wording.where)]
        parts += [self.tools.told(self.task)] if self.tools is not None else []
        return "\n\n".join(part for part in parts if part)

    def answer(self, asked: Asked, completion: Completion) -> None:
        """Add the completion of a turn."""
        self.messages = [*asked.messages, {"role": "assistant", "content": completion.text}]
        if self.policy is not None:
            self.ids = np.concatenate([asked.ids, completion.ids]).astype(np.int32)
        self.turns += 1
