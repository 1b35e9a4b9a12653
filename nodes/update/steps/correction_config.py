"""Importance correction between the sampler and the trainer: its params, checked without importing torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.steps.loss_config import Importance

Method = Literal["none", "tis", "mis", "icepop"]

ImportanceCorrection = Annotated[
    Method,
    Field(
        description="correction of the gap between the log-probs of sampler and trainer: tis truncates importance "
        "weights (doi:10.1198/106186008X320456), mis rejects sequences and icepop tokens (arXiv 2510.18855) whose "
        "weight is out of bounds"
    ),
]
CorrectionLevel = Annotated[
    Importance | None,
    Field(description="importance weights per token or per sequence; null: sequence for mis, else token"),
]
CorrectionLow = Annotated[
    float | None,
    Field(description="lower bound of the weights, from 0 to 1; null: 0.5 for icepop, else 0"),
]
CorrectionHigh = Annotated[
    float | None,
    Field(description="upper bound of the weights, at least 1; null: 5 for icepop, else 2"),
]
MaxLogRatio = Annotated[
    float,
    Field(
        gt=0,
        description="mean difference between the log-probs of sampler and trainer above which the run warns, in nats a "
        "token",
    ),
]

_LOW: Mapping[Method, float] = {"none": 0.0, "tis": 0.0, "mis": 0.0, "icepop": 0.5}
_HIGH: Mapping[Method, float] = {"none": math.inf, "tis": 2.0, "mis": 2.0, "icepop": 5.0}


@dataclass(frozen=True, slots=True)
class Correction:
    """An importance correction: weights w = p_trainer / p_sampler of tokens or sequences, and their bounds.

    tis clamps the weights to the bounds. mis and icepop leave what is out of bounds out of the loss and its means, and
    weigh the rest by w.
    """

    method: Method
    level: Importance
    low: float
    high: float

    @classmethod
    def of(cls, method: Method, level: Importance | None, low: float | None, high: float | None) -> "Correction":
        """Fill in the defaults of the method; raises `ParamError` for bounds without a method or out of range."""
        given = {"correction_level": level, "correction_low": low, "correction_high": high}
        for name, value in given.items():
            if value is not None and method == "none":
                raise ParamError(f"{name}: {value!r} has no effect; set importance_correction to tis, mis or icepop")
        low, high = _LOW[method] if low is None else low, _HIGH[method] if high is None else high
        if not 0.0 <= low <= 1.0:
            raise ParamError(f"correction_low: {low!r} must be a number from 0 to 1; weights without a gap are 1")
        if not high >= 1.0:
            raise ParamError(f"correction_high: {high!r} must be a number from 1; weights without a gap are 1")
        return cls(method, level or ("sequence" if method == "mis" else "token"), low, high)

    @property
    def active(self) -> bool:
        """True if there is a correction at all."""
        return self.method != "none"

    @property
    def rejects(self) -> bool:
        """True if tokens or sequences out of bounds leave the loss."""
        return self.method in ("mis", "icepop")
