"""`policy.lora`: a LoRA adapter on a frozen pretrained model, which all adapters of a process share."""

from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.policy.causal_lm import CausalLM


class Lora(CausalLM, name="lora"):
    """A low-rank adapter (LoRA, arXiv 2106.09685) on a frozen pretrained causal language model.

    Policies with the same `model`, `revision`, `device` and `param_dtype` share one base in memory; each has its own
    adapter and optimiser. B starts at 0 and A is drawn from (run seed, carry name), so an untrained adapter equals the
    base: a carry without `next` is a reference policy that needs no second model. `target_modules` is all-linear (all
    but the output layer) or names of modules, such as [q_proj, v_proj].
    """

    r: int = Field(default=8, ge=1, description="rank of the adapter")
    alpha: float = Field(default=16.0, gt=0, description="scale: the product of A and B is multiplied by alpha / r")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear",
        min_length=1,
        description="modules that get an adapter: all-linear (all but the output layer), or names such as "
        "[q_proj, v_proj]",
    )

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Return a new adapter; loads the base at first use. Raises `ParamError` if a target is not a linear module."""
        from genrl_graph.nodes.policy.loading.adapter import adapted_policy

        return adapted_policy(name, self, seed=seed)
