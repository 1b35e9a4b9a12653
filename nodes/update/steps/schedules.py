"""Learning-rate schedules: a factor on the peak rate as a function of the optimiser steps taken so far."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genrl_graph.nodes.update.steps.cadence import PacedUpdate

LearningRate = Annotated[float, Field(gt=0, description="peak learning rate, which the warm-up ends at")]
Decay = Annotated[
    Literal["constant", "linear", "cosine"],
    Field(description="learning rate after the warm-up: constant, or falling to 0 over decay_steps"),
]
WarmupSteps = Annotated[
    int, Field(ge=0, description="optimiser steps over which the learning rate rises linearly from 0; 0: none")
]
DecaySteps = Annotated[int, Field(ge=0, description="optimiser steps after the warm-up until the rate is 0")]
MaxGradNorm = Annotated[float, Field(gt=0, description="gradients with a larger norm are scaled down to this norm")]


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

    learning_rate: LearningRate = 1e-5
    decay: Decay = "constant"
    warmup_steps: WarmupSteps = 0
    decay_steps: DecaySteps = 0

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        if self.decay != "constant" and not self.decay_steps:
            raise ValueError(f"decay {self.decay!r} needs decay_steps > 0")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the policy's optimiser step `step`, counted from 0."""
        factor = rate_factor(step, decay=self.decay, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        return self.learning_rate * factor
