"""Few-shot examples: exchanges that stand in a chat before what the policy is asked."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Example(BaseModel):
    """A few-shot example: one user message and one assistant message before the question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(description="the user's message")
    assistant: str = Field(description="the reply that the policy is to imitate")


Examples = Annotated[
    tuple[Example, ...],
    Field(description="few-shot examples, put after the system message and before all others of a chat"),
]


def example_messages(examples: Iterable[Example]) -> list[dict[str, str]]:
    """Return the messages of examples, in order."""
    pairs = [(("user", one.user), ("assistant", one.assistant)) for one in examples]
    return [{"role": role, "content": content} for pair in pairs for role, content in pair]
