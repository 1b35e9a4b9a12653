"""Base class of the updates that train an actor: params of their optimiser steps."""

from genrl_graph.nodes.update.steps.schedules import LearningRate, MaxGradNorm, ScheduledUpdate


class ActorUpdate(ScheduledUpdate):
    """Trains a policy network on steps of games."""

    learning_rate: LearningRate = 3e-4
    max_grad_norm: MaxGradNorm = 0.5
