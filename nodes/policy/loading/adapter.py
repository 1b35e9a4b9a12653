"""The live policy of a LoRA adapter, which shares the weights of a frozen base with other adapters.

Each policy has its own module objects around the shared weights. No adapter is ever switched on or off, so a backward
pass, and any recomputation in it, sees the same adapter as its forward pass.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakValueDictionary

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from genrl_graph import seeds
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.device import pick_device
from genrl_graph.nodes.policy.compute.exported import all_or_nothing, in_float32
from genrl_graph.nodes.policy.compute.handle import CausalPolicy, M
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.compute.weights import load_state, named_tensors, save_weights, weights_digest
from genrl_graph.nodes.policy.engine.sampler import sampler_of
from genrl_graph.nodes.policy.loading.pretrained import (
    context_of,
    load_pretrained,
    locate,
    probe,
    tokens_of,
    training_of,
)

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.lora import Lora

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # peft's prefix of weight names in its files
ADAPTER = "default"
FUSED = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
"""Model types whose `out_proj` peft refuses to wrap, because fused kernels read its weight and never call it."""


class SharedBase:
    """A frozen model whose weights several adapters share; it is freed with the last of them."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, source: str) -> None:
        self.model, self.source = model.eval().requires_grad_(False), source
        self._tokenizer = tokenizer
        self._tokens: dict[str, ChatTokens] = {}

    @cached_property
    def digest(self) -> str:
        """Hex digest of the base weights."""
        return weights_digest(named_tensors(self.model))

    def tokens(self, params: "Lora") -> ChatTokens:
        """Return the tokenizer with the chat format of the params; policies with the same format share it."""
        format = params.model_dump_json(include={"chat_template", "chat_template_kwargs", "assistant_prefix"})
        if format not in self._tokens:
            self._tokens[format] = tokens_of(params, copy.deepcopy(self._tokenizer))
        return self._tokens[format]

    def copy_around(self, model: M, replaced: Mapping[int, torch.nn.Parameter] | None = None) -> M:
        """Copy a model of this base; the copy shares the base weights.

        `replaced` maps the `id` of a base parameter to the parameter that the copy has instead.
        """
        shared: dict[int, Any] = {id(t): t for t in chain(self.model.parameters(), self.model.buffers())}
        return copy.deepcopy(model, shared | dict(replaced or {}))


_bases: "WeakValueDictionary[tuple[str, str | None, str, str], SharedBase]" = WeakValueDictionary()


def adapted_policy(name: str, params: "Lora", *, seed: int) -> "LoraPolicy":
    """Return a policy with a new adapter, drawn from (seed, name), on the base shared by all policies of the model."""
    engine = sampler_of(params, adapts=True)  # what is missing for it is told before a model is loaded
    device = pick_device(params.device)
    key = (params.model, params.revision, str(device), params.param_dtype)
    base = _bases.get(key)
    if base is None:
        model, tokenizer = load_pretrained(params)
        location = locate(params)
        source = str(location) if params.model.startswith("package:") or Path(params.model).exists() else params.model
        base = _bases[key] = SharedBase(model.to(device), tokenizer, source)
    context = context_of(cast(Any, base.model).config, params.max_context)
    config = _config(params, base)
    model = _inject(config, base.copy_around(base.model), where=f"{params.type_name}.target_modules")
    _draw_adapter(model, seed=seed, name=name)
    policy = LoraPolicy(
        name,
        model,
        base.tokens(params),
        base=base,
        config=config,
        context=context,
        training=training_of(params, device),
    )
    policy.engine = engine
    probe(policy, where=f"{params.type_name}.model {params.model!r}")
    policy.add_critic(params.critic, where=f"{params.type_name}.model {params.model!r}")
    return policy


class LoraPolicy(CausalPolicy):
    """An adapter on a frozen base; only the adapter is trained and saved."""

    weights_file = WEIGHTS
    adapts = True

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokens: ChatTokens,
        *,
        base: SharedBase,
        config: Any,
        context: int,
        training: Training,
    ) -> None:
        super().__init__(name, model, tokens, context=context, training=training)
        self._base, self._config = base, config

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the adapter's weights under peft's names."""
        return dict(self._trained_model())

    def _trained_model(self) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters under peft's names."""
        return {
            PREFIX + name.replace(f".{ADAPTER}.", "."): parameter
            for name, parameter in sorted(self.model.named_parameters())
            if _is_adapter(name)
        }

    def _save_config(self, folder: Path) -> None:
        """Write the config of the adapter, with which peft loads it."""
        self._config.save_pretrained(folder)

    def save_frozen(self, folder: Path) -> None:
        """Raise `StoreError`: an adapter cannot be made again without the model that it was put on."""
        raise StoreError(f"{folder}: adapter {self.name!r} cannot be in a pool of snapshots; use policy.causal_lm")

    def export_adapter(self, folder: Path) -> None:
        """Write only the adapter and the tokenizer, and verify that peft computes the same log-probs from them.

        Raises `StoreError`, with nothing left behind, if it does not.
        """
        with all_or_nothing(folder):
            self.save_adapter(folder)
            self._save_critic(folder)
            self.hf_tokenizer.save_pretrained(folder)
            base = in_float32(self._base.copy_around(self._base.model))
            self._verify(folder, PeftModel.from_pretrained(base, folder).eval())

    def save_adapter(self, folder: Path) -> None:
        """Write only the adapter's weights and configuration, as peft does."""
        save_weights(folder / WEIGHTS, self.weights())
        self._config.save_pretrained(folder)

    @property
    def base_model(self) -> torch.nn.Module:
        """The frozen model that the adapter is on."""
        return self._base.model

    @property
    def adapter_rank(self) -> int:
        """The rank of the adapter."""
        return int(self._config.r)

    def digest(self) -> str:
        """Return a hex digest of the adapter, its base and its scale."""
        return seeds.digest((self._identity, super().digest()))

    @property
    def _identity(self) -> str:
        return seeds.digest((self._base.digest, repr(float(self._config.lora_alpha))))

    def _read(self, folder: Path, *, optimizer: bool) -> tuple[int, dict[str, torch.Tensor] | None]:
        critic = self._critic_weights()
        return load_state(folder, self.weights(), critic=critic, file=WEIGHTS, base=self._identity, optimizer=optimizer)

    def _copied(self, module: M) -> M:
        other = self._base.copy_around(module)
        other.zero_grad(set_to_none=True)
        return other

    def _twin(self, name: str) -> Self:
        return type(self)(
            name,
            self._copied(self.model),
            self.tokens,
            base=self._base,
            config=self._config,
            context=self.context_length,
            training=self._training,
        )

    def _sampler(self) -> torch.nn.Module:
        """Return a copy of the model with bfloat16 matrices.

        Autocast does not cache casts of frozen weights and would repeat them for every token. Merging the adapter into
        the matrices would be faster, but rounding would double the distance between sampled and recomputed log-probs.
        """
        sampler = super()._sampler()
        if sampler is not self.model or not self._training.bfloat16:
            return sampler
        embedding = cast(Any, self.model).get_input_embeddings().weight
        layers = [layer for layer in self.model.modules() if isinstance(layer, torch.nn.Linear)]
        matrices = {id(layer.weight): layer.weight for layer in layers if layer.weight is not embedding}
        rounded = {key: torch.nn.Parameter(matrix.detach().bfloat16()) for key, matrix in matrices.items()}
        return self._base.copy_around(self.model, rounded)

    def merged(self) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
        """Return the base, and its weights under their own names with the adapter merged into them, in float32."""
        adapted = in_float32(self.model)
        deltas = {
            f"{_of_base(name)}.{getattr(module, 'parameter_name', 'weight')}": cast(Any, module).get_delta_weight(
                ADAPTER
            )
            for name, module in adapted.named_modules()
            if isinstance(module, LoraLayer)
        }
        merged = {}
        for name, tensor in named_tensors(adapted).items():
            own = _of_base(name)
            if not _is_adapter(name):
                merged[own] = tensor.detach() + deltas[own].detach() if own in deltas else tensor
        return in_float32(self._base.model), merged


def _of_base(name: str) -> str:
    """Return the name in the base of a module or weight; peft wraps a module of several adapted weights repeatedly."""
    return name.replace(".base_layer", "")


def _is_adapter(name: str) -> bool:
    return f".{ADAPTER}." in name and ".lora_" in name


def _config(params: "Lora", base: SharedBase) -> Any:
    targets = params.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=params.r,
        lora_alpha=params.alpha,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=_unfit(base.model) if isinstance(targets, str) else None,
        base_model_name_or_path=base.source,
        revision=params.revision,
        inference_mode=False,
    )


def _unfit(model: torch.nn.Module) -> list[str] | None:
    """Return the linear modules that all-linear leaves out."""
    fused = cast(Any, model).config.model_type in FUSED
    return [*(_not_plain(model) or ()), *(["out_proj"] if fused else ())] or None


def _not_plain(model: torch.nn.Module) -> list[str] | None:
    """Return the linear modules that compute more than a product, such as routers of experts: LoRA cannot wrap them."""
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [name for name, module in linear if not _is_plain(module)] or None


def _is_plain(linear: torch.nn.Linear) -> bool:
    """Test whether a module computes a plain product; a `forward` of its own is tried, as Falcon's writes out one."""
    if type(linear).forward is torch.nn.Linear.forward:
        return True
    weight = linear.weight
    inputs = torch.linspace(-1, 1, 2 * linear.in_features, dtype=weight.dtype, device=weight.device).view(2, -1)
    with torch.no_grad():
        try:
            outputs = linear(inputs)
        except (TypeError, ValueError, RuntimeError):  # it takes other arguments or shapes
            return False
        expected = torch.nn.functional.linear(inputs, weight, linear.bias)
    if not isinstance(outputs, torch.Tensor) or outputs.shape != expected.shape:
        return False
    gap = torch.linalg.vector_norm((outputs - expected).float())
    return bool(gap <= torch.finfo(weight.dtype).eps * 8 * torch.linalg.vector_norm(expected.float()))


def _inject(config: Any, model: torch.nn.Module, *, where: str) -> torch.nn.Module:
    """Wrap the target modules with an adapter; raises `ParamError` if one is missing or not linear."""
    head = cast(Any, model).get_output_embeddings()
    tied = head is not None and head.weight is cast(Any, model).get_input_embeddings().weight
    try:
        # peft draws initial weights, which `_draw_adapter` overwrites
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft asks for other ranks of fused experts than it then finds; every matrix has the rank of the params
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
            inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    except (ValueError, KeyError) as error:
        raise ParamError(f"{where}: {str(error).splitlines()[0]}") from error
    wrapped = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name in _not_plain(model) or ():
        if name.removesuffix(".base_layer") in wrapped:
            raise ParamError(f"{where}: {_of_base(name)!r} is no plain linear module; name others")
    for name, parameter in model.named_parameters():
        module = name.partition(".lora_")[0]
        if parameter.requires_grad and ((".lora_A." not in name and ".lora_B." not in name) or parameter.ndim != 2):
            raise ParamError(f"{where}: {module!r} is no linear module; name others")
    if tied and isinstance(cast(Any, model).get_output_embeddings(), LoraLayer):
        raise ParamError(f"{where}: the output layer shares its weights with the embedding; leave it out")
    return model


def _draw_adapter(model: torch.nn.Module, *, seed: int, name: str) -> None:
    """Draw A uniformly in +-1/sqrt(inputs), like torch's linear layers, one random stream per matrix; B stays 0."""
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if _is_adapter(label) and ".lora_A." in label:
                bound = 1 / math.sqrt(parameter.shape[1])
                drawn = seeds.stream("lora", seed, name, label).uniform(-bound, bound, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(drawn))
