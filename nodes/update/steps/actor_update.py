"""Base class of the updates that train an actor: params of their optimiser steps."""

from pydantic import Field

from genrl_graph.nodes.update.steps.schedules import ScheduledUpdate


class ActorUpdate(ScheduledUpdate):
    """Trains a policy network on steps of games."""

    learning_rate: float = Field(3e-4, gt=0)
    max_grad_norm: float = Field(0.5, gt=0)
