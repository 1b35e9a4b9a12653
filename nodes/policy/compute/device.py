"""The device of this process, and the precisions that it supports natively."""

import os
from functools import lru_cache
from pathlib import Path

import torch

from genrl_graph.errors import ParamError


def line_of(error: Exception) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def pick_device(device: str) -> torch.device:
    """Return the device to compute on; "auto" is the GPU of this process's local rank, without GPUs the CPU.

    Raises `ParamError` if the device cannot be used here.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ParamError(f"policy.causal_lm.device: {device!r} cannot be used here: {line_of(error)}") from error
    return chosen


@lru_cache
def gains_from_bfloat16(device: torch.device) -> bool:
    """Return whether the device has native bfloat16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features")))
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(next(lines, "").split())
