"""Policy losses as pure functions of log-probs, old log-probs, reference log-probs, advantages and a mask.

A loss is a row of one table (`LOSSES`) with three independent parts:

    bounds      range of the importance ratio
    objective   objective of one token, to be maximised
    weight      weight of one token of a row in the sum

| loss    | bounds  | objective | weight           | paper (arXiv)                                       |
| grpo    | clip    | surrogate | 1 / (|o| N)      | 2402.03300; with importance "sequence" 2507.18071   |
| bnpo    | clip    | surrogate | 1 / tokens       | none; TRL's name for token means over one batch     |
| dapo    | clip    | surrogate | 1 / tokens       | 2503.14476                                          |
| dr_grpo | clip    | surrogate | 1 / (N budget)   | 2503.20783                                          |
| luspo   | clip    | surrogate | 1 / N            | 2602.05261; importance "sequence" only              |
| cispo   | cap     | log-prob  | 1 / tokens       | 2506.13585, without a lower bound 2510.13786        |
| sapo    | none    | soft gate | 1 / (|o| N)      | 2511.20347                                          |
| vespo   | none    | gamma     | 1 / tokens       | 2602.10693; importance "token" only                 |

Weights divide by the totals of the whole optimiser step (N sequences, their tokens, the token budget), never
by those of a micro-batch. The losses and gradients of the micro-batches therefore add up to those of one large
batch, and `bnpo`, whose batch is then the whole step, equals `dapo`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.steps.loss_config import Importance, LossConfig, LossType

# exp(20) = 4.9e8 drowns every other token of a step; beyond it exp overflows and its gradient becomes NaN
MAX_LOG_RATIO = 20.0
VESPO_MIN_LOG_RATIO = math.log(1e-8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of one optimiser step over all its micro-batches; the weights divide by them.

    `max_completion_tokens` is the generation budget of a completion, not the length of the longest one. `targets` are
    the places at which a critic learns.
    """

    sequences: int
    tokens: int
    max_completion_tokens: int
    targets: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            assert value > 0, f"Totals.{field.name}: {value} is not positive; skip a step without tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Metrics summed over completion tokens; sums of micro-batches add up with `+`.

    With importance "sequence" every token of a sequence has the sequence's ratio. A token is clipped if a bound stops
    or caps its gradient. `kl` is the k3 estimate in nats, 0 without a reference. `off_policy_rows` counts sequences
    that `off_policy_mask_threshold` dropped.
    """

    sequences: int = 0
    tokens: int = 0
    ratio: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    kl: float = 0.0
    off_policy_rows: int = 0

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(
            sequences=self.sequences + other.sequences,
            tokens=self.tokens + other.tokens,
            ratio=self.ratio + other.ratio,
            clipped_low=self.clipped_low + other.clipped_low,
            clipped_high=self.clipped_high + other.clipped_high,
            kl=self.kl + other.kl,
            off_policy_rows=self.off_policy_rows + other.off_policy_rows,
        )

    def means(self) -> dict[str, float]:
        """Return the means per token of ratio, clipped_low, clipped_high and kl; 0 if there are no tokens."""
        sums = {"ratio": self.ratio, "clipped_low": self.clipped_low, "clipped_high": self.clipped_high}
        return {name: value / max(self.tokens, 1) for name, value in {**sums, "kl": self.kl}.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """Loss of one micro-batch: a scalar with a gradient, its parts by row [B] (detached), and metric sums.

    `row_losses` add up to the loss; `ratio` is the mean ratio of each row.
    """

    loss: Tensor
    row_losses: Tensor
    ratio: Tensor
    sums: LossSums


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Inputs of the objectives, with padding set to 0.

    Shapes: logprobs, log_ratio (per token), mask [B, T]; ratio, lower, upper, advantages and correction (importance
    weights of another sampler) broadcast to [B, T].
    """

    logprobs: Tensor
    log_ratio: Tensor
    ratio: Tensor
    lower: Tensor
    upper: Tensor
    advantages: Tensor
    mask: Tensor
    correction: Tensor | None = None

    @classmethod
    def of(
        cls,
        *,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        config: LossConfig,
        correction: Tensor | None = None,
    ) -> Self:
        """Set the padding to 0 and compute the ratios and bounds that `config` selects."""
        blank_logprobs = _blank(logprobs, mask)
        log_ratio = (blank_logprobs - _blank(old_logprobs.detach(), mask)).clamp(max=MAX_LOG_RATIO)
        column = advantages.detach().to(log_ratio.dtype)
        column = column if column.dim() == log_ratio.dim() else column.unsqueeze(-1)
        lower, upper = LOSSES[config.loss_type].bounds(column, config)
        return cls(
            logprobs=blank_logprobs,
            log_ratio=log_ratio,
            ratio=importance_ratio(log_ratio, mask, config.importance),
            lower=lower,
            upper=upper,
            advantages=column,
            mask=mask,
            correction=correction,
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """One row of the table: bounds of the ratio, the objective of a token, the weight of a row's tokens."""

    bounds: Callable[[Tensor, LossConfig], tuple[Tensor, Tensor]]
    objective: Callable[[Terms, LossConfig], Tensor]
    weight: Callable[[Tensor, Totals], Tensor]


def policy_loss(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    config: LossConfig,
    totals: Totals,
    correction: Tensor | None = None,
) -> PolicyLoss:
    """Return the loss of one micro-batch; the losses of all micro-batches add up to that of the optimiser step.

    Shapes: log-probs (nats) and `mask` (nonzero = trained on) [B, T], advantages [B] or [B, T]; only `logprobs` gets a
    gradient. `correction` [B, T] or [B, 1] are importance weights of another sampler, which multiply the objective but
    not its KL. Masked positions may hold any value, and so may the advantage of a row without tokens. Computed in
    float32 or better. Raises `ParamError` if `beta` is above 0 without `ref_logprobs`. Papers: see the table above.
    """
    mask = mask.bool()
    terms = Terms.of(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        mask=mask,
        config=config,
        correction=correction,
    )
    loss = LOSSES[config.loss_type]
    objective, dropped = loss.objective(terms, config), 0
    if config.off_policy_mask_threshold is not None:
        off_policy = _off_policy(terms, config.off_policy_mask_threshold)
        objective, dropped = torch.where(off_policy, 0.0, objective), int(off_policy.sum())
    if correction is not None and config.loss_type != "vespo":  # whose weight of a sequence holds it already
        objective = objective * correction
    kl = None if ref_logprobs is None else k3_kl(terms.logprobs, _blank(ref_logprobs.detach(), mask))
    if config.beta > 0.0:
        if kl is None:
            raise ParamError(f"beta: {config.beta!r} needs a reference policy, but none is given; wire one or set 0")
        objective = objective - config.beta * (kl * terms.ratio if config.unbiased_kl else kl)
    weights = loss.weight(mask.sum(-1).to(objective.dtype), totals).unsqueeze(-1)
    losses = -(torch.where(mask, objective, 0.0) * weights)
    sums = replace(_sums(terms, kl), off_policy_rows=dropped)
    return PolicyLoss(loss=losses.sum(), row_losses=losses.detach().sum(-1), ratio=_row_ratio(terms), sums=sums)


def importance_ratio(log_ratio: Tensor, mask: Tensor, importance: Importance) -> Tensor:
    """Ratio pi / pi_old of each token [B, T] (arXiv 2402.03300), or its geometric mean of a row [B, 1] (2507.18071)."""
    if importance == "token":
        return log_ratio.exp()
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    return (log_ratio.sum(-1, keepdim=True) / lengths).exp()


def _off_policy(terms: Terms, threshold: float) -> Tensor:
    """Return which rows [B, 1] the off-policy mask drops (arXiv 2512.02556).

    They have a negative advantage, and their mean log-prob has fallen by more than the threshold since sampling.
    """
    lengths = terms.mask.sum(-1, keepdim=True).clamp(min=1)
    fallen = -terms.log_ratio.detach().sum(-1, keepdim=True) / lengths
    return (terms.advantages < 0) & (fallen > threshold)


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, never negative estimate of KL(policy || reference) at each token, in nats (arXiv 2402.03300)."""
    gap = (ref_logprobs - logprobs).clamp(max=MAX_LOG_RATIO)
    return gap.exp() - gap - 1.0


def clip_bounds(advantages: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Clip-higher (arXiv 2503.14476): bound the ratio on the side to which the advantage pushes it.

    Positive advantages are bounded above by 1 + epsilon_high, negative ones below by 1 - epsilon_low and above by
    delta (arXiv 2505.07291). Shapes: [B, 1] each.
    """
    positive, negative = advantages > 0, advantages < 0
    lower = torch.full_like(advantages, -math.inf).masked_fill(negative, 1.0 - config.epsilon_low)
    upper = torch.full_like(advantages, math.inf).masked_fill(positive, 1.0 + config.epsilon_high)
    if config.delta is not None:
        upper = upper.masked_fill(negative, config.delta)
    return lower, upper


def cap_bounds(advantages: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """One upper bound for every ratio, whatever the sign of its advantage (arXiv 2510.13786)."""
    return torch.full_like(advantages, -math.inf), torch.full_like(advantages, config.cispo_max_ratio)


def no_bounds(advantages: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """No bounds: sapo (arXiv 2511.20347) and vespo (arXiv 2602.10693) damp the ratio smoothly instead."""
    return torch.full_like(advantages, -math.inf), torch.full_like(advantages, math.inf)


def clipped_surrogate(terms: Terms, config: LossConfig) -> Tensor:
    """Clamped ratio times advantage; no gradient outside the bounds (arXiv 1707.06347, 2402.03300)."""
    return terms.ratio.clamp(terms.lower, terms.upper) * terms.advantages


def capped_logprob(terms: Terms, config: LossConfig) -> Tensor:
    """CISPO: advantage times log-prob, weighted by the capped ratio; no token loses its gradient (arXiv 2506.13585)."""
    return terms.ratio.detach().clamp(terms.lower, terms.upper) * terms.advantages * terms.logprobs


def soft_gate(terms: Terms, config: LossConfig) -> Tensor:
    """SAPO: advantage times a sigmoid of the ratio, of slope 1 at ratio 1 (arXiv 2511.20347).

    The temperature differs for positive and negative advantages.
    """
    temperature = _by_sign(
        terms.advantages > 0, config.sapo_temperature_pos, config.sapo_temperature_neg, terms.advantages
    )
    return torch.sigmoid(temperature * (terms.ratio - 1.0)) * (4.0 / temperature) * terms.advantages


def gamma_weighted_logprob(terms: Terms, config: LossConfig) -> Tensor:
    """VESPO: advantage times log-prob, weighted by w^k exp(lambda (1 - w)), w the sequence ratio (arXiv 2602.10693)."""
    is_positive = terms.advantages >= 0
    k = _by_sign(is_positive, config.vespo_k_pos, config.vespo_k_neg, terms.advantages)
    rate = _by_sign(is_positive, config.vespo_lambda_pos, config.vespo_lambda_neg, terms.advantages)
    per_token = terms.log_ratio.detach().clamp(min=-MAX_LOG_RATIO)
    log_w = per_token.sum(-1, keepdim=True)
    if terms.correction is not None:
        log_w = log_w + terms.correction.log().clamp(VESPO_MIN_LOG_RATIO, MAX_LOG_RATIO).sum(-1, keepdim=True)
    log_w = log_w.clamp(VESPO_MIN_LOG_RATIO, MAX_LOG_RATIO)
    weight = (k * log_w + rate * (1.0 - log_w.exp())).exp()
    return weight * terms.advantages * terms.logprobs


def sequence_mean(lengths: Tensor, totals: Totals) -> Tensor:
    """Mean over a row's tokens, then over rows (arXiv 2402.03300); lengths and weights [B]."""
    return 1.0 / (lengths.clamp(min=1.0) * totals.sequences)


def token_mean(lengths: Tensor, totals: Totals) -> Tensor:
    """Mean over all tokens of the step, so long rows weigh more (arXiv 2503.14476); lengths and weights [B]."""
    return torch.full_like(lengths, 1.0 / totals.tokens)


def budget_mean(lengths: Tensor, totals: Totals) -> Tensor:
    """Sum over tokens divided by the constant token budget, so no length is favoured (arXiv 2503.20783); [B]."""
    return torch.full_like(lengths, 1.0 / (totals.sequences * totals.max_completion_tokens))


def sequence_sum(lengths: Tensor, totals: Totals) -> Tensor:
    """Sum over a row's tokens, then mean over rows, so a row weighs as much as its length (arXiv 2602.05261); [B]."""
    return torch.full_like(lengths, 1.0 / totals.sequences)


LOSSES: Mapping[LossType, Loss] = {
    "grpo": Loss(clip_bounds, clipped_surrogate, sequence_mean),
    "bnpo": Loss(clip_bounds, clipped_surrogate, token_mean),
    "dapo": Loss(clip_bounds, clipped_surrogate, token_mean),
    "dr_grpo": Loss(clip_bounds, clipped_surrogate, budget_mean),
    "luspo": Loss(clip_bounds, clipped_surrogate, sequence_sum),
    "cispo": Loss(cap_bounds, capped_logprob, token_mean),
    "sapo": Loss(no_bounds, soft_gate, sequence_mean),
    "vespo": Loss(no_bounds, gamma_weighted_logprob, token_mean),
}


def _blank(values: Tensor, mask: Tensor) -> Tensor:
    assert values.shape == mask.shape, f"log-probs {tuple(values.shape)} and mask {tuple(mask.shape)} differ"
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask, precise, 0.0)


def _by_sign(is_positive: Tensor, pos: float, neg: float, like: Tensor) -> Tensor:
    return torch.full_like(like, neg).masked_fill(is_positive, pos)


def _row_ratio(terms: Terms) -> Tensor:
    ratio = torch.where(terms.mask, terms.ratio.detach(), 0.0).sum(-1)
    lengths = terms.mask.sum(-1)
    return torch.where(lengths > 0, ratio / lengths.clamp(min=1), 1.0)


def _sums(terms: Terms, kl: Tensor | None) -> LossSums:
    ratio = terms.ratio.detach()
    has_advantage = terms.advantages != 0
    rows = (
        torch.ones_like(ratio),
        ratio,
        ((ratio < terms.lower) & has_advantage).to(ratio.dtype),
        ((ratio > terms.upper) & has_advantage).to(ratio.dtype),
        torch.zeros_like(ratio) if kl is None else kl.detach(),
    )
    # stacked, so that all sums leave the device in one transfer
    sums = torch.stack([torch.where(terms.mask, row, 0.0).sum() for row in rows]).tolist()
    tokens, ratio_sum, low, high, kl_sum = sums
    return LossSums(
        sequences=len(terms.mask), tokens=int(tokens), ratio=ratio_sum, clipped_low=low, clipped_high=high, kl=kl_sum
    )
