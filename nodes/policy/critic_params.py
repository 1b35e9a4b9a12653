"""Params of the critic of a language model, which estimates the return that is still to come at each token."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.contract.node import Node, Update
from genrl_graph.contract.policy import NO_CRITIC, Carried, TextPolicy


class CriticParams(ExactNumbers):
    """A critic: a linear value head that starts at 0, on the policy's own model or on a copy of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: bool = Field(
        default=True,
        description="true: a head on the last hidden states of the policy's model; false: a model of its own, copied "
        "from the policy's initial weights, with twice the memory and time of training",
    )
    detach: bool = Field(
        default=False,
        description="whether the value loss leaves the policy's model alone and trains the head only; serves head: "
        "true",
    )
    learning_rate_factor: float = Field(
        default=1.0, gt=0, description="learning rate of the critic's own weights, as a multiple of the update's"
    )

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.detach and not self.head:
            raise ValueError("detach serves head: true; a model of the critic's own would never learn")
        return self


CriticOption = Annotated[
    CriticParams | None,
    Field(description="critic for advantage.text_gae and update.text_ppo, such as {head: true}; null: none"),
]


def untrained_critic(critic: CriticParams | None, readers: Sequence[Node]) -> Iterable[str]:
    """Yield why a critic stays at 0: none of the nodes that read the policy trains it."""
    if critic is not None and not any(isinstance(reader, Update) and reader.trains_critic for reader in readers):
        yield "has a critic that nothing trains; update this policy with update.text_ppo, or remove params.critic"


def missing_critic(socket: str, behind: Mapping[str, Declared] | Mapping[str, Carried]) -> Iterable[str]:
    """Yield that the policy of an input has no critic: `behind` are the declared or the live values of inputs.

    A carry whose type has no param `critic` is told by its live value.
    """
    value = behind.get(socket)
    declared = "critic" in type(value).model_fields if isinstance(value, Declared) else False
    if (declared and getattr(value, "critic", None) is None) or (
        isinstance(value, TextPolicy) and not value.has_critic
    ):
        yield f"input {socket!r} reads a policy without a critic; {NO_CRITIC}"
