"""`policy.diffusion`: a text-to-image diffusion pipeline, from a folder or hub, or a tiny one from sizes."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.nodes.policy.denoising.diffusion_policy import DiffusionPolicy


class TinyPipeline(BaseModel):
    """A tiny pipeline with random weights: a denoiser of latents, text encoders and an image decoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=16, ge=4, le=256, multiple_of=4, description="height of an image in pixels")
    width: int = Field(default=16, ge=4, le=256, multiple_of=4, description="width of an image in pixels")
    denoiser: Literal["unet", "transformer"] = Field(
        default="unet", description="the network: that of Stable Diffusion, or of Stable Diffusion 3, for flow matching"
    )
    channels: int = Field(
        default=16, ge=8, multiple_of=8, description="channels of the UNet's first level, or width of the transformer"
    )
    caption_characters: int = Field(default=30, ge=1, le=500, description="characters of a caption that are read")
    noise: Literal["diffusion", "flow"] = Field(
        default="diffusion", description="noise schedule: of diffusion (ddim, ddpm), or of flow matching (flow)"
    )

    @model_validator(mode="after")
    def _transformers_flow(self) -> Self:
        if self.denoiser == "transformer" and self.noise != "flow":
            raise ValueError("a transformer is trained by flow matching; set noise: flow")
        if self.denoiser == "transformer" and self.height != self.width:
            raise ValueError(f"a transformer's images are square; {self.height} x {self.width} are not")
        return self


class DenoiserLora(BaseModel):
    """A low-rank adapter (LoRA, arXiv 2106.09685) on the frozen denoiser of a pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=8, ge=1, description="rank of the adapter")
    alpha: float = Field(default=16.0, gt=0, description="scale: the product of A and B is multiplied by alpha / r")
    target_modules: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="linear modules that get an adapter; by default those of all attention layers",
    )


class Diffusion(PolicyCarry, name="diffusion"):
    """A text-to-image diffusion pipeline of diffusers whose denoiser is trained in float32, with Adam.

    `model` is a folder that diffusers wrote (`save_pretrained`), or a name on the hub: a `StableDiffusionPipeline`,
    whose denoiser is a UNet (arXiv 2112.10752), or a `StableDiffusion3Pipeline`, whose denoiser is a transformer (arXiv
    2403.03206). Without `model` the pipeline is a tiny one of `tiny` sizes, with random weights from (run seed, carry
    name), for tests and first steps. Text encoders and decoder stay frozen; with `lora` the denoiser does, too, and
    only an adapter on it is trained and saved. B starts at 0, so an untrained adapter equals the pipeline. Needs the
    extra `images`.
    """

    model: DataPath | None = Field(
        default=None, min_length=1, description="folder or hub name of a diffusers pipeline; null: a tiny random one"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of the hub repository; null: its main branch"
    )
    tiny: TinyPipeline = Field(default=TinyPipeline(), description="the tiny pipeline, where model is null")
    lora: DenoiserLora | None = Field(
        default=None, description="train an adapter on the denoiser; null: train all its weights"
    )
    device: str = Field(
        default="auto",
        description="torch device that computes, such as cpu or cuda:0; auto: this process's GPU, or else the CPU",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model is not None and self.tiny != TinyPipeline():
            raise ValueError("tiny describes a random pipeline; leave it or model out")
        if self.model is None and self.revision is not None:
            raise ValueError("revision is of a model; name one, or leave revision out")
        return self

    def init(self, name: str, *, seed: int) -> DiffusionPolicy:
        """Return the policy of the first round.

        Raises `DataError` if its files cannot be read, and `ParamError` if a target of the adapter is no linear module.
        """
        from genrl_graph.nodes.policy.denoising.adapter import add_adapter
        from genrl_graph.nodes.policy.denoising.loading import load_parts
        from genrl_graph.nodes.policy.denoising.pipeline_policy import PipelinePolicy
        from genrl_graph.nodes.policy.denoising.tiny_pipeline import tiny_parts

        if self.model is None:
            parts = tiny_parts(self.tiny, seed=seed, name=name)
        else:
            parts = load_parts(self.model, revision=self.revision)
        base = "" if self.lora is None else add_adapter(parts.denoiser, self.lora, seed=seed, name=name)
        return PipelinePolicy(name, parts, device=self.device, base=base)

    def dry(self, name: str, *, seed: int) -> DiffusionPolicy:
        """Return a tiny random pipeline, so that no model is loaded."""
        named: dict[str, None] = {} if self.model is None else {"model": None, "revision": None, "lora": None}
        return self.model_copy(update=named).init(name, seed=seed)
