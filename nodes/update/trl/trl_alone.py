"""A place for trainers made for scripts: they see a single process, and leave nothing behind but the weights.

They read a launcher's variables and take its processes for replicas, though a peer is a process of its own; they seed
the whole process, print, write folders, and leave the model patched.
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
def alone(policy: CausalPolicy) -> Iterator[str]:
    """Everything around a trainer of this policy; gives a folder that goes away with the context."""
    model: Any = policy.model
    with ExitStack() as undo:
        undo.enter_context(_one_process(policy.device))
        undo.enter_context(_same_generators(policy.device))
        undo.enter_context(
            _same_attributes(model, model.config, model.config.get_text_config(), model.generation_config)
        )
        undo.callback(setattr, policy.hf_tokenizer, "pad_token", policy.hf_tokenizer.pad_token)
        undo.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        # trainers collect garbage once a run, which takes a second where all that is imported is looked at
        gc.freeze()
        undo.callback(gc.unfreeze)
        undo.callback(policy.model.zero_grad, set_to_none=True)
        undo.callback(policy.model.eval)
        yield undo.enter_context(tempfile.TemporaryDirectory())


@contextmanager
def _one_process(device: torch.device) -> Iterator[None]:
    """Hide the launcher from accelerate, which would make replicas of independent peers and wait for them."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(_LAUNCHERS)]:
        del os.environ[name]
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    _forget_processes()
    try:
        yield
    finally:
        _forget_processes()
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def _forget_processes() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def _same_generators(device: torch.device) -> Iterator[None]:
    """Trainers seed the generators of the whole process and choose its GPU."""
    python, legacy = random.getstate(), np.random.get_state()
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(gpus), torch.cuda.device(device) if gpus else nullcontext():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def _same_attributes(*objects: Any) -> Iterator[None]:
    """Trainers patch `forward` and align special tokens in the configs; these get their attributes back."""
    kept = [(owner, dict(vars(owner))) for owner in objects]
    try:
        yield
    finally:
        for owner, attributes in kept:
            vars(owner).clear()
            vars(owner).update(attributes)
