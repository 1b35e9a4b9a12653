"""`update.sft`: imitation of selected rollouts, by TRL's SFTTrainer."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.update.trl.trl_update import TrlUpdate


class Sft(TrlUpdate, name="sft"):
    """Make rollouts more likely that a select kept: expert iteration, STaR (arXiv 2203.14465), RAFT (arXiv 2304.06767).

    The loss is the mean over the sampled tokens of a step, on the ids that were sampled; only rows of other peers that
    another tokenizer made are tokenised again. Rows that failed, hold no sampled token or come from another tokenizer,
    and those of other peers that this policy cannot hold, are left out and counted.
    """

    loss_type: Literal["nll", "dft"] = Field(
        "nll", description="log-likelihood; dft weighs each token by its probability (arXiv 2508.05629)"
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
        """The policy after `epochs` passes; logs the rows trained on (id, digest of the prompt ids)."""
        if not self.is_due(round):
            return policy
        from genrl_graph.nodes.update.trl.trl_sft import imitate

        imitate(self, policy, Rollouts.concat(rows), rng=rng, log=log, peer=peer)
        return policy
