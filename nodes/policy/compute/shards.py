"""Tensors that are sharded over the ranks of a group: whole values of them, the part of this rank, files of all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

Tensors = Mapping[str, torch.Tensor]

CONSOLIDATED = "model-00001-of-00001.safetensors"
"""The name that torch gives to the one file into which it puts the shards of all ranks."""


def is_sharded(tensors: Tensors) -> bool:
    """Return whether some of the tensors are sharded."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole value of a tensor; where it is sharded, all ranks must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_elsewhere(tensor: torch.Tensor) -> bool:
    """Return whether the whole value of a tensor is for another rank to use: the first of those that share it."""
    return isinstance(tensor, DTensor) and tensor.device_mesh.get_local_rank() > 0


def own_part(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Return a whole value, which may be a slice of a file, as it is sharded in `like`: here this rank's part of it."""
    if not isinstance(like, DTensor) or not like.shape:
        return torch.as_tensor(value[:])
    mesh, (placement,) = like.device_mesh, like.placements
    rows = -(-like.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * rows, like.shape[0])
    part = torch.as_tensor(value[start : start + rows]).to(like.device)
    return DTensor.from_local(part, mesh, [placement], run_check=False, shape=like.shape, stride=like.stride())


def read_tensors(file: Path, like: Tensors) -> dict[str, torch.Tensor]:
    """Read a safetensors file; of tensors that are sharded in `like` only this rank's part.

    A name is that in `like`, which `|` and more may follow.
    """
    if not is_sharded(like):
        return load_file(file)
    with safe_open(file, "pt") as opened:
        return {name: _read(opened, name, like.get(name.partition("|")[0])) for name in opened.keys()}  # noqa: SIM118


def _read(opened: Any, name: str, like: torch.Tensor | None) -> torch.Tensor:
    stored = opened.get_slice(name)
    if like is None or stored.get_shape() != list(like.shape):
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor
    return own_part(stored, like)


def write_tensors(file: Path, tensors: Tensors) -> None:
    """Write sharded tensors to one safetensors file: every rank its part, then the first all parts in one.

    The ranks must see one folder. torch sends its plans of what to write to other ranks as pickles, in memory.
    """
    from torch.distributed import checkpoint

    sharded = next(tensor for tensor in tensors.values() if isinstance(tensor, DTensor))
    group, folder = sharded.device_mesh.get_group(), file.parent / f"{file.stem}.shards"
    writer = checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True, enable_consolidation=True)
    checkpoint.save(dict(tensors), storage_writer=writer, process_group=group)
    if group.rank() == 0:
        _write_numbers(folder / CONSOLIDATED, {name: tensor for name, tensor in tensors.items() if not tensor.shape})
        (folder / CONSOLIDATED).rename(file)
        shutil.rmtree(folder)


def _write_numbers(file: Path, numbers: Tensors) -> None:
    """Write tensors without dimensions into a safetensors file: torch puts shards together without them."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        head = json.loads(stream.read(size))
        for name, number in numbers.items():
            stream.seek(8 + size + head[name]["data_offsets"][0])
            stream.write(number.numpy().tobytes())
