"""`update.sft`: supervised fine-tuning on selected rollouts with TRL's SFTTrainer."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.update.trl.trl_update import TrlUpdate


class Sft(TrlUpdate, name="sft"):
    """Supervised fine-tuning on selected rollouts: expert iteration, STaR (arXiv 2203.14465), RAFT (arXiv 2304.06767).

    The loss is the mean over the sampled tokens of an optimiser step, on the ids that were sampled; only other peers'
    rows of another tokenizer are tokenised again. Left out and counted are failed rows, rows without a sampled token,
    own rows of another tokenizer, and other peers' rows that do not fit this policy.
    """

    loss_type: Literal["nll", "dft"] = Field(
        default="nll",
        description="nll: negative log-likelihood; dft: weighted by the token's probability (arXiv 2508.05629)",
    )

    def run(
        self,
        policy: TextPolicy,
        rows: list[Rollouts],
        *,
        rng: np.random.Generator,
        log: Log,
        peer: str,
        round: int = 0,
    ) -> TextPolicy:
        """Return the policy after `epochs` passes; log the rows trained on (id, digest of the prompt ids).

        Inputs:
            policy: policy that is trained; the output is its next version
            rows: selected rollouts to imitate
        """
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.trl.trl_sft import train_sft

        train_sft(self, policy, Rollouts.concat(rows), rng=rng, log=log, peer=peer)
        return policy
