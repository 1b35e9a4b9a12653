"""Optimiser steps of actors and the means of their metrics (imports torch)."""

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from genrl_graph.contract.resources import Log
from genrl_graph.nodes.policy.actors.acting import TrainedActor
from genrl_graph.nodes.update.steps.actor_update import ActorUpdate


class StepMeans:
    """Takes the optimiser steps of one run of an update, counts them and averages their metrics."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self.steps = 0

    def take(self, node: ActorUpdate, policy: TrainedActor, loss: Tensor, measures: Mapping[str, Tensor]) -> None:
        """Take one optimiser step on `loss`; add the loss, the gradient norm and `measures` to the means."""
        policy.backward(loss)
        norm = policy.step(learning_rate=node.learning_rate_at(policy.version), max_grad_norm=node.max_grad_norm)
        self.steps += 1
        self._sums["grad_norm"] += norm
        for name, value in {"loss": loss, **measures}.items():
            self._sums[name] += float(value.detach())

    def report(self, node: ActorUpdate, policy: TrainedActor, log: Log) -> None:
        """Log the means, the number of optimiser steps and the last learning rate."""
        for name, total in self._sums.items():
            log.metric(name, total / self.steps)
        log.metric("optimiser_steps", self.steps)
        log.metric("learning_rate", node.learning_rate_at(max(policy.version - 1, 0)))
