"""Tools, and a policy that calls them in its first turn and then says what it samples, as a script for `--import`."""

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph import Sampling, TextPolicy, TokenSequence
from genrl_graph.contract.policy import Completion, Randomness
from genrl_graph.contract.tool import Function, Tool
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

CALL = '<tool_call>{"name": "total", "arguments": {"amount": 3}}</tool_call>'
HANGING = threading.Event()
"""Set by tests to let a tool that hangs return."""


class Total:
    """Keeps a sum."""

    def __init__(self, start: int = 0) -> None:
        self.sum = start

    def total(self, amount: int) -> int:
        """Add to the sum, and return it.

        Args:
            amount: what to add
        """
        self.sum += amount
        return self.sum


class Double(Tool, name="double"):
    """Doubles numbers."""

    factor: int = 2

    def run(self, value: int) -> int:
        """Double a number.

        Args:
            value: the number
        """
        return self.factor * value


def divide(left: float, right: float) -> float:
    """Divide numbers.

    Args:
        left: what is divided
        right: by what
    """
    return left / right


async def repeat(text: str, times: int = 2) -> str:
    """Repeat a text.

    Args:
        text: the text
        times: how often
    """
    return text * times


def hang() -> str:
    """Take long."""
    HANGING.wait()
    return "late"


class Shapeless:
    """A value without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def shapeless() -> Shapeless:
    """Return what cannot be told."""
    return Shapeless()


def unnamed(*texts: str) -> str:
    """Join texts.

    Args:
        texts: them
    """
    return "".join(texts)


class Leaving(Tool, name="leaving"):
    """Ends the process."""

    def run(self) -> str:
        """Leave."""
        sys.exit(3)


class Odd(Tool, name="odd"):
    """Gives what is no function that a model can call."""

    gives: str

    def functions(self) -> Mapping[str, Function]:
        gifts: dict[str, Any] = {"none": {}, "number": {"three": 3}, "spaces": {"my tool": hang}}
        return gifts[self.gives]


class Calling(CausalPolicy):
    """A tiny model that calls a tool where it has heard of no result, and else says what it samples."""

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        options: Mapping[str, Any] = {"sampling": sampling, "max_batch_tokens": max_batch_tokens}
        rows = super().generate(prompts, num_generations=num_generations, rng=rng, **options)
        return [
            row if CALL in self.decode(p.tolist()) else [self._call(p)] for p, row in zip(prompts, rows, strict=True)
        ]

    def _call(self, prompt: NDArray[np.int32]) -> Completion:
        import torch

        ids = self.encode(CALL, ended=True)
        with torch.no_grad():
            logprobs = self.logprobs([TokenSequence(prompt, ids)], temperatures=np.ones(1, np.float32))
        return Completion(ids, logprobs[0].numpy().astype(np.float32), CALL, "stop")


class CallingLM(TinyLM, name="calling_lm"):
    """A tiny language model that calls a tool in its first turn."""

    def init(self, name: str, *, seed: int) -> TextPolicy:
        policy = super().init(name, seed=seed)
        policy.__class__ = Calling
        return policy
