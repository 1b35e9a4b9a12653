"""`update.ddpo`: policy optimisation of the denoising steps of a diffusion policy."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.rollouts import Credited
from genrl_graph.nodes.policy.denoising.diffusion_policy import DiffusionPolicy
from genrl_graph.nodes.update.steps.schedules import LearningRate, MaxGradNorm, ScheduledUpdate


class Ddpo(ScheduledUpdate, name="ddpo"):
    """Denoising diffusion policy optimisation (arXiv 2305.13301): clipped importance ratios of each denoising step.

    Every random step of an image has the image's advantage; the loss is the mean over images and steps of
    -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A). Baselines per prompt are those of `advantage.group`. Rows
    without a finite advantage, failed ones and those of other peers, which come without latents, are left out and
    counted.
    """

    learning_rate: LearningRate = 1e-5
    max_grad_norm: MaxGradNorm = 1.0
    epsilon: float = Field(default=1e-4, gt=0, lt=1, description="clip range of the ratio of a step around 1")
    advantage_clip: float = Field(default=5.0, gt=0, description="advantages are clipped to plus or minus this value")
    epochs: int = Field(default=1, ge=1, description="passes over the images of a round")
    minibatch_size: int = Field(default=64, ge=1, description="images per optimiser step, reshuffled in each epoch")
    batch_size: int = Field(default=16, ge=1, description="images whose steps are computed together, to bound memory")

    def run(
        self,
        policy: DiffusionPolicy,
        credited: list[Credited[Images]],
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
    ) -> DiffusionPolicy:
        """Return the policy after the epochs; log the rows trained on (id, mean ratio of their steps).

        Inputs:
            policy: policy that is trained; the output is its next version
            credited: images with advantages
        """
        if self.is_due(round):
            from genrl_graph.nodes.update.steps.ddpo_training import train_ddpo

            train_ddpo(self, policy, Images.concat(credited), rng=rng, log=log)
        return policy
