"""`update.dpo`: train on preference pairs of rollouts of one prompt with TRL's DPOTrainer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.nodes.groups import alike_groups
from genrl_graph.nodes.update.steps.pairs import PairRule
from genrl_graph.nodes.update.steps.schedules import LearningRate
from genrl_graph.nodes.update.trl.trl_update import TrlUpdate

PreferenceLoss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"
]
SMOOTHED = ("robust", "exo_pair")


class Dpo(TrlUpdate, name="dpo"):
    """Direct preference optimisation (DPO, arXiv 2305.18290) on pairs of a group's rollouts with different rewards.

    The reference is the policy wired as `reference`, or else this policy before the first step; its log-probs are
    computed before training. Other peers' rows of another tokenizer are tokenised again. Left out and counted are
    rows without a finite reward, failed rows, rows without a sampled token, own rows of another tokenizer, other peers'
    rows that do not fit this policy, and groups without a pair.
    """

    learning_rate: LearningRate = 1e-6
    batch_size: int = Field(default=16, ge=1, description="pairs per optimiser step, reshuffled in each epoch")
    pairs: PairRule = Field(default="best_worst", description="one pair per group, or every pair of different rewards")
    min_margin: float = Field(default=0.0, ge=0, description="least reward difference of a pair")
    beta: float = Field(default=0.1, gt=0, description="strength of the pull towards the reference")
    loss_type: PreferenceLoss = Field(
        default="sigmoid", description="a loss of TRL's DPOConfig that is defined per pair"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description=f"assumed share of flipped pairs; serves {', '.join(SMOOTHED)}"
    )

    @model_validator(mode="after")
    def _check_smoothing(self) -> "Dpo":
        if self.label_smoothing and self.loss_type not in SMOOTHED:
            known = ", ".join(SMOOTHED)
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} has no effect on {self.loss_type!r}; it serves {known}"
            )
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type 'exo_pair' needs label_smoothing > 0; its paper recommends 1e-3")
        return self

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report generators whose rows never form a pair."""
        return [f"can never learn: {why}" for why in alike_groups(origins.get("scored", ()), "group")]

    def run(
        self,
        policy: TextPolicy,
        scored: list[Scored[Rollouts]],
        reference: TextPolicy | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        peer: str,
        round: int = 0,
    ) -> TextPolicy:
        """Return the policy after `epochs` passes; log the pairs trained on (ids, digest of the prompt ids).

        Inputs:
            policy: policy that is trained; the output is its next version
            scored: rows with rewards, from which the pairs of a group are formed
            reference: frozen policy of the KL; without it `policy` as it was before this update
        """
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.trl.trl_dpo import train_dpo

        reference = policy if reference is None else reference
        train_dpo(self, policy, reference, Rollouts.concat(scored), rng=rng, log=log, peer=peer)
        return policy
