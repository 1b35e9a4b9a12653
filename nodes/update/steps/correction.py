"""Importance weights between the log-probs of trainer and sampler, and measures of their gap (imports torch)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph.nodes.update.steps.correction_config import Correction
from genrl_graph.nodes.update.steps.loss_config import Importance

MOST_LOG_WEIGHT = 20.0
"""Largest log of a weight of either sign: exp(20) drowns every other weight."""


def importance_weights(log_ratio: Tensor, mask: Tensor, *, level: Importance) -> Tensor:
    """Return p_trainer / p_sampler of each token [B, T], or of each sequence, their product, [B, 1].

    `log_ratio` [B, T] is the trainer's log-prob minus the sampler's. Where it is not finite, as the sampler gave no
    log-prob, the weight is 1.
    """
    known = torch.where(mask & log_ratio.isfinite(), log_ratio, 0.0)
    total = known if level == "token" else known.sum(-1, keepdim=True)
    return total.clamp(-MOST_LOG_WEIGHT, MOST_LOG_WEIGHT).exp()


def kept(log_ratio: Tensor, mask: Tensor, correction: Correction) -> Tensor:
    """Return the part of the mask [B, T] that a rejecting correction keeps: weights within the bounds."""
    weights = importance_weights(log_ratio, mask, level=correction.level)
    return mask & (weights >= correction.low) & (weights <= correction.high)


def correction_weights(log_ratio: Tensor, mask: Tensor, correction: Correction) -> Tensor:
    """Return the factors [B, T] or [B, 1] of the loss of tokens, clamped to the bounds.

    What a rejecting correction keeps is within the bounds. A sequence's weight is the product over all of its tokens,
    so `mask` holds also those that are not trained on.
    """
    return importance_weights(log_ratio, mask, level=correction.level).clamp(correction.low, correction.high)


@dataclass(slots=True)
class SamplerGap:
    """The gap between the log-probs of trainer and sampler, over the tokens of rows that the same weights sampled."""

    level: Importance
    tokens: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    _log_weights: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, logprobs: NDArray[np.float32], sampled: NDArray[np.float32], mask: NDArray[np.int8]) -> None:
        """Add one row: the log-probs of trainer and sampler, and the mask of its tokens, each of shape (tokens,)."""
        gap = (logprobs.astype(np.float64) - sampled)[mask > 0]
        gap = gap[np.isfinite(gap)]
        if not len(gap):
            return
        self.tokens += len(gap)
        self.absolute += float(np.abs(gap).sum())
        self.largest = max(self.largest, float(np.abs(gap).max()))
        self._log_weights.append(gap if self.level == "token" else gap.sum(keepdims=True))

    def metrics(self) -> dict[str, float]:
        """Return mean and largest absolute log-ratio in nats a token, and the effective sample size; {} without rows.

        The effective sample size (Kish) is (sum w)^2 / (n sum w^2) over the weights w of tokens or sequences: 1 without
        a gap, 1 / n if one weight drowns all others.
        """
        if not self.tokens:
            return {}
        logs = np.concatenate(self._log_weights).clip(-MOST_LOG_WEIGHT, MOST_LOG_WEIGHT)
        weights = np.exp(logs - logs.max())
        size = float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
        return {
            "log_ratio_mean": self.absolute / self.tokens,
            "log_ratio_max": self.largest,
            "effective_sample_size": min(size, 1.0),
        }
