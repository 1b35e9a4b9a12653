"""Calls that the first rank of a group makes and all of its ranks run, as bytes: JSON and arrays, no pickles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from genrl_graph.contract.policy import Completion, Support, TokenSequence

Array = NDArray[Any]
Arrays = Mapping[str, Array]

HEAD = "call"
LENGTHS = "/lengths"


@dataclass(frozen=True, slots=True)
class Call:
    """A method of policy number `policy` of a group, with options (JSON values) and arrays by name.

    `gathered` says that the first rank wants what the others return.
    """

    policy: int
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    gathered: bool = False

    def encode(self) -> bytes:
        """Return the call as bytes."""
        head = json.dumps([self.policy, self.method, dict(self.options), self.gathered])
        return to_bytes({**self.arrays, HEAD: text_array(head)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the call of these bytes."""
        arrays = load(data)
        policy, method, options, gathered = json.loads(array_text(arrays.pop(HEAD)))
        return cls(policy, method, options, arrays, gathered)


def to_bytes(arrays: Arrays) -> bytes:
    """Return arrays as bytes of a safetensors file."""
    data: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def of_bytes(data: bytes) -> dict[str, Array]:
    """Return the arrays of `to_bytes`."""
    arrays: dict[str, Array] = load(data)
    return arrays


def text_array(text: str) -> Array:
    """Return a text as an array of bytes."""
    return np.frombuffer(text.encode(), np.uint8)


def array_text(array: Array) -> str:
    """Return the text of `text_array`."""
    return array.tobytes().decode()


def ragged(name: str, rows: Sequence[Array], dtype: type[np.generic]) -> dict[str, Array]:
    """Return rows of different lengths as one array, and their lengths."""
    empty = np.zeros(0, dtype)
    return {
        name: np.concatenate([empty, *rows]).astype(dtype, copy=False),
        name + LENGTHS: np.asarray([len(row) for row in rows], np.int64),
    }


def rows_of(arrays: Arrays, name: str) -> list[Array]:
    """Return the rows of `ragged`."""
    return np.split(arrays[name], np.cumsum(arrays[name + LENGTHS])[:-1]) if len(arrays[name + LENGTHS]) else []


def sequence_arrays(sequences: Sequence[TokenSequence]) -> dict[str, Array]:
    """Return sequences as arrays."""
    return {
        **ragged("prompt", [s.prompt_ids for s in sequences], np.int32),
        **ragged("completion", [s.completion_ids for s in sequences], np.int32),
        **_support_arrays([s.support for s in sequences]),
        "penalty": np.asarray([s.repetition_penalty for s in sequences], np.float64),
    }


def sequences_of(arrays: Arrays) -> list[TokenSequence]:
    """Return the sequences of `sequence_arrays`."""
    parts = (rows_of(arrays, "prompt"), rows_of(arrays, "completion"), _supports(arrays), arrays["penalty"].tolist())
    return [TokenSequence(*part) for part in zip(*parts, strict=True)]


def completion_arrays(completions: Sequence[Completion]) -> dict[str, Array]:
    """Return completions as arrays."""
    texts = [[c.text, c.finish_reason, c.error] for c in completions]
    return {
        **ragged("ids", [c.ids for c in completions], np.int32),
        **ragged("logprobs", [c.logprobs for c in completions], np.float32),
        **_support_arrays([c.support for c in completions]),
        "texts": text_array(json.dumps(texts)),
    }


def completions_of(arrays: Arrays) -> list[Completion]:
    """Return the completions of `completion_arrays`."""
    texts = json.loads(array_text(arrays["texts"]))
    parts = zip(rows_of(arrays, "ids"), rows_of(arrays, "logprobs"), texts, _supports(arrays), strict=True)
    return [
        Completion(ids, logprobs, text, finish, support, error)
        for ids, logprobs, (text, finish, error), support in parts
    ]


def _support_arrays(supports: Sequence[Support | None]) -> dict[str, Array]:
    nothing = np.zeros(0, np.int32)
    return {
        "supported": np.asarray([support is not None for support in supports], bool),
        **ragged("support", [nothing if s is None else s.ids for s in supports], np.int32),
        **ragged("counts", [nothing if s is None else s.counts for s in supports], np.int32),
    }


def _supports(arrays: Arrays) -> list[Support | None]:
    parts = zip(arrays["supported"].tolist(), rows_of(arrays, "support"), rows_of(arrays, "counts"), strict=True)
    return [Support(ids, counts) if known else None for known, ids, counts in parts]
