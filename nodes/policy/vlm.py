"""`policy.vlm`: a language model that sees images, from a folder or hub, or a tiny one from sizes."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.policy.causal_lm import Beta
from genrl_graph.nodes.policy.chat_format import TemplateText
from genrl_graph.nodes.policy.tiny_lm import PRINTABLE


class TinyVision(BaseModel):
    """A tiny model with random weights: a vision transformer over patches, and a Llama of one token per character."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alphabet: str = Field(
        default=PRINTABLE, min_length=1, description="characters with a token of their own; all others become <unk>"
    )
    hidden_size: int = Field(default=32, ge=2, description="width of both models, a multiple of 2 x heads")
    layers: int = Field(default=1, ge=1, description="layers of both models")
    heads: int = Field(default=2, ge=1, description="attention heads of a layer")
    image_size: int = Field(default=8, ge=1, le=256, description="height and width to which an image is resized")
    patch_size: int = Field(default=4, ge=1, description="height and width of a patch, which is one token")
    max_context: int = Field(default=256, ge=2, description="most tokens of prompt and completion together")
    initializer_range: float = Field(default=0.1, gt=0, description="standard deviation of the initial weights")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by 2 x heads = {2 * self.heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}")
        if len(set(self.alphabet)) != len(self.alphabet):
            twice = next(c for c in self.alphabet if self.alphabet.count(c) > 1)
            raise ValueError(f"alphabet holds {twice!r} twice")
        return self


class Vlm(PolicyCarry, name="vlm"):
    """A language model that sees the images of its prompts, with float32 weights and AdamW; all weights are trained.

    `model` is a folder or a hub name of a model that transformers loads with `AutoModelForImageTextToText` and
    `AutoProcessor`, and whose image tokens are positions like those of text, as in LLaVA (arXiv 2304.08485) and
    SmolVLM (arXiv 2504.05299): loading proves on two rows that sampled log-probs are those of one pass. Without
    `model` it is a tiny LLaVA of `tiny` sizes, with random weights from (run seed, carry name). Generators show an
    image where `show_image` is set; other prompts are text.
    """

    model: DataPath | None = Field(
        default=None, min_length=1, description="folder or hub name of a vision language model; null: a tiny random one"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of the hub repository; null: its main branch"
    )
    tiny: TinyVision = Field(default=TinyVision(), description="the tiny model, where model is null")
    device: str = Field(
        default="auto",
        description="torch device that computes, such as cpu or cuda:0; auto: this process's GPU, or else the CPU",
    )
    max_context: int | None = Field(
        default=None, ge=2, description="most tokens of prompt and completion together; null: what the model allows"
    )
    chat_template: TemplateText | None = Field(
        default=None,
        description="Jinja chat template in place of the model's, or a file of one; contents are lists of parts",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay, on matrices only")
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999),
        description="AdamW's decay rates of the running averages of the gradient and of its square",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model is not None and self.tiny != TinyVision():
            raise ValueError("tiny describes a random model; leave it or model out")
        if self.model is None:
            for name in ("revision", "max_context", "chat_template"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is of a model; name one, or leave {name} out")
        return self

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Return the policy of the first round; raises `DataError` if its files cannot be read."""
        if self.model is not None:
            from genrl_graph.nodes.policy.seeing.loading import load_vision_policy

            return load_vision_policy(name, self)
        from genrl_graph.nodes.policy.compute.device import pick_device
        from genrl_graph.nodes.policy.compute.trainable import Training
        from genrl_graph.nodes.policy.seeing.tiny_vision import tiny_chat, tiny_model
        from genrl_graph.nodes.policy.seeing.vision_policy import VisionLanguagePolicy

        return VisionLanguagePolicy(
            name,
            tiny_model(self.tiny, seed=seed, name=name).to(pick_device(self.device)),
            tiny_chat(self.tiny, where=self.type_name),
            context=self.tiny.max_context,
            training=Training(weight_decay=self.weight_decay, betas=self.betas),
        )

    def dry(self, name: str, *, seed: int) -> TextPolicy:
        """Return a tiny random model, so that no model is loaded; its prompts have no limit."""
        if self.model is None:
            return self.init(name, seed=seed)
        tiny = TinyVision(max_context=1 << 17)  # one token per character: what fits the model must fit here
        bare = {"model": None, "revision": None, "max_context": None, "chat_template": None, "tiny": tiny}
        policy = self.model_copy(update=bare).init(name, seed=seed)
        policy.counts_tokens = False
        return policy
