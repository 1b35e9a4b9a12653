"""`generate.diffusion`: a diffusion policy makes images of the captions of tasks."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Generator
from genrl_graph.contract.origins import Alike
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.images import Images, image_group, image_id
from genrl_graph.edge_types.png import encode_png
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising, DiffusionPolicy, Painting, Scheduler
from genrl_graph.seeds import substream


class DiffusionGenerator(Generator, name="diffusion"):
    """Samples `num_generations` images for the last message of each task, in `steps` denoising steps.

    `scheduler` is `ddim` (arXiv 2010.02502), whose steps have the noise `eta`, `ddpm` (arXiv 2006.11239), or `flow` for
    policies of flow matching: steps that keep the shares of image and noise (arXiv 2509.05952) and have `eta` of the
    noise that is left, so 0 is Euler's method and 1 the stochastic sampling of diffusers. Every
    random step is an action: its log-prob is kept, and so are the latents, which `update.ddpo` trains on. Each image
    has a random stream of its own, so it does not depend on `batch_size`, but for rounding. An image whose latents are
    not finite is a failed row.
    """

    num_generations: int = Field(default=4, ge=1, description="images per task")
    scheduler: Scheduler = Field(default="ddim", description="denoising steps of DDIM, DDPM or flow matching")
    steps: int = Field(default=20, ge=1, le=1000, description="denoising steps of an image")
    eta: float = Field(
        default=1.0, ge=0, le=1, description="noise of the steps of ddim and flow: 0 none, which cannot be trained"
    )
    guidance: float = Field(
        default=1.0, ge=0, description="classifier-free guidance (arXiv 2207.12598); 1: none, and half the work"
    )
    batch_size: int = Field(default=16, ge=1, description="images that are sampled together")

    @property
    def group_size(self) -> int:
        """Return `num_generations`."""
        return self.num_generations

    @model_validator(mode="after")
    def _eta_is_ddims(self) -> Self:
        if self.scheduler == "ddpm" and self.eta != 1.0:
            raise ValueError(f"eta is {self.eta:g}, but the noise of ddpm is fixed; leave it out, or use ddim or flow")
        return self

    def untrainable(self) -> Alike | None:
        """Return eta, if it is 0: deterministic steps have no log-probs."""
        return Alike("images in deterministic steps", "eta", 0.0, "above 0") if self.eta == 0 else None

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that samples as many images as the evaluation asks for."""
        return self.model_copy(update={"num_generations": how.num_generations or self.num_generations})

    def run(
        self, tasks: Tasks, policy: DiffusionPolicy, *, rng: np.random.Generator, log: Log, round: int, peer: str
    ) -> Images:
        """Return the images, in the order of the tasks.

        Inputs:
            tasks: tasks whose last message is a caption
            policy: policy that makes the images
        """
        eta, guidance = np.asarray([self.eta, self.guidance], np.float32).tolist()  # as rows hold them
        how = Denoising(self.scheduler, self.steps, eta, guidance)
        planned = [(task, sample) for task in tasks.rows("id", "messages") for sample in range(self.num_generations)]
        captions = [task["messages"][-1]["content"] for task, _ in planned]
        rngs = [substream(rng, task["id"], sample) for task, sample in planned]
        paintings = policy.paint(captions, how, rngs=rngs, batch_size=self.batch_size)
        log.metric("images", len(paintings))
        log.metric("denoising_steps", self.steps)
        if paintings:
            log.metric("failed", float(np.mean([bool(painting.error) for painting in paintings])))
        return self._as_rows(planned, captions, paintings, policy, round=round, peer=peer)

    def _as_rows(
        self,
        planned: Sequence[tuple[dict[str, Any], int]],
        captions: Sequence[str],
        paintings: Sequence[Painting],
        policy: DiffusionPolicy,
        *,
        round: int,
        peer: str,
    ) -> Images:
        place, rows = self.place, []
        for (task, sample), caption, painting in zip(planned, captions, paintings, strict=True):
            where = {"peer": peer, "round": round, "node": place.node, "task_id": task["id"]}
            known = {"protocol": place.protocol, "caption": caption}
            png = b"" if painting.error else encode_png(painting.image)
            height, width = (0, 0) if painting.error else painting.image.shape[:2]
            rows.append(
                where
                | {
                    "id": image_id(**where, **known, sample=sample, parent_ids=[], png=png),
                    "group_id": image_group(**where, **known),
                    "parent_ids": [],
                    "stage": place.stage,
                    "sample": sample,
                    "policy": policy.name,
                    "policy_version": policy.version,
                    "scheduler": self.scheduler,
                    "steps": self.steps,
                    "eta": self.eta,
                    "guidance": self.guidance,
                    "caption": caption,
                    "height": height,
                    "width": width,
                    "png": np.frombuffer(png, np.uint8),
                    "finish_reason": "failed" if painting.error else "stop",
                    "error": painting.error,
                    **_trace(painting, policy),
                }
            )
        return Images.from_rows(rows) if rows else Images.empty()


def _trace(painting: Painting, policy: DiffusionPolicy) -> dict[str, Any]:
    """Return the columns that updates train on; a failed row has none, because no value on an edge may be NaN."""
    if painting.error:
        return {"logprobs": np.zeros(0, np.float32), "latents": np.zeros(0, np.float32), "latent_shape": []}
    return {
        "logprobs": painting.logprobs,
        "latents": painting.latents.reshape(-1),
        "latent_shape": list(policy.latent_shape),
    }
