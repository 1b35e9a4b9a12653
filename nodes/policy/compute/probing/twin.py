"""Small random twins of a model: its architecture with few layers, few experts, and borders that short rows reach."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

VOCABULARY = 256
"""Most token ids of a twin."""
_BORDERS = re.compile(r"window|chunk|local_att|max_pos|original_max|n_positions|max_seq|index_topk")
_EXPERTS = re.compile(r"num_.*experts$|n_routed_experts$|num_local_experts$|moe_num_experts$")
_TOKEN = re.compile(r"_token(_id|_ids)?$|_token_index$")
FIRST, LIMIT, SPACING = 16, 64, 8
"""The smallest border of a twin, the smallest limit of its context, and the steps from one to the next, in tokens."""
_LEAST_STEP = 2.0
"""The least step of a twin's state-space layers, where the original has a least step."""
_LIMITS = re.compile(r"max_pos|n_positions|max_seq")


@dataclass(frozen=True, slots=True)
class Twin:
    """A small random model of the architecture of another; `borders` maps its borders to those of the original."""

    model: PreTrainedModel
    borders: dict[int, int]


def twins(model: torch.nn.Module) -> Iterator[Twin]:
    """Yield twins of a model, the cheapest first, without those that transformers refuses to build."""
    original = cast(Any, model)
    layers = _first_of_each_kind(original)
    for experts, few_layers in ((True, True), (False, True), (False, False)):
        config = copy.deepcopy(original.config)
        config._attn_implementation = "sdpa" if getattr(original, "_supports_sdpa", False) else "eager"
        borders = _map_borders(config)
        try:
            for part in _parts(config):
                _shrink(part, layers=layers if few_layers else None, experts=experts, borders=borders)
            yield Twin(_draw(type(original), config, like=original), {small: large for large, small in borders.items()})
        except Exception:  # a configuration refuses in as many ways as there are architectures
            continue


def _draw(kind: type, config: Any, *, like: torch.nn.Module) -> PreTrainedModel:
    """Return a model with weights drawn from a fixed seed, on the device of another."""
    device = next(like.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = cast(PreTrainedModel, kind._from_config(config, dtype=torch.float32))  # type: ignore[attr-defined]
        for name, parameter in twin.named_parameters():
            if name.endswith("bias") and not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)  # zeros would hide what a bias does to padding
    _reach_step_limits(twin)
    return twin.to(device).eval().requires_grad_(True)


def _reach_step_limits(model: torch.nn.Module) -> None:
    """Raise the least step of state-space layers to one that the steps of a random model are below.

    It is a border like the others: reading a row keeps to it, and taking one step with a cache may not.
    """
    for module in model.modules():
        limits = getattr(module, "time_step_limit", None)
        if isinstance(limits, list | tuple) and len(limits) == 2 and limits[0] > 0:
            cast(Any, module).time_step_limit = (_LEAST_STEP, max(_LEAST_STEP, limits[1]))


def _parts(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it, such as that of a vision tower."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            yield from _parts(part)


def _shrink(config: Any, *, layers: int | None, experts: bool, borders: dict[int, int]) -> None:
    """Reduce one configuration in place."""
    total = getattr(config, "num_hidden_layers", None)
    for name, value in list(vars(config).items()):
        small = value
        if name.startswith("_") or name in getattr(config, "sub_configs", {}):
            continue
        if isinstance(value, list) and isinstance(total, int) and len(value) == total and layers is not None:
            small = value[:layers]
        elif isinstance(value, dict):
            small = _with_borders(value, borders)
        elif isinstance(value, int) and not isinstance(value, bool):
            small = _smaller(name, value, config, experts=experts, borders=borders)
        if small is not value:
            setattr(config, name, small)
    if layers is not None and isinstance(total, int) and total > layers:
        config.num_hidden_layers = layers


def _smaller(name: str, value: int, config: Any, *, experts: bool, borders: dict[int, int]) -> int:
    """Return the value of a number of a configuration in its twin."""
    if "vocab" in name:
        return min(value, VOCABULARY)
    if _TOKEN.search(name) and value >= VOCABULARY:
        return VOCABULARY - 1
    if _BORDERS.search(name):
        return borders.get(value, value)
    if experts and _EXPERTS.search(name):
        active = getattr(config, "num_experts_per_tok", None) or 1
        return min(value, max(4, 2 * active)) if isinstance(active, int) else value
    if experts and name in ("n_group", "topk_group"):
        return 1
    return value


def _map_borders(config: Any) -> dict[int, int]:
    """Return a small border for each that a configuration names, in their order."""
    named = [pair for part in _parts(config) for pair in _named_borders(vars(part))]
    limits = {value for name, value in named if _LIMITS.search(name) and "original" not in name}
    return {
        value: min(value, (LIMIT if value in limits else FIRST) + SPACING * index)
        for index, value in enumerate(sorted({value for _, value in named}))
    }


def _named_borders(values: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _named_borders(value)
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1 and _BORDERS.search(str(name)):
            yield str(name), value


def _with_borders(values: dict[str, Any], borders: dict[int, int]) -> dict[str, Any]:
    """Return a dict of a configuration, such as that of its rope, with the borders of the twin."""
    return {
        name: _with_borders(value, borders)
        if isinstance(value, dict)
        else borders.get(value, value)
        if isinstance(value, int) and not isinstance(value, bool) and _BORDERS.search(str(name))
        else value
        for name, value in values.items()
    }


def _first_of_each_kind(model: Any) -> int:
    """Return the number of first layers of a model that hold a layer of each of its kinds, at least two."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    lists = [v for v in vars(model.config.get_text_config()).values() if isinstance(v, list) and len(v) == count]
    seen, needed = set[object](), 2
    for index in range(count):
        kind = (*(_kind(stack[index]) for stack in stacks), *(repr(values[index]) for values in lists))
        if kind not in seen:
            seen.add(kind)
            needed = max(needed, index + 1)
    return needed


def _kind(layer: torch.nn.Module) -> tuple[object, ...]:
    """Return what tells the kinds of layers apart: the classes of their modules and their simple settings."""
    return tuple((name, type(module).__qualname__, _settings(module)) for name, module in layer.named_modules())


def _settings(module: torch.nn.Module) -> tuple[tuple[str, object], ...]:
    simple = (bool, int, float, str, type(None))
    return tuple(
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, simple)
        and not name.startswith("_")
        and not re.search("layer_?(idx|id|number)|training", name)
    )
