"""`policy.causal_lm`: a pretrained language model from a hub, a folder or an installed package."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.node import Node, PolicyCarry
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.policy.chat_format import AssistantPrefix, ChatTemplateKwargs, TemplateText
from genrl_graph.nodes.policy.critic_params import CriticOption, untrained_critic
from genrl_graph.nodes.policy.engine_params import EngineOption, unfit_readers
from genrl_graph.nodes.policy.image_readers import unseen_images
from genrl_graph.nodes.policy.param_dtype import MasterWeights, ParamDtype, check_precision

ComputeDtype = Literal["auto", "float32", "bfloat16"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class CausalLM(PolicyCarry, name="causal_lm"):
    """A pretrained causal language model and AdamW.

    `model` is a hub name, a folder, a GGUF file (local, or `owner/repository/file.gguf` on the hub), or
    `package:<module>` for the GGUF file inside an installed package.
    `compute_dtype: auto` computes in bfloat16 if the device has native bfloat16 matrix products. `chat_template`
    (Jinja, or a file of it) replaces the tokenizer's; where a graph names a file, runs record its text. Loading from a
    folder, a package or the hub's local cache needs no network.
    """

    shards = True

    model: DataPath = Field(
        min_length=1, description="hub name, folder, GGUF file, or package:<module> of an installed package"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of the hub repository; null: its main branch"
    )
    device: str = Field(
        default="auto",
        description="torch device that computes, such as cpu or cuda:0; auto: this process's GPU, or else the CPU",
    )
    compute_dtype: ComputeDtype = Field(
        default="auto",
        description="precision of forward and backward passes; auto: bfloat16 where the device has it natively",
    )
    param_dtype: ParamDtype = "float32"
    master_weights: MasterWeights = True
    max_context: int | None = Field(
        default=None, ge=2, description="most tokens of prompt and completion together; null: what the model allows"
    )
    chat_template: TemplateText | None = Field(
        default=None,
        description="Jinja chat template in place of the tokenizer's, or a file of one; null: the tokenizer's",
    )
    chat_template_kwargs: ChatTemplateKwargs = {}
    assistant_prefix: AssistantPrefix = ""
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay, on matrices only")
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999),
        description="AdamW's decay rates of the running averages of the gradient and of its square",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="recompute activations in the backward pass; auto: of as few layers as needed"
    )
    activation_gb: float = Field(default=0.25, gt=0, description="auto: memory for activations of a micro-batch, in GB")
    share_prefixes: bool = Field(
        default=True, description="compute a prefix that several rows share, such as their prompt, only once"
    )

    critic: CriticOption = None
    engine: EngineOption = None

    @model_validator(mode="after")
    def _precise(self) -> Self:
        check_precision(
            param_dtype=self.param_dtype, compute_dtype=self.compute_dtype, master_weights=self.master_weights
        )
        return self

    @property
    def note(self) -> str:
        """Return which engine samples, if one does."""
        return "" if self.engine is None else f"{self.engine.kind} samples: {self.engine.servers}"

    def check_readers(self, readers: Sequence[Node]) -> Iterable[str]:
        """Report a critic that nothing trains, images, and generators that truncate the distribution of an engine."""
        return (
            *untrained_critic(self.critic, readers),
            *unseen_images(readers),
            *unfit_readers(self.engine, readers),
        )

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Load the pretrained weights; the seed is not used. Raises `DataError` if they cannot be found or read."""
        from genrl_graph.nodes.policy.loading.pretrained import pretrained_policy

        return pretrained_policy(name, self)

    def dry(self, name: str, *, seed: int) -> TextPolicy:
        """Return a stand-in for dry play: a tiny random model whose replies are canned.

        It has the model's own tokenizer and context length if the model's files are on this machine.
        """
        from genrl_graph.nodes.policy.loading.local_tokens import local_tokens
        from genrl_graph.nodes.policy.loading.stub import stub_policy

        return stub_policy(name, seed=seed, params=self, local=local_tokens(self))
