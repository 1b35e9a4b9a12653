"""Measure the rates of a machine, and the speeds of a few layers of a model."""

import copy
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.policy.compute.activation_checkpointing import GB, kept_bytes
from genrl_graph.nodes.policy.compute.logprobs import completion_logprobs
from genrl_graph.nodes.policy.compute.onednn_linear import prepacked
from genrl_graph.nodes.policy.compute.sampling import Limits, sample_completions
from genrl_graph.nodes.policy.loading.gguf_model import cache_root
from genrl_graph.runners.estimate.costs import Machine, Speeds
from genrl_graph.runners.estimate.models import PolicySize
from genrl_graph.runners.tracking.memory import memory
from genrl_graph.store.durable import failed

Clock = Callable[[], float]
"""Return seconds since a fixed moment."""

MOST_TRIES, PATIENCE_S = 12, 0.8
FEW, MORE, WHOLE = 2, 6, 300_000_000
"""Layers of the two models from which a large one is extrapolated. Extrapolation multiplies measurement errors, so a
model of up to `WHOLE` parameters is timed whole."""


def best(work: Callable[[], object], clock: Clock) -> float:
    """Return the seconds of the fastest of several calls, after a warm-up: other programs can only slow a call down."""
    work()
    spent: list[float] = []
    while not spent or (sum(spent) < PATIENCE_S and len(spent) < MOST_TRIES):
        started = clock()
        work()
        spent.append(clock() - started)
    return min(spent)


def measure_machine(clock: Clock) -> Machine:
    """Measure the rates of memory, AdamW, hashing and disk; takes a few seconds."""
    size = 1 << 26
    block = torch.ones(size // 4)
    copy_s = best(lambda: block.clone().sum(), clock)
    hashed = [bytes(size // 4)] * 4

    def hash_all() -> None:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda part: hashlib.blake2b(part, digest_size=16).digest(), hashed))

    digest_s = best(hash_all, clock)
    touch_s = _touch_seconds(4 * size)
    parameter = torch.nn.Parameter(torch.ones(size // 16))
    optimizer = torch.optim.AdamW([parameter], fused=True)

    def step() -> None:
        parameter.grad = torch.ones_like(parameter)
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()

    adamw_s = best(step, clock)
    write_s, read_s = _disk_seconds(bytes(size))
    return Machine(
        copy=size / copy_s,
        touch=4 * size / touch_s,
        adamw=size / 16 / adamw_s,
        digest=size / digest_s,
        write=size / write_s,
        read=size / read_s,
        base=memory().get("memory/rss_gb", 0.8) * GB,
    )


def _touch_seconds(size: int) -> float:
    """Return the seconds of the first write to fresh memory, page by page, less those of a second write."""
    with mmap.mmap(-1, size) as fresh:
        view = np.frombuffer(fresh, np.uint8)[:: mmap.PAGESIZE]
        spent = []
        for _ in range(2):
            started = time.perf_counter()
            np.add(view, 1, out=np.frombuffer(fresh, np.uint8)[:: mmap.PAGESIZE])
            spent.append(time.perf_counter() - started)
        del view
    return max(spent[0] - spent[1], 1e-6)


def _disk_seconds(content: bytes) -> tuple[float, float]:
    """Return the seconds of writing a file, synced to disk, and of reading it."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root) as file:
            started = time.perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            Path(file.name).read_bytes()
            return written - started, max(time.perf_counter() - written, 1e-6)
    except OSError as error:
        raise failed(root, "measure the disk", error) from error


def measure_speeds(sized: PolicySize, clock: Clock) -> Speeds:
    """Measure the speeds of a model with random weights; a large one is extrapolated from `FEW` and `MORE` layers."""
    layers = sized.model.layers
    if layers <= MORE or sized.model.parameters <= WHOLE:
        return Speeds(**_measure(sized, layers, clock))
    few, more = _measure(sized, FEW, clock), _measure(sized, MORE, clock)
    whole = {}
    for name, value in few.items():
        each = max(more[name] - value, 0.0) / (MORE - FEW)
        whole[name] = value + each * (layers - FEW)
    return Speeds(**whole)


ROWS, MANY_ROWS, SHORT, LONG, HEAD, SAMPLED = 4, 16, 32, 160, 32, 6
"""Few and many rows, few and many tokens of a row, trained completion tokens of a row, and tokens sampled."""


def _measure(sized: PolicySize, layers: int, clock: Clock) -> dict[str, float]:
    """Time prefill, decoding and training of a model with so many layers; the keys are the fields of `Speeds`."""
    model = _random_model(sized, layers)
    cast = sized.model.bfloat16 and sized.device.type == "cpu"
    sampler = prepacked(model) if cast else model
    casts = sized.model.bfloat16 and sized.model.weight_bytes == 4
    compute: Any = torch.autocast(sized.device.type, torch.bfloat16) if casts else nullcontext()

    def sampled(rows: int, width: int, new: int) -> Callable[[], object]:
        ids = np.random.default_rng(0).integers(sized.model.vocabulary, size=(rows, width))
        prompts = list(ids.astype(np.int32))

        def sample() -> object:
            with compute:
                return sample_completions(
                    sampler,
                    prompts,
                    num_generations=1,
                    sampling=Sampling(new),
                    rng=np.random.default_rng(0),
                    limits=Limits([]),
                    max_batch_tokens=1 << 30,
                )

        return sample

    def trained(width: int, completion: int) -> Callable[[], object]:
        def train() -> object:
            model.zero_grad(set_to_none=True)
            with compute:
                loss: Any = _logprobs(model, width, completion).sum()
            loss.backward()
            return float(loss.detach())

        return train

    read = {width: best(sampled(ROWS, width, 1), clock) for width in (SHORT, LONG)}
    decode = {
        rows: best(sampled(rows, SHORT, 1 + SAMPLED), clock) - best(sampled(rows, SHORT, 1), clock)
        for rows in (ROWS, MANY_ROWS)
    }
    train = {width: best(trained(width, 2), clock) for width in (SHORT, LONG)}
    head = best(trained(LONG, 2 + HEAD), clock) - train[LONG]
    saved = {width: _saved_bytes(model, width, compute) for width in (SHORT, LONG)}
    return {
        **_line("prefill", "token", {ROWS * width: seconds for width, seconds in read.items()}),
        **_line("decode", "row", {rows: max(seconds, 0.0) / SAMPLED for rows, seconds in decode.items()}),
        **_line("train", "token", {ROWS * width: seconds for width, seconds in train.items()}),
        "train_head": max(head, 0.0) / (ROWS * HEAD),
        **_line("saved", "token", {ROWS * width: size for width, size in saved.items()}),
    }


def _random_model(sized: PolicySize, layers: int) -> torch.nn.Module:
    """Return a model of the policy's configuration with `layers` layers and random weights."""
    config = copy.deepcopy(sized.config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    with torch.random.fork_rng(devices=[]):
        dtype = torch.float32 if sized.model.weight_bytes == 4 else torch.bfloat16
        model: torch.nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().to(sized.device)
    return model


def _logprobs(model: torch.nn.Module, width: int, completion: int) -> torch.Tensor:
    ids = np.full(width, 3, np.int32)
    sequences = [TokenSequence(ids[completion:], ids[:completion])] * ROWS
    return completion_logprobs(model, sequences, np.ones(ROWS, np.float32))


def _saved_bytes(model: torch.nn.Module, width: int, compute: Any) -> float:
    with compute:
        return kept_bytes(lambda: _logprobs(model, width, 2), model)


def _line(name: str, each: str, points: dict[int, float]) -> dict[str, float]:
    """Fit a line to two measured points: the constant of a call and the slope `each`, neither below 0."""
    (low, first), (high, second) = sorted(points.items())
    slope = max(second - first, 0.0) / (high - low)
    return {f"{name}_call": max(first - slope * low, 0.0), f"{name}_{each}": slope}
