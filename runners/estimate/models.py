"""The sizes of a policy, from files on this machine: no weights are loaded and no network is used."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from genrl_graph.contract.node import Carry
from genrl_graph.errors import DataError, StoreError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.device import pick_device
from genrl_graph.nodes.policy.compute.packed_forward import is_full
from genrl_graph.nodes.policy.compute.weights import named_tensors
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.nodes.policy.loading.pretrained import context_of, locate, tokens_of, training_of
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.runners.estimate.costs import Model


class UnknownSize(Exception):
    """Raised with the reason why the size of a model is unknown on this machine."""


@dataclass(frozen=True, slots=True)
class PolicySize:
    """The sizes, configuration, tokenizer and device of a policy.

    `loaded_bytes` is the size of the files of its weights; `shares` says that common prefixes of rows are read once.
    """

    model: Model
    config: Any
    tokens: ChatTokens
    context: int
    device: torch.device
    loaded_bytes: int = 0
    shares: bool = False
    critic: CriticParams | None = None


def size_policy(carry: Carry) -> PolicySize:
    """Return the sizes of a declared policy.

    Raises `UnknownSize` where it is not on this machine or no language model.
    """
    if isinstance(carry, Checkpoint):
        carry = _saved(carry)
    if isinstance(carry, TinyLM):
        return _tiny(carry)
    if isinstance(carry, CausalLM):
        return _pretrained(carry)
    raise UnknownSize(f"{carry.type_name} is no type whose size is known without making it")


def model_of(
    config: Any,
    *,
    bfloat16: bool,
    carry: TinyLM | CausalLM,
    activation_bytes: float = math.inf,
    adapter: Lora | None = None,
) -> Model:
    """Return the sizes of a model from its transformers configuration, with those of an adapter and a critic."""
    critic, rounds = carry.critic, carry.param_dtype == "bfloat16"
    with torch.device("meta"):
        whole: Any = AutoModelForCausalLM.from_config(config)
    count = sum(tensor.numel() for tensor in named_tensors(whole).values())
    trained, shared = sum(p.numel() for p in whole.parameters()), 0
    if adapter is not None:
        shared, trained = count, _adapter_parameters(adapter, whole)
        count += trained
    text = config.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Model(
        parameters=count,
        trained=trained,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        kv_size=2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * size,
        bfloat16=bfloat16,
        activation_bytes=activation_bytes,
        shared=shared,
        critic=0 if critic is None else _critic_parameters(critic, whole, adapted=trained if adapter else 0),
        weight_bytes=2 if rounds else 4,
        master_bytes=4 if rounds and carry.master_weights else 0,
    )


def _critic_parameters(critic: CriticParams, model: Any, *, adapted: int) -> int:
    """Count the parameters of a critic: a head, and a model or an adapter of its own."""
    head = int(model.get_output_embeddings().weight.shape[1]) + 1
    if critic.head:
        return head
    return head + (adapted or sum(p.numel() for p in model.base_model.parameters()))


def _saved(carry: Checkpoint) -> Carry:
    from genrl_graph.nodes.policy.loading.saved import saved_policy

    try:
        saved = saved_policy(Path(carry.run).expanduser(), carry.policy, round=carry.round, peer=carry.peer)
    except (StoreError, DataError) as error:
        raise UnknownSize(str(error)) from error
    return saved.carry


def _tiny(carry: TinyLM) -> PolicySize:
    policy: Any = carry.init("sized", seed=0)  # so small that it is simply made
    model = model_of(policy.model.config, bfloat16=carry.compute_dtype == "bfloat16", carry=carry)
    tokens = ChatTokens.of(carry, policy.hf_tokenizer, where=carry.type_name)
    return PolicySize(model, policy.model.config, tokens, policy.context_length, policy.device, critic=carry.critic)


def _pretrained(carry: CausalLM) -> PolicySize:
    folder = _local(carry)
    try:
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        device = pick_device(carry.device)
        training = training_of(carry, device)
        adapter = carry if isinstance(carry, Lora) else None
        model = model_of(
            config,
            bfloat16=training.bfloat16,
            carry=carry,
            activation_bytes=training.activation_bytes,
            adapter=adapter,
        )
        tokens = tokens_of(carry, tokenizer)
    except (OSError, ValueError, DataError) as error:
        raise UnknownSize(f"model {carry.model!r}: {' '.join(str(error).split())[:200]}") from error
    read = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    shares = carry.share_prefixes and is_full(config.get_text_config())
    return PolicySize(model, config, tokens, context_of(config, carry.max_context), device, read, shares, carry.critic)


def _local(carry: CausalLM) -> Path:
    """Return the folder of a model that is on this machine; raises `UnknownSize` for another one."""
    path = Path(carry.model).expanduser()
    named = carry.model.startswith("package:") or path.exists()
    try:
        if not named and path.suffix == ".gguf" and len(path.parts) > 2:
            name, file = "/".join(path.parts[:2]), "/".join(path.parts[2:])
            hf_hub_download(name, file, revision=carry.revision, local_files_only=True)
            named = True
        if not named:
            return Path(snapshot_download(carry.model, revision=carry.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise UnknownSize(f"model {carry.model!r} is not on this machine, and no network is asked") from error
    try:
        return Path(locate(carry))
    except DataError as error:
        raise UnknownSize(str(error)) from error


def _adapter_parameters(adapter: Lora, model: Any) -> int:
    """Count the parameters that an adapter adds to a model; raises `UnknownSize` for targets that it does not have."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = adapter.target_modules
    chosen = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(task_type="CAUSAL_LM", r=adapter.r, lora_alpha=adapter.alpha, target_modules=chosen)
    adapted = copy.deepcopy(model)
    try:
        inject_adapter_in_model(config, adapted, adapter_name="default")
    except (ValueError, KeyError) as error:
        raise UnknownSize(f"target_modules: {str(error).splitlines()[0]}") from error
    return sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
