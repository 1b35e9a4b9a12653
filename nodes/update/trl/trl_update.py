"""What updates through TRL's own trainers have in common: the params of their optimiser steps."""

from pydantic import Field

from genrl_graph.nodes.update.steps.schedules import ScheduledUpdate


class TrlUpdate(ScheduledUpdate):
    """An update whose loss and loop are those of a TRL trainer; weights, AdamW and its state stay the policy's."""

    epochs: int = Field(1, ge=1, description="passes over the rows of a round")
    batch_size: int = Field(16, ge=1, description="rows of an optimiser step, drawn anew in each epoch")
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of a micro-batch, padding included")
    max_grad_norm: float = Field(1.0, gt=0)
