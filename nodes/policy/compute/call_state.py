"""State of modules that a call changes and the next call would see, such as the frequencies of a dynamic rope."""

from collections.abc import Collection
from typing import Any

import torch

_INITIAL = "_initial_call_state"
_SIMPLE = (bool, int, float, str, type(None), torch.Tensor)

State = tuple[dict[str, torch.Tensor | None], dict[str, Any]]


def changed_kinds(before: dict[str, State], model: torch.nn.Module) -> frozenset[str]:
    """Return the class names of modules whose state differs from what `states` returned earlier."""
    after = states(model)
    return frozenset(
        type(module).__qualname__
        for name, module in model.named_modules()
        if name in before and not (_equal(before[name][0], after[name][0]) and _equal(before[name][1], after[name][1]))
    )


def states(model: torch.nn.Module) -> dict[str, State]:
    """Return copies of the buffers and plain attributes of every module."""
    return {name: _state(module) for name, module in model.named_modules()}


def remember(model: torch.nn.Module, kinds: Collection[str]) -> None:
    """Keep the present state of all modules of these classes as the one that `restore` sets back."""
    for module in model.modules():
        if type(module).__qualname__ in kinds and _INITIAL not in module.__dict__:
            module.__dict__[_INITIAL] = _state(module)


def restore(model: torch.nn.Module) -> None:
    """Set the remembered modules back to their initial state."""
    for module in model.modules():
        if _INITIAL in module.__dict__:
            buffers, attributes = module.__dict__[_INITIAL]
            module._buffers.update(_copied(buffers))
            module.__dict__.update(_copied(attributes))


def _state(module: torch.nn.Module) -> State:
    plain = {
        name: value
        for name, value in module.__dict__.items()
        if not name.startswith("_") and name != "training" and isinstance(value, _SIMPLE)
    }
    return _copied(dict(module._buffers)), _copied(plain)


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()
    }


def _equal(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Compare the values that `before` has; what a call added is a memo of its own."""
    for name, old in before.items():
        new = after.get(name)
        if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
            if old.shape != new.shape or not torch.equal(old, new.to(old.device)):
                return False
        elif isinstance(old, torch.Tensor) or isinstance(new, torch.Tensor) or old != new:
            return False
    return True
