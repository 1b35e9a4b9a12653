"""Base class of generators that sample text from a language model: the params of the sampling."""

from typing import Annotated

from pydantic import Field

from genrl_graph.contract.node import Generator
from genrl_graph.contract.origins import Alike
from genrl_graph.contract.policy import Sampling, TextPolicy
from genrl_graph.errors import ParamError


class TextGenerator(Generator):
    """Samples completions from a language model.

    `repetition_penalty`, `temperature`, `top_k`, `top_p` and `min_p` apply in this order, as in transformers. Log-probs
    are of the distribution that they leave, in sampling and in updates alike.
    """

    max_new_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a completion; at that length it is truncated (finish reason length)",
    )
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature; 0 is greedy")
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="nucleus sampling (arXiv 1904.09751): the likeliest tokens of this total probability; 1 keeps all",
    )
    top_k: int = Field(default=0, ge=0, description="sample only from so many of the likeliest tokens; 0 keeps all")
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least probability of a token, as a share of the likeliest one's (arXiv 2407.01082); 0 keeps all",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        description="above 1, tokens that the prompt or the completion has already get less likely (arXiv 1909.05858)",
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="texts that end a completion; the token that completes one is its last (finish reason stop)",
    )
    max_batch_tokens: int = Field(
        default=16384, ge=1, description="most tokens of a sampling batch, rows times the longest; bounds its memory"
    )

    def untrainable(self) -> Alike | None:
        """Return the param that leaves one token, which is certain whatever the weights are."""
        certain = self.top_k == 1 and self.temperature > 0
        return Alike("certain tokens", "top_k", 1, "to 0") if certain else None

    @property
    def _sampling(self) -> Sampling:
        return Sampling(
            self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=self.stop,
        )

    def _room(self, policy: TextPolicy) -> int:
        """Return the most tokens of a prompt; raises `ParamError` where `max_new_tokens` leaves none."""
        room = policy.context_length - self.max_new_tokens
        if room < 1:
            raise ParamError(
                f"{self.place.node}.max_new_tokens: {self.max_new_tokens} leave no room for a prompt in the "
                f"{policy.context_length} tokens of policy {policy.name!r}"
            )
        return room
