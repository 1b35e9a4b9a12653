"""What a torch policy keeps on disk: weights and AdamW state as safetensors, a version as JSON; nothing is pickled."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genrl_graph import seeds
from genrl_graph.errors import StoreError

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "policy.json"


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers, sorted by name; of tied ones the first."""
    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return dict(sorted({**dict(model.named_parameters()), **buffers}.items()))


def weights_digest(model: torch.nn.Module) -> str:
    """Hex digest over names, dtypes, shapes and bytes of all weights."""
    tensors = named_tensors(model)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_tensor_digest, tensors.values()))
    return seeds.digest([part for name, part in zip(tensors, digests, strict=True) for part in (name, part)])


def _tensor_digest(tensor: torch.Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    # hashing releases the GIL, so tensors are hashed side by side
    content = hashlib.blake2b(raw.data, digest_size=16).hexdigest()
    return seeds.digest((str(tensor.dtype), str(tuple(tensor.shape)), content))


def save_weights(folder: Path, model: torch.nn.Module) -> None:
    """Write weights under their names, as transformers reads them."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in named_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def save_state(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, *, version: int) -> None:
    """Write weights, the optimiser state if there is one, and the version."""
    save_weights(folder, model)
    if optimizer is not None:
        save_file(optimizer_tensors(model, optimizer), folder / OPTIMIZER)
    state = {"format": FORMAT, "version": version, "optimizer": optimizer is not None}
    (folder / STATE).write_text(json.dumps(state) + "\n")


def load_state(folder: Path, model: torch.nn.Module) -> tuple[int, dict[str, torch.Tensor] | None]:
    """Copy saved weights into the model; returns the version and the tensors of the optimiser, None if it had none."""
    try:
        state = json.loads((folder / STATE).read_text())
        saved = load_file(folder / WEIGHTS)
        moments = load_file(folder / OPTIMIZER) if state["optimizer"] else None
        form, version = state["format"], int(state["version"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(f"{folder}: holds no readable policy: {type(error).__name__}: {error}") from error
    if form != FORMAT:
        raise StoreError(f"{folder}: policy format {form!r}; this version reads {FORMAT}")
    _fits(folder, saved, named_tensors(model))
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(saved[name])
    return version, moments


def _fits(folder: Path, saved: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        have, want = _described(saved.get(name)), _described(wanted.get(name))
        if have != want:
            raise StoreError(f"{folder}: weight {name!r} is {have}, this policy has {want}; was it another model?")


def _described(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser state as `<parameter>|<key>` tensors."""
    return {
        f"{name}|{key}": torch.as_tensor(value).detach().clone().contiguous()
        for name, parameter in sorted(model.named_parameters())
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give a fresh optimiser the state that `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    for label, tensor in tensors.items():
        name, _, key = label.rpartition("|")
        parameter = parameters[name]
        optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)
