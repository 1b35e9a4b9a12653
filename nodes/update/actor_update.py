"""What updates of policies that act have in common: the params of their optimiser steps."""

from pydantic import Field, model_validator

from genrl_graph.nodes.update.cadence import PacedUpdate
from genrl_graph.nodes.update.schedules import Decay, rate_factor


class ActorUpdate(PacedUpdate):
    """Trains a network on steps of games."""

    learning_rate: float = Field(3e-4, gt=0)
    decay: Decay = "constant"
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0, description="optimiser steps after the warm-up until the rate is 0")
    max_grad_norm: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _check_decay(self) -> "ActorUpdate":
        if self.decay != "constant" and not self.decay_steps:
            raise ValueError(f"decay {self.decay!r} needs decay_steps > 0")
        return self

    def learning_rate_at(self, step: int) -> float:
        """The rate of the optimiser step number `step` of the policy, from 0."""
        factor = rate_factor(step, decay=self.decay, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        return self.learning_rate * factor
