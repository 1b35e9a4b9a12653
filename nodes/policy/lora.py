"""`policy.lora`: an adapter on a frozen pretrained model; all adapters of a process share one copy of it."""

from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.policy.causal_lm import CausalLM


class Lora(CausalLM, name="lora"):
    """A low-rank adapter (arXiv 2106.09685) on a pretrained causal language model that stays as it is.

    Policies with the same `model`, `revision` and `device` share one base in memory; each has its own adapter and
    optimiser. B starts as 0 and A from (run seed, carry name), so an untrained adapter is the base itself: without
    `next` it is a reference that costs no second model. `target_modules` is all-linear (all but the output layer) or
    names of modules, such as [q_proj, v_proj].
    """

    r: int = Field(default=8, ge=1, description="rank of the adapter")
    alpha: float = Field(default=16.0, gt=0, description="the product of A and B is scaled by alpha / r")
    target_modules: str | tuple[str, ...] = Field(default="all-linear", min_length=1)

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """A fresh adapter on the base, which is loaded once; raises `ParamError` where a target is no linear module."""
        from genrl_graph.nodes.policy.loading.adapter import adapted_policy

        return adapted_policy(name, self, seed=seed)
