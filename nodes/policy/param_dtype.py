"""Params of the precision of a policy's weights, and what goes together."""

from typing import Annotated, Literal

from pydantic import Field

ParamDtype = Annotated[
    Literal["float32", "bfloat16"],
    Field(description="precision of the weights that forward and backward passes read; bfloat16 computes in bfloat16"),
]
MasterWeights = Annotated[
    bool,
    Field(
        description="whether the optimiser of bfloat16 weights has float32 ones, which they round; false: it has none, "
        "and rounds each step stochastically"
    ),
]


def check_precision(*, param_dtype: str, compute_dtype: str, master_weights: bool) -> None:
    """Raise `ValueError` for params of precision that contradict each other."""
    if param_dtype == "bfloat16" and compute_dtype == "float32":
        raise ValueError("param_dtype bfloat16 computes in bfloat16; set compute_dtype to bfloat16, too")
    if param_dtype == "float32" and not master_weights:
        raise ValueError("master_weights serves param_dtype: bfloat16; float32 weights have none, leave it out")
