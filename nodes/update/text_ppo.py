"""`update.text_ppo`: proximal policy optimisation of a language model and its critic."""

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Wire
from genrl_graph.contract.policy import Carried, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, TokenValued
from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.critic_params import missing_critic
from genrl_graph.nodes.update.steps.correction_config import (
    Correction,
    CorrectionHigh,
    CorrectionLevel,
    CorrectionLow,
    ImportanceCorrection,
    MaxLogRatio,
)
from genrl_graph.nodes.update.steps.loss_config import LossConfig
from genrl_graph.nodes.update.steps.reference import KlWeight, check_reference
from genrl_graph.nodes.update.steps.role_shares import MaxGradientShare, roles_of
from genrl_graph.nodes.update.steps.schedules import LearningRate, MaxGradNorm, ScheduledUpdate
from genrl_graph.nodes.update.steps.truncated import MaskTruncated


class TextPpo(ScheduledUpdate, name="text_ppo"):
    """Proximal policy optimisation (arXiv 1707.06347) of a language model and its critic, token by token.

    The loss is the mean clipped surrogate over all tokens of an optimiser step, plus `value_coef` times half the mean
    squared error of the critic over all targets, clipped around the values that `advantage.text_gae` saw
    (`value_epsilon`). `whiten` scales the advantages of all tokens of the round to mean 0 and deviation 1. Old
    log-probs, rows that are left out, `mask_truncated` and `importance_correction` are those of `update.grpo`.
    """

    trains_critic = True

    epsilon: float = Field(default=0.2, gt=0, lt=1, description="clip range of the ratio around 1")
    value_epsilon: float | None = Field(
        default=0.2, gt=0, description="clip range of values around the old ones; null: none"
    )
    value_coef: float = Field(default=0.1, ge=0, description="weight of the critic's loss")
    whiten: bool = Field(default=True, description="scale the advantages of a round to mean 0 and deviation 1")
    beta: KlWeight = 0.0
    learning_rate: LearningRate = 1e-6
    epochs: int = Field(default=4, ge=1, description="passes over the rows of a round")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per epoch; groups are never split")
    max_batch_tokens: int = Field(default=8192, ge=1, description="tokens of a micro-batch, padding included")
    max_grad_norm: MaxGradNorm = 1.0
    mask_truncated: MaskTruncated = False
    importance_correction: ImportanceCorrection = "none"
    correction_level: CorrectionLevel = None
    correction_low: CorrectionLow = None
    correction_high: CorrectionHigh = None
    max_log_ratio: MaxLogRatio = 0.1
    max_gradient_share: MaxGradientShare = 0.9

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.correction()
        except ParamError as error:
            raise ValueError(str(error)) from error
        return self

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Report a KL weight without a reference policy, and a reference without a KL weight."""
        return check_reference(self.beta, inputs)

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Report a policy without a critic."""
        return missing_critic("policy", parts)

    def check_carries(self, carries: Mapping[str, Carried]) -> Iterable[str]:
        """Report a loaded policy without a critic."""
        return missing_critic("policy", carries)

    def run(
        self,
        policy: TextPolicy,
        credited: list[TokenValued[Rollouts]],
        reference: TextPolicy | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        peer: str,
        round: int = 0,
    ) -> TextPolicy:
        """Return the policy after `epochs` passes; log the rows trained on (id, ratio, digest of the prompt ids).

        Inputs:
            policy: policy with a critic that is trained; the output is its next version
            credited: rollouts or turns with values, advantages and targets of their tokens
            reference: frozen policy of the KL, needed if `beta` is above 0
        """
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.steps.text_ppo_training import PpoTrainer

        roles = roles_of(credited, policy.name)
        trainer = PpoTrainer(self, policy, reference, rng=rng, log=log, peer=peer, roles=roles)
        trainer.train([Rollouts.concat(credited)])
        trainer.report()
        return policy

    @property
    def max_completion_tokens(self) -> int:
        """The token budget of the loss dr_grpo, by which this one does not divide."""
        return 1

    def loss_config(self) -> LossConfig:
        """Return the loss of the policy: the clipped surrogate as a mean over tokens."""
        return LossConfig(loss_type="dapo", epsilon_low=self.epsilon, epsilon_high=self.epsilon, beta=self.beta)

    def correction(self) -> Correction:
        """Return the importance correction; raises `ParamError` for invalid bounds."""
        return Correction.of(
            self.importance_correction, self.correction_level, self.correction_low, self.correction_high
        )
