"""Group baselines shared by the advantage nodes: subtract the mean, divide by a standard deviation."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.node import Advantage
from genrl_graph.contract.resources import Log

Floats = NDArray[np.float64]

STD_EPSILON = 1e-4  # as in TRL


class BaselineAdvantage(Advantage):
    """Value minus the mean value of the group, divided by a standard deviation.

    The standard deviation is that of a sample, plus 1e-4. NaN and infinite values are excluded from every mean and get
    NaN; a zero-variance group, or a group of one row, gets exactly 0.
    """

    scale: Literal["group", "batch", "none"] = Field(
        default="group",
        description="divide by the standard deviation of the group (arXiv 2402.03300), of all rows "
        "(batch, arXiv 2508.08221), or not at all (Dr. GRPO, arXiv 2503.20783)",
    )
    leave_one_out: bool = Field(
        default=False,
        description="subtract the mean of the group's other rows instead of the group's mean (RLOO, arXiv 2402.14740)",
    )

    def group_advantages(self, groups: NDArray[np.int64], values: Floats, *, log: Log) -> Floats:
        """Return the advantages of `values` [rows], grouped by `groups` [rows]; log the number of groups that vary."""
        finite = np.isfinite(values)
        advantage = np.full(len(values), np.nan)
        codes = np.unique(groups[finite], return_inverse=True)[1]
        varied = _groups_with_variance(values[finite], codes)
        advantage[finite] = self._scaled(values[finite], codes, varied)
        log.metric("groups", len(varied))
        log.metric("groups_with_variance", varied.sum())
        if len(varied):
            log.metric("zero_variance", 1.0 - varied.mean())
        return advantage

    def _scaled(self, values: Floats, codes: NDArray[np.intp], varied: NDArray[np.bool_]) -> Floats:
        count = np.bincount(codes)
        others = np.maximum(count - 1, 1)
        centred = values - (np.bincount(codes, weights=values) / count)[codes]
        advantage = centred * (count / others)[codes] if self.leave_one_out else centred
        if self.scale == "group":
            deviation = np.sqrt(np.bincount(codes, weights=centred**2) / others)
            advantage = advantage / (deviation[codes] + STD_EPSILON)
        elif self.scale == "batch" and len(values) > 1:
            advantage = advantage / (values.std(ddof=1) + STD_EPSILON)
        # exactly 0: the mean of equal numbers may differ from them by rounding
        result: Floats = np.where(varied[codes], advantage, 0.0)
        return result


def log_mean(log: Log, name: str, values: Floats) -> None:
    """Log the mean of the finite values as a metric; log nothing if there are none."""
    finite = values[np.isfinite(values)]
    if len(finite):
        log.metric(name, finite.mean())


def _groups_with_variance(values: Floats, codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return, per group, True if its values differ."""
    groups = int(codes.max()) + 1 if len(codes) else 0
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, codes, values)
    np.maximum.at(high, codes, values)
    return high > low
