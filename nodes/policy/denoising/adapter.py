"""A LoRA adapter on the frozen denoiser of a pipeline (imports torch)."""

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.compute.weights import named_tensors, weights_digest
from genrl_graph.seeds import digest, stream

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.diffusion import DenoiserLora


def add_adapter(denoiser: Any, params: "DenoiserLora", *, seed: int, name: str) -> str:
    """Freeze a denoiser and put a new adapter on it, drawn from (seed, name); return the digest of base and scale.

    Raises `ParamError` if a target is missing or not linear.
    """
    base = weights_digest(named_tensors(denoiser))
    config = LoraConfig(r=params.r, lora_alpha=params.alpha, target_modules=list(params.target_modules))
    denoiser.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws initial weights, which are overwritten below
            denoiser.add_adapter(config)
    except ValueError as error:
        raise ParamError(f"policy.diffusion.lora.target_modules: {str(error).splitlines()[0]}") from error
    with torch.no_grad():
        for label, weight in denoiser.named_parameters():
            if not weight.requires_grad:
                continue
            if weight.ndim != 2:
                module = label.partition(".lora_")[0]
                raise ParamError(f"policy.diffusion.lora.target_modules: {module!r} is no linear module; name others")
            if ".lora_A." in label:
                bound = 1 / math.sqrt(weight.shape[1])
                drawn = stream("lora", seed, name, label).uniform(-bound, bound, tuple(weight.shape))
                weight.copy_(torch.from_numpy(drawn))
    return digest((base, repr(float(params.alpha))))


def merged(denoiser: Any) -> Any:
    """Return a copy of the denoiser with its adapter merged into the weights; the denoiser itself if it has none."""
    if not any(isinstance(module, LoraLayer) for module in denoiser.modules()):
        return denoiser
    plain = copy.deepcopy(denoiser)
    plain.fuse_lora()
    plain.unload_lora()
    return plain
