"""Options of an evaluation, which plays held-out tasks with its own sampling and without updates."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Options of an evaluation; None keeps the node's own setting.

    `num_tasks` is per source, `num_generations` and `temperature` per generator; temperature 0 is greedy.
    """

    num_tasks: int | None = None
    num_generations: int | None = None
    temperature: float | None = None
