"""`policy.tiny_lm`: a small, randomly initialised character-level language model, for tests and first steps."""

import string
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from genrl_graph.contract.declared import CarryName
from genrl_graph.contract.node import Node, PolicyCarry
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.nodes.policy.causal_lm import Beta
from genrl_graph.nodes.policy.chat_format import AssistantPrefix, ChatTemplateKwargs, TemplateText
from genrl_graph.nodes.policy.critic_params import CriticOption, untrained_critic
from genrl_graph.nodes.policy.image_readers import unseen_images
from genrl_graph.nodes.policy.param_dtype import MasterWeights, ParamDtype, check_precision

PRINTABLE = "".join(sorted(set(string.printable) - set("\r\x0b\x0c")))
CONTENTS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SPECIAL = ("<pad>", "<eos>", "<unk>")


class TinyLM(PolicyCarry, name="tiny_lm"):
    """A Llama (arXiv 2302.13971) with one token per character and random weights from (run seed, carry name).

    The chat template concatenates the contents, so a prompt of one message is just its text. Characters outside
    `alphabet` become <unk>. `like` names a carry whose initial weights it shares, as for a frozen reference policy.
    """

    shards = True

    alphabet: str = Field(
        default=PRINTABLE, min_length=1, description="characters with a token of their own; all others become <unk>"
    )
    hidden_size: int = Field(
        default=64,
        ge=2,
        description="width of the residual stream, a multiple of 2 x heads; the MLP is four times as wide",
    )
    layers: int = Field(default=2, ge=1, description="number of transformer layers")
    heads: int = Field(default=4, ge=1, description="attention heads of a layer")
    max_context: int = Field(default=1024, ge=2, description="most tokens of prompt and completion together")
    initializer_range: float = Field(default=0.02, gt=0, description="standard deviation of the initial weights")
    chat_template: TemplateText = Field(
        default=CONTENTS,
        description="Jinja chat template, or a file of one; by default it only joins the contents of messages",
    )
    chat_template_kwargs: ChatTemplateKwargs = {}
    assistant_prefix: AssistantPrefix = ""
    device: str = Field(
        default="auto",
        description="torch device that computes, such as cpu or cuda:0; auto: this process's GPU, or else the CPU",
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of forward and backward passes"
    )
    param_dtype: ParamDtype = "float32"
    master_weights: MasterWeights = True
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay, on matrices only")
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999),
        description="AdamW's decay rates of the running averages of the gradient and of its square",
    )
    like: CarryName | None = Field(
        default=None,
        description="carry whose initial weights it gets, such as the policy of a frozen reference; null: its own",
    )

    critic: CriticOption = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by 2 x heads = {2 * self.heads}")
        if len(set(self.alphabet)) != len(self.alphabet):
            twice = next(c for c in self.alphabet if self.alphabet.count(c) > 1)
            raise ValueError(f"alphabet holds {twice!r} twice")
        return self

    @model_validator(mode="after")
    def _precise(self) -> Self:
        check_precision(
            param_dtype=self.param_dtype, compute_dtype=self.compute_dtype, master_weights=self.master_weights
        )
        return self

    def check_readers(self, readers: Sequence[Node]) -> Iterable[str]:
        """Report a critic that nothing trains, and generators that show images."""
        return (*untrained_critic(self.critic, readers), *unseen_images(readers))

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Return a policy whose weights are drawn from the seed and from `like` or, without it, the name."""
        import torch

        from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
        from genrl_graph.nodes.policy.compute.device import pick_device
        from genrl_graph.nodes.policy.compute.handle import CausalPolicy
        from genrl_graph.nodes.policy.compute.reading import EXACT
        from genrl_graph.nodes.policy.compute.trainable import Training
        from genrl_graph.nodes.policy.compute.weights import draw_weights

        tokens = ChatTokens.of(self, character_tokenizer(self.alphabet), where=self.type_name)
        model: torch.nn.Module = self._model(len(self.alphabet) + len(SPECIAL))
        draw_weights(model, seed=seed, name=self.like or name, spread=self.initializer_range)
        training = Training(
            weight_decay=self.weight_decay,
            betas=self.betas,
            bfloat16=self.compute_dtype == "bfloat16",
            param_dtype=getattr(torch, self.param_dtype),
            master_weights=self.master_weights,
        )
        policy = CausalPolicy(
            name,
            model.to(pick_device(self.device)),
            tokens,
            context=self.max_context,
            training=training,
            reading=EXACT,
        )
        policy.add_critic(self.critic, where=self.type_name)
        return policy

    def _model(self, vocab_size: int) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=4 * self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.max_context,
            initializer_range=self.initializer_range,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config)


def character_tokenizer(alphabet: str) -> Any:
    """Return a Hugging Face tokenizer with one id per character, after <pad> 0, <eos> 1 and <unk> 2."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: id for id, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
