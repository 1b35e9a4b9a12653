"""Load a frozen policy from its folder alone, without its carry: a member of a pool of snapshots."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from genrl_graph.contract.policy import Policy
from genrl_graph.errors import StoreError
from genrl_graph.nodes.policy.actors.network_handle import load_frozen as load_network
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.device import pick_device
from genrl_graph.nodes.policy.compute.handle import FROZEN, CausalPolicy
from genrl_graph.nodes.policy.compute.trainable import Training


def load_frozen(folder: Path) -> Policy:
    """Load a saved policy, a network or a language model; raises `StoreError` if the folder holds none."""
    return load_model(folder) if (folder / FROZEN).exists() else load_network(folder)


def load_model(folder: Path) -> CausalPolicy:
    """Load a language model that `CausalPolicy.save_frozen` has written."""
    try:
        facts = json.loads((folder / FROZEN).read_text())
        training = Training(
            bfloat16=bool(facts["bfloat16"]),
            share_prefixes=bool(facts["share_prefixes"]),
            param_dtype=getattr(torch, facts.get("param_dtype", "float32")),
        )
        name, context, ends = str(facts["name"]), int(facts["context"]), [int(id) for id in facts["ends"]]
        tokens = ChatTokens(AutoTokenizer.from_pretrained(folder), where=str(folder))
        config = AutoConfig.from_pretrained(folder)
        model: torch.nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / FROZEN}: holds no language model: {error}") from error
    policy = CausalPolicy(name, model.to(pick_device(facts["device"])), tokens, context=context, training=training)
    policy.end_with(ends)
    policy.load_weights(folder)
    return policy
