"""Loss of the GRPO family and its constants, checked by `update.grpo` without importing torch."""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from genrl_graph.errors import ParamError

LossType = Literal["grpo", "bnpo", "dapo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"]
Importance = Literal["token", "sequence"]
LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)
CLIPPED_LOSS_TYPES: tuple[LossType, ...] = ("grpo", "bnpo", "dapo", "dr_grpo", "luspo")

_SAPO_TEMPERATURES = ("sapo_temperature_pos", "sapo_temperature_neg")
_VESPO_LAMBDAS = ("vespo_lambda_pos", "vespo_lambda_neg")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """A loss of the GRPO family and its constants; invalid values raise `ParamError`.

    `epsilon_low`, `epsilon_high` and `delta` (the upper bound for negative advantages, arXiv 2505.07291) serve
    the clipped losses; `cispo_max_ratio` (a ratio, not a distance from 1), `sapo_*` and `vespo_*` the loss of
    that name. `beta` weighs the KL to a reference; `unbiased_kl` multiplies that KL by the importance ratio,
    which makes its gradient that of the reverse KL (arXiv 2512.02556). `off_policy_mask_threshold` drops sequences with
    a negative advantage that have moved further than this from the policy that sampled them (same paper).
    """

    loss_type: LossType = "dapo"
    importance: Importance = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    delta: float | None = None
    beta: float = 0.0
    unbiased_kl: bool = True
    off_policy_mask_threshold: float | None = None
    cispo_max_ratio: float = 5.0
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0

    def __post_init__(self) -> None:
        _one_of("loss_type", self.loss_type, LOSS_TYPES)
        _one_of("importance", self.importance, get_args(Importance))
        _in_range("epsilon_low", self.epsilon_low, 0.0, 1.0)
        for name in ("epsilon_high", "beta", "vespo_k_pos", "vespo_k_neg"):
            _in_range(name, getattr(self, name), 0.0, math.inf)
        for name in ("cispo_max_ratio", *_SAPO_TEMPERATURES, *_VESPO_LAMBDAS):
            _positive(name, getattr(self, name))
        if self.off_policy_mask_threshold is not None:
            _in_range("off_policy_mask_threshold", self.off_policy_mask_threshold, 0.0, math.inf)
        self._check_delta()
        self._check_importance()

    def _check_delta(self) -> None:
        if self.delta is None:
            return
        if self.loss_type not in CLIPPED_LOSS_TYPES:
            known = ", ".join(CLIPPED_LOSS_TYPES)
            raise ParamError(f"delta: {self.delta!r} has no effect on {self.loss_type!r}; it serves {known}")
        if not 1.0 + self.epsilon_high < self.delta < math.inf:
            bound = f"1 + epsilon_high = {1.0 + self.epsilon_high:g}"
            raise ParamError(f"delta: {self.delta!r} must be finite and above {bound}")

    def _check_importance(self) -> None:
        needed = {"luspo": "sequence", "vespo": "token"}.get(self.loss_type, self.importance)
        if self.importance != needed:
            raise ParamError(
                f"importance: {self.loss_type!r} is not defined for {self.importance!r}; set it to {needed!r}"
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ParamError(f"{name}: {value!r} is not known{hint}; use one of {', '.join(known)}")


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise ParamError(f"{name}: {value!r} must be a finite number from {low:g} to {high:g}")


def _positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ParamError(f"{name}: {value!r} must be a finite number above 0")
