"""Torch policies on disk: weights and optimiser state as safetensors, the version as JSON, nothing pickled."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from genrl_graph import seeds
from genrl_graph.errors import StoreError
from genrl_graph.nodes.policy.compute.shards import (
    is_elsewhere,
    is_sharded,
    own_part,
    read_tensors,
    whole,
    write_tensors,
)
from genrl_graph.store.durable import failed, refusal

FORMAT = 1
MOST_MOMENTS = 4  # numbers that an optimiser keeps for each weight
WORTH_THREADS = 2**20  # bytes above which several threads hash faster than one
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "policy.json"
CRITIC = "critic.safetensors"
PREFIX = "critic."
"""Prefix of the names of a critic's weights among those of its policy."""

Tensors = Mapping[str, torch.Tensor]
M = TypeVar("M", bound=torch.nn.Module)


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers, sorted by name; tied parameters appear once, under the first name."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return dict(sorted({**dict(model.named_parameters()), **buffers}.items()))


def cast_weights(model: M, dtype: torch.dtype) -> M:
    """Cast the parameters of a model in place; buffers, such as the frequencies of positions, stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def weights_digest(tensors: Tensors) -> str:
    """Return a hex digest over names, dtypes, shapes and bytes; of sharded tensors on the first rank of a group."""
    return seeds.digest([part for pair in tensor_digests(tensors).items() for part in pair])


def tensor_digests(tensors: Tensors) -> dict[str, str]:
    """Return the hex digest of each tensor, over its dtype, shape and bytes."""
    # the ranks of a group put sharded tensors together in one order
    if is_sharded(tensors) or sum(tensor.nbytes for tensor in tensors.values()) < WORTH_THREADS:
        digests = list(map(_tensor_digest, tensors.values()))
    else:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(_tensor_digest, tensors.values()))
    return dict(zip(tensors, digests, strict=True))


def _tensor_digest(tensor: torch.Tensor) -> str:
    value = whole(tensor.detach())
    if is_elsewhere(tensor):
        return ""
    raw = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    # hashing releases the GIL, so threads hash tensors in parallel
    content = hashlib.blake2b(raw.data, digest_size=16).hexdigest()
    return seeds.digest((str(tensor.dtype), str(tuple(tensor.shape)), content))


def copied_values(parameters: Tensors) -> dict[str, NDArray[np.float32]]:
    """Return copies of parameters as float32 arrays, by name."""
    return {name: whole(parameter.detach()).float().cpu().numpy().copy() for name, parameter in parameters.items()}


def replace_values(parameters: Tensors, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy arrays into the parameters of the same names and shapes."""
    assert parameters.keys() == values.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(own_part(torch.from_numpy(values[name]), parameter))


def save_weights(file: Path, tensors: Tensors) -> None:
    """Write weights under their names, in a form that transformers and peft read; raises `StoreError` on failure.

    All ranks of a group write tensors that they share.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        if is_sharded(tensors):
            return write_tensors(file, contiguous)
        save_file(contiguous, file, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, too, is reported as this
        if (refused := refusal(error)) is not None:
            raise failed(file, "write weights", refused) from error
        raise StoreError(f"{file}: cannot write weights: {error}") from error


def save_state(
    folder: Path, weights: Tensors, moments: Tensors | None, *, version: int, file: str = WEIGHTS, base: str = ""
) -> None:
    """Write weights (to `file`), the optimiser state if there is one, and the version.

    For an adapter, `base` is the digest of its base model and scale.
    """
    save_weights(folder / file, weights)
    if moments is not None:
        save_weights(folder / OPTIMIZER, moments)
    save_version(folder, version=version, has_moments=moments is not None, base=base)


def save_version(folder: Path, *, version: int, has_moments: bool, base: str = "") -> None:
    """Write the version, and what else says of which policy the tensors are."""
    state: dict[str, Any] = {"format": FORMAT, "version": version, "optimizer": has_moments}
    (folder / STATE).write_text(json.dumps(state | ({"base": base} if base else {})) + "\n")


def load_state(
    folder: Path,
    weights: Tensors,
    *,
    critic: Tensors | None = None,
    file: str = WEIGHTS,
    base: str = "",
    optimizer: bool = True,
) -> tuple[int, dict[str, torch.Tensor] | None]:
    """Copy saved weights into the tensors of the same names; return the version and the optimiser state, if any.

    `critic` are the weights of a critic, which has a file of its own. With `optimizer=False` the optimiser state is not
    read. Raises `StoreError`, with the tensors unchanged, if the folder holds no readable policy or one of another
    model or base.
    """
    files = {file: weights} | ({CRITIC: critic} if critic else {})
    try:
        state = json.loads((folder / STATE).read_text())
        has_moments = optimizer and state["optimizer"]
        saved_format, version, saved_base = state["format"], int(state["version"]), state.get("base", "")
        _check_headers(folder, files, has_moments=has_moments)
        saved = {name: read_tensors(folder / name, tensors) for name, tensors in files.items()}
        trained = {**weights, **{PREFIX + name: tensor for name, tensor in (critic or {}).items()}}
        moments = read_tensors(folder / OPTIMIZER, trained) if has_moments else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise StoreError(f"{folder}: holds no readable policy: {type(error).__name__}: {error}") from error
    if saved_format != FORMAT:
        raise StoreError(f"{folder}: policy format {saved_format!r}; this version reads {FORMAT}")
    for name, tensors in files.items():
        _check_shapes(folder, saved[name], tensors)
    if saved_base != base:
        raise StoreError(
            f"{folder}: an adapter of base {saved_base}, this policy has {base}; was it another base or alpha?"
        )
    with torch.no_grad():
        for of_file, tensors in files.items():
            for name, tensor in tensors.items():
                tensor.copy_(saved[of_file][name])
    return version, moments


def stored_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors of a safetensors file, from its header alone."""
    with safe_open(file, "pt") as opened:
        return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - it is no mapping


def _check_headers(folder: Path, files: Mapping[str, Tensors], *, has_moments: bool) -> None:
    """Raise `StoreError` before memory is taken for tensors that the policy cannot have."""
    if CRITIC in files and not (folder / CRITIC).exists():
        raise StoreError(f"{folder}: has no {CRITIC}, but this policy has a critic; was it trained without one?")
    most = more = count = 0
    for file, weights in files.items():
        shapes = stored_shapes(folder / file)
        for name in sorted(shapes.keys() & weights.keys()):
            if shapes[name] != list(weights[name].shape):
                expected = list(weights[name].shape)
                raise StoreError(
                    f"{folder}: weight {name!r} is {shapes[name]}, this policy has {expected}; was it another model?"
                )
        most, count = most + sum(weight.numel() for weight in weights.values()), count + len(weights)
        more += sum(math.prod(shape) for name, shape in shapes.items() if name not in weights)
    moments = sum(map(math.prod, stored_shapes(folder / OPTIMIZER).values())) if has_moments else 0
    if max(more, moments // MOST_MOMENTS) > most + count:
        raise StoreError(
            f"{folder}: holds {more} other weights and an optimiser of {moments} numbers, this policy has "
            f"{most} weights; was it another model?"
        )


def _check_shapes(folder: Path, saved: Tensors, weights: Tensors) -> None:
    for name in sorted(saved.keys() | weights.keys()):
        actual, expected = _describe(saved.get(name)), _describe(weights.get(name))
        if actual != expected:
            raise StoreError(
                f"{folder}: weight {name!r} is {actual}, this policy has {expected}; was it another model?"
            )


def _describe(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def optimizer_tensors(parameters: Tensors, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser state as tensors named `<parameter>|<key>`, without copying."""
    return {
        f"{name}|{key}": torch.as_tensor(value).detach()
        for name, parameter in sorted(parameters.items())
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(parameters: Tensors, optimizer: torch.optim.Optimizer, moments: Tensors) -> None:
    """Load the result of `optimizer_tensors` into a new optimiser; raises `KeyError` for an unknown parameter."""
    for label, tensor in moments.items():
        name, _, key = label.rpartition("|")
        parameter = parameters[name]
        optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)


def draw_weights(model: Any, *, seed: int, name: str, spread: float) -> None:
    """Draw matrices from a normal distribution with deviation `spread` and set vectors (norms) to 1.

    Each parameter has its own random stream from (seed, name, parameter name).
    """
    import torch

    from genrl_graph.seeds import stream

    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            drawn = stream("tiny_lm", seed, name, label).standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(spread * drawn))
