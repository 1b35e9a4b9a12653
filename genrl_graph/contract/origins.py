"""The generators whose rows reach an input of a node, as the check of a graph passes them to `Node.check_origins`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genrl_graph.contract.node import Generator

Per = Literal["prompt", "task", "seat"]
"""Rows are compared within a prompt, a task, or a seat of the episodes of a task."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Why all rows of a prompt or task are alike: what a generator samples, by which param, and what to set it to."""

    sampled: str
    param: str
    value: float
    instead: str


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """A generator whose rows reach an input, through rewards, selects, advantages and exchanges.

    `from_peers`: rows that other peers sampled at this node come with them; `own`: so do those of this peer.
    """

    name: str
    generator: "Generator" = field(compare=False)
    from_peers: bool = False
    own: bool = True

    def alike(self, per: Per) -> str:
        """Return why all rows of one `per` are alike, and which param to set; empty if they may differ."""
        alike = self.generator.alike(per)
        if alike is None:
            return ""
        reason = f"{self.name!r} samples {alike.sampled} for each {per} ({alike.param} is {alike.value:g})"
        return f"{reason}; set nodes.{self.name}.params.{alike.param} {alike.instead}"
