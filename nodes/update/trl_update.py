"""What updates through TRL's own trainers have in common: the params of their optimiser steps."""

from pydantic import Field, model_validator

from genrl_graph.nodes.update.cadence import PacedUpdate
from genrl_graph.nodes.update.schedules import Decay, rate_factor


class TrlUpdate(PacedUpdate):
    """An update whose loss and loop are those of a TRL trainer; weights, AdamW and its state stay the policy's."""

    learning_rate: float = Field(1e-5, gt=0)
    decay: Decay = "constant"
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0, description="optimiser steps after the warm-up until the rate is 0")
    epochs: int = Field(1, ge=1, description="passes over the rows of a round")
    batch_size: int = Field(16, ge=1, description="rows of an optimiser step, drawn anew in each epoch")
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of a micro-batch, padding included")
    max_grad_norm: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _check_decay(self) -> "TrlUpdate":
        if self.decay != "constant" and not self.decay_steps:
            raise ValueError(f"decay {self.decay!r} needs decay_steps > 0")
        return self

    def learning_rate_at(self, step: int) -> float:
        """The rate of the optimiser step number `step` of the policy, from 0."""
        factor = rate_factor(step, decay=self.decay, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        return self.learning_rate * factor
