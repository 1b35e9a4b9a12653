"""Base class of the updates that use TRL's trainers: params of their optimiser steps."""

from pydantic import Field

from genrl_graph.nodes.update.steps.schedules import MaxGradNorm, ScheduledUpdate
from genrl_graph.nodes.update.steps.truncated import MaskTruncated


class TrlUpdate(ScheduledUpdate):
    """An update whose loss and loop are a TRL trainer's; weights, optimiser and its state belong to the policy."""

    wants_whole_policy = True

    epochs: int = Field(default=1, ge=1, description="passes over the rows of a round")
    batch_size: int = Field(default=16, ge=1, description="rows per optimiser step, reshuffled in each epoch")
    max_batch_tokens: int = Field(default=8192, ge=1, description="tokens of a micro-batch, padding included")
    max_grad_norm: MaxGradNorm = 1.0
    mask_truncated: MaskTruncated = False
