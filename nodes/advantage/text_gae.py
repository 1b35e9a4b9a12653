"""`advantage.text_gae`: generalised advantage estimation along the tokens of completions, or the turns of episodes."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import TypeVar

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Advantage
from genrl_graph.contract.policy import Carried, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored, TokenValued
from genrl_graph.nodes.policy.critic_params import missing_critic

T = TypeVar("T", bound=Rollouts, default=Rollouts)


class TextGae(Advantage, name="text_gae"):
    """Generalised advantage estimation (arXiv 1506.02438) with the critic of a language model's policy.

    With `over: token` every sampled token is a step, and the reward of a completion comes with its last token. The
    turns of a seat in an episode are one trajectory, across all that it heard in between. With `over: turn` every turn
    or completion is a step, from the critic's value before its first token; all of its tokens get its advantage.

    A target is advantage + value. The end of a completion, or of an episode, has no value; a truncated episode adds the
    critic's value of its last turn as a whole. Rows get NaN that have no finite reward, that another tokenizer made or
    that do not fit the policy, and all turns of an episode that failed, is not whole, or has such a row.
    """

    over: Literal["token", "turn"] = Field(default="token", description="a step: each sampled token, or each turn")
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount of a step")
    lam: float = Field(default=0.95, ge=0, le=1, description="0 trusts the critic, 1 the rewards")
    on_length: Literal["end", "bootstrap"] = Field(
        default="end",
        description="a completion, not a turn, that the length limit cut: its reward is all it gets (end), or the "
        "critic's value of it is added (bootstrap)",
    )
    max_batch_tokens: int = Field(default=16384, ge=1, description="tokens that the critic reads at once")

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Report a policy without a critic."""
        return missing_critic("critic", parts)

    def check_carries(self, carries: Mapping[str, Carried]) -> Iterable[str]:
        """Report a loaded policy without a critic."""
        return missing_critic("critic", carries)

    def run(self, scored: Scored[T], critic: TextPolicy, *, log: Log) -> TokenValued[T]:
        """Add values, advantages and targets to the tokens of rows, and the mean of its tokens as row `advantage`.

        Inputs:
            scored: completions or turns with their rewards, in whole episodes
            critic: policy whose critic values them
        """
        from genrl_graph.nodes.advantage.token_values import with_token_values

        return with_token_values(self, scored, critic, log=log)
