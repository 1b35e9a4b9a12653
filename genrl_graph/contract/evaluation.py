"""How an evaluation differs from training: held-out tasks, other sampling, no updates."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What nodes are asked for in an evaluation; None leaves a choice to the node.

    `num_tasks` is per source, `num_generations` and `temperature` per generator; temperature 0 is greedy.
    """

    num_tasks: int | None = None
    num_generations: int | None = None
    temperature: float | None = None
