"""Learning-rate schedules: a factor on the peak rate, a function of the optimiser steps taken so far."""

import math
from typing import Literal

Decay = Literal["constant", "linear", "cosine"]


def rate_factor(step: int, *, decay: Decay, warmup_steps: int, decay_steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then 1, or a decay to 0 over the `decay_steps` that follow."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "constant":
        return 1.0
    passed = min((step - warmup_steps) / max(decay_steps, 1), 1.0)
    return 1.0 - passed if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
