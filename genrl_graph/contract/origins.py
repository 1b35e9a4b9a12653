"""The generators whose rows reach an input of a node, as the check of a graph passes them to `Node.check_origins`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genrl_graph.contract.node import Generator, PolicyCarry

Per = Literal["prompt", "task", "seat"]
"""Rows are compared within a prompt, a task, or a seat of the episodes of a task."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Why rows teach nothing: what a generator samples, by which param, and what to set it to."""

    sampled: str
    param: str
    value: float
    instead: str


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """A generator whose rows reach an input, through rewards, selects, advantages and exchanges.

    `from_peers`: rows that other peers sampled at this node come with them; `own`: so do those of this peer. `policy`
    is the carry of the policy that samples them, if it is known. `quotes` names the generators whose rows its prompts
    may quote.
    """

    name: str
    generator: "Generator" = field(compare=False)
    from_peers: bool = False
    own: bool = True
    policy: "PolicyCarry | None" = field(default=None, compare=False)
    quotes: tuple[str, ...] = field(default=(), compare=False)

    def untrainable(self) -> str:
        """Return why no update can learn from these rows, and what to set; empty if one can."""
        if self.policy is not None and self.policy.untrainable:
            return f"the rows of {self.name!r} are those of {self.policy.type_name}, {self.policy.untrainable}"
        alike = self.generator.untrainable()
        return self._reason(alike) if alike is not None else ""

    def alike(self, per: Per) -> str:
        """Return why all rows of one `per` are alike, and which param to set; empty if they may differ."""
        alike = self.generator.alike(per)
        return self._reason(alike, f" for each {per}") if alike is not None else ""

    def _reason(self, alike: Alike, scope: str = "") -> str:
        reason = f"{self.name!r} samples {alike.sampled}{scope} ({alike.param} is {alike.value:g})"
        return f"{reason}; set nodes.{self.name}.params.{alike.param} {alike.instead}"
