"""Learning-rate schedules: a factor on the peak rate as a function of the optimiser steps taken so far."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from genrl_graph.nodes.update.steps.cadence import PacedUpdate

Decay = Literal["constant", "linear", "cosine"]


def rate_factor(step: int, *, decay: Decay, warmup_steps: int, decay_steps: int) -> float:
    """Return the factor: linear warm-up over `warmup_steps`, then 1 or a decay to 0 over the next `decay_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "constant":
        return 1.0
    progress = min((step - warmup_steps) / max(decay_steps, 1), 1.0)
    return 1.0 - progress if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


class ScheduledUpdate(PacedUpdate):
    """An update whose optimiser steps follow a learning-rate schedule."""

    learning_rate: float = Field(1e-5, gt=0)
    decay: Decay = "constant"
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0, description="optimiser steps after the warm-up until the rate is 0")

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        if self.decay != "constant" and not self.decay_steps:
            raise ValueError(f"decay {self.decay!r} needs decay_steps > 0")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the policy's optimiser step `step`, counted from 0."""
        factor = rate_factor(step, decay=self.decay, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        return self.learning_rate * factor
