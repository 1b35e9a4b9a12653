"""`update.grpo`: group-relative policy optimisation and related losses, on any number of inputs."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.node import Wire
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, Rollouts
from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.steps.cadence import PacedUpdate
from genrl_graph.nodes.update.steps.correction_config import (
    Correction,
    CorrectionHigh,
    CorrectionLevel,
    CorrectionLow,
    ImportanceCorrection,
    MaxLogRatio,
)
from genrl_graph.nodes.update.steps.loss_config import Importance, LossConfig, LossType
from genrl_graph.nodes.update.steps.reference import KlWeight, check_reference
from genrl_graph.nodes.update.steps.role_shares import MaxGradientShare, roles_of
from genrl_graph.nodes.update.steps.schedules import (
    Decay,
    DecaySteps,
    LearningRate,
    MaxGradNorm,
    WarmupSteps,
    rate_factor,
)
from genrl_graph.nodes.update.steps.truncated import MaskTruncated


class Grpo(PacedUpdate, name="grpo"):
    """Train a policy on credited rollouts with a loss of the GRPO family (arXiv 2402.03300 and later).

    Losses: grpo (arXiv 2402.03300), bnpo (TRL's token mean over a batch), dapo (arXiv 2503.14476), dr_grpo
    (arXiv 2503.20783), luspo (arXiv 2602.05261), cispo (arXiv 2506.13585), sapo (arXiv 2511.20347) and vespo
    (arXiv 2602.10693); with `importance: sequence` grpo is GSPO (arXiv 2507.18071).

    The importance ratio is 1 for rollouts that the current version sampled. For the policy's own older rollouts the
    old log-probs are the sampler's; for other peers' rollouts they are this policy's, from before the first step of
    this update. Other peers' rollouts of another tokenizer are tokenised again. Left out and counted are rows without a
    finite advantage, own rows of another tokenizer, other peers' rows that do not fit this policy, and with
    `mask_truncated` rows cut by the length limit. Zero-variance groups count in the means of the loss, but need no
    forward pass.

    `importance_correction` weighs the loss by p_trainer / p_sampler where own rows were sampled in another precision,
    by another engine or by older weights; old log-probs are then this policy's from before the first step. Rejected
    tokens leave the means of the loss, too. How far sampler and trainer are apart is a metric of every run.
    """

    renamed_inputs = {"scored": "credited"}

    loss_type: LossType = Field(
        default="dapo",
        description="the loss, named as in TRL; the clipped ones are grpo, bnpo, dapo, dr_grpo and luspo",
    )
    importance: Importance | None = Field(
        default=None, description="importance ratio per token or per sequence (GSPO); null: token, for luspo sequence"
    )
    epsilon_low: float = Field(
        default=0.2,
        description="clip range below 1 of the ratio, 0 to 1, for negative advantages; serves the clipped losses",
    )
    epsilon_high: float = Field(
        default=0.28,
        description="clip range above 1 of the ratio, from 0, for positive advantages; serves the clipped losses",
    )
    delta: float | None = Field(
        default=None,
        description="upper bound of the ratio for negative advantages, above 1 + epsilon_high (arXiv 2505.07291)",
    )
    beta: KlWeight = 0.0
    unbiased_kl: bool = Field(
        default=True,
        description="multiply the KL by the importance ratio, which makes its gradient unbiased (arXiv 2512.02556)",
    )
    off_policy_mask_threshold: float | None = Field(
        default=None,
        description="drop sequences with a negative advantage whose log-probs have fallen by more than this since they "
        "were sampled, in nats per token (arXiv 2512.02556); null: none",
    )
    cispo_max_ratio: float = Field(
        default=5.0,
        description="cispo: largest ratio by which a token is weighted, above 0; a ratio, not a distance from 1",
    )
    sapo_temperature_pos: float = Field(
        default=1.0,
        description="sapo: temperature of the soft gate for positive advantages, above 0; higher damps more",
    )
    sapo_temperature_neg: float = Field(
        default=1.05,
        description="sapo: temperature of the soft gate for the other advantages, above 0; higher damps more",
    )
    vespo_k_pos: float = Field(
        default=2.0,
        description="vespo: power k, from 0, of the weight `w^k exp(lambda (1 - w))`, for advantages of at least 0",
    )
    vespo_lambda_pos: float = Field(
        default=3.0,
        description="vespo: lambda of that weight, above 0, for advantages of at least 0; w is the sequence's ratio",
    )
    vespo_k_neg: float = Field(default=3.0, description="vespo: power k of the weight, from 0, for negative advantages")
    vespo_lambda_neg: float = Field(
        default=2.0, description="vespo: lambda of the weight, above 0, for negative advantages"
    )
    learning_rate: LearningRate = 1e-6
    decay: Decay = "constant"
    warmup_steps: WarmupSteps = 0
    decay_steps: DecaySteps = 0
    epochs: int = Field(default=1, ge=1, description="passes over the rows of a round")
    steps: Literal["joint", "per_input"] = Field(
        default="joint", description="train on all inputs together, or on each input in order"
    )
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per epoch and input; groups are never split")
    max_batch_tokens: int = Field(default=8192, ge=1, description="tokens of a micro-batch, padding included")
    max_completion_tokens: int = Field(default=256, ge=1, description="token budget that dr_grpo divides by")
    max_grad_norm: MaxGradNorm = 1.0
    mask_truncated: MaskTruncated = False
    importance_correction: ImportanceCorrection = "none"
    correction_level: CorrectionLevel = None
    correction_low: CorrectionLow = None
    correction_high: CorrectionHigh = None
    max_log_ratio: MaxLogRatio = 0.1
    max_gradient_share: MaxGradientShare = 0.9

    @model_validator(mode="after")
    def _check(self) -> "Grpo":
        if self.decay != "constant" and not self.decay_steps:
            raise ValueError(f"decay {self.decay!r} needs decay_steps > 0")
        try:
            self.loss_config()
            self.correction()
        except ParamError as error:
            raise ValueError(str(error)) from error
        return self

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Report a KL weight without a reference policy, and a reference without a KL weight."""
        return check_reference(self.beta, inputs)

    def run(
        self,
        policy: TextPolicy,
        credited: list[Credited[Rollouts]],
        reference: TextPolicy | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        peer: str,
        round: int = 0,
    ) -> TextPolicy:
        """Return the policy after `epochs` passes; log the rows trained on (id, ratio, digest of the prompt ids).

        Inputs:
            policy: policy that is trained; the output is its next version
            credited: rollouts with advantages, the policy's own or those of other peers
            reference: frozen policy of the KL, needed if `beta` is above 0
        """
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.steps.training import Trainer

        roles = roles_of(credited, policy.name)
        trainer = Trainer(self, policy, reference, rng=rng, log=log, peer=peer, roles=roles)
        trainer.train([Rollouts.concat(credited)] if self.steps == "joint" else credited)
        trainer.report()
        return policy

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0."""
        factor = rate_factor(step, decay=self.decay, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps)
        return self.learning_rate * factor

    def loss_config(self) -> LossConfig:
        """Return the loss and its constants; raises `ParamError` for invalid values."""
        params = {field.name: getattr(self, field.name) for field in fields(LossConfig)}
        default: Importance = "sequence" if self.loss_type == "luspo" else "token"
        return LossConfig(**params | {"importance": self.importance or default})

    def correction(self) -> Correction:
        """Return the importance correction; raises `ParamError` for invalid bounds."""
        return Correction.of(
            self.importance_correction, self.correction_level, self.correction_low, self.correction_high
        )
