"""Params that hold any values that a graph file can write, such as the keyword arguments of something else."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator


def _writable(values: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"no value of a graph file: {error}") from error
    return values


GraphValues = Annotated[dict[str, Any], AfterValidator(_writable)]
"""Values by name; those that no graph file can write are refused."""
