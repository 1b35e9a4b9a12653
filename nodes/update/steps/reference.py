"""The KL to a reference policy: its weight, and the wiring that it needs."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from genrl_graph.contract.node import Wire

KlWeight = Annotated[float, Field(ge=0, description="weight of the KL to the policy wired as `reference`")]


def check_reference(beta: float, inputs: Mapping[str, Wire]) -> Iterator[str]:
    """Yield a problem for a KL weight without a reference policy, and for a reference without a KL weight."""
    if beta > 0 and "reference" not in inputs:
        yield f"beta is {beta:g}, but no `reference` is wired; wire a frozen policy or set beta to 0"
    if beta == 0 and "reference" in inputs:
        yield "`reference` is wired, but beta is 0, so it is never used; set beta or remove it"
