"""`update.dpo`: learning from pairs of rollouts of one prompt, by TRL's DPOTrainer."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.nodes.update.steps.pairs import PairRule
from genrl_graph.nodes.update.trl.trl_update import TrlUpdate

PreferenceLoss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"
]
SMOOTHED = ("robust", "exo_pair")


class Dpo(TrlUpdate, name="dpo"):
    """Prefer the better of two rollouts of a group by its reward, close to a reference (DPO, arXiv 2305.18290).

    The reference is the policy wired as `reference`, or else this policy as it was before the first step; its
    log-probs are taken beforehand. Rows of other peers that another tokenizer made are tokenised again. Rows without
    a finite reward, that failed, hold no sampled token or come from another tokenizer, and those of other peers that
    this policy cannot hold, are left out and counted; so are groups without a pair.
    """

    learning_rate: float = Field(1e-6, gt=0)
    batch_size: int = Field(16, ge=1, description="pairs of an optimiser step, drawn anew in each epoch")
    pairs: PairRule = Field("best_worst", description="one pair a group, or every pair of different rewards")
    min_margin: float = Field(0.0, ge=0, description="the least difference of rewards that makes a pair")
    beta: float = Field(0.1, gt=0, description="how much leaving the reference costs")
    loss_type: PreferenceLoss = Field("sigmoid", description="those of TRL's DPOConfig that judge pair by pair")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description=f"share of pairs taken to be the wrong way round; serves {', '.join(SMOOTHED)}"
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
        """The policy after `epochs` passes; logs the pairs trained on (ids, digest of the prompt ids)."""
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.trl.trl_dpo import prefer

        judge = policy if reference is None else reference
        prefer(self, policy, judge, Rollouts.concat(scored), rng=rng, log=log, peer=peer)
        return policy
