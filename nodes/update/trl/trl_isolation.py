"""Isolation for trainers written for scripts: they see a single process and change nothing but the weights.

TRL's trainers read a launcher's environment variables and treat its processes as replicas, although each is a peer of
its own. They also seed the whole process, print, write folders and leave the model patched.
"""

import gc
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import logging as transformers_logging

from genrl_graph.nodes.policy.compute.handle import CausalPolicy

# torchrun, MPI as accelerate looks for it, `accelerate launch`
_LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "PMI_",
    "MPI_",
    "OMPI_",
    "MV2_",
    "ACCELERATE_",
    "FSDP_",
)


@contextmanager
def isolated(policy: CausalPolicy) -> Iterator[str]:
    """Restore all global state that a trainer of `policy` changes; yield a temporary output folder."""
    model: Any = policy.model
    with ExitStack() as undo:
        undo.enter_context(_one_process(policy.device))
        undo.enter_context(_restored_generators(policy.device))
        undo.enter_context(
            _restored_attributes(model, model.config, model.config.get_text_config(), model.generation_config)
        )
        undo.callback(setattr, policy.hf_tokenizer, "pad_token", policy.hf_tokenizer.pad_token)
        undo.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        # trainers run the garbage collector, which takes a second if it scans every imported object
        gc.freeze()
        undo.callback(gc.unfreeze)
        undo.callback(policy.model.zero_grad, set_to_none=True)
        undo.callback(policy.model.eval)
        yield undo.enter_context(tempfile.TemporaryDirectory())


@contextmanager
def _one_process(device: torch.device) -> Iterator[None]:
    """Hide the launcher from accelerate, which would treat independent peers as replicas and wait for them."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(_LAUNCHERS)]:
        del os.environ[name]
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    _reset_accelerate()
    try:
        yield
    finally:
        _reset_accelerate()
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def _reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def _restored_generators(device: torch.device) -> Iterator[None]:
    """Restore the process's random generators and current GPU, which trainers set."""
    python, legacy = random.getstate(), np.random.get_state()
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(gpus), torch.cuda.device(device) if gpus else nullcontext():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def _restored_attributes(*objects: Any) -> Iterator[None]:
    """Restore the attributes of `objects`: trainers patch `forward` and align special tokens in the configs."""
    before = [(owner, dict(vars(owner))) for owner in objects]
    try:
        yield
    finally:
        for owner, attributes in before:
            vars(owner).clear()
            vars(owner).update(attributes)
