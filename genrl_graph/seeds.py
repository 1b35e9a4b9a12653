"""Randomness and identity: every stream and every id is a pure function of named parts."""

import hashlib
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = str | int | bytes


def digest(parts: Iterable[Part], *, size: int = 16) -> str:
    """Hex digest of `size` bytes over typed, length-prefixed parts: ("ab", "c") and ("a", "bc") differ."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        tag, raw = _encode(part)
        state.update(b"%b%d:" % (tag, len(raw)))
        state.update(raw)
    return state.hexdigest()


def _encode(part: Part) -> tuple[bytes, bytes]:
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, str):
        return b"s", part.encode()
    return b"i", str(operator.index(part)).encode()  # integers of numpy too


def stream(*parts: Part) -> np.random.Generator:
    """The random stream of these parts, for instance (run seed, round, node, peer)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(digest(parts), 16))))


def substream(rng: np.random.Generator, *parts: Part) -> np.random.Generator:
    """A stream that depends on what `rng` was seeded with and on the parts, not on how far `rng` has been read."""
    seeds = rng.bit_generator.seed_seq
    assert isinstance(seeds, np.random.SeedSequence)
    return stream(str(seeds.entropy), *parts)


def rollout_id(
    *,
    protocol: str,
    peer: str,
    round: int,
    node: str,
    task_id: str,
    parent_ids: Sequence[str],
    sample: int,
    prompt_ids: "NDArray[np.int32]",
    completion_ids: "NDArray[np.int32]",
) -> str:
    """The id of a rollout: a hash of where it was made, of what, and of its tokens; floats stay out of it."""
    tokens = (prompt_ids.astype("<i4").tobytes(), completion_ids.astype("<i4").tobytes())
    return digest(("rollout", protocol, peer, round, node, task_id, len(parent_ids), *parent_ids, sample, *tokens))


def group_id(*, protocol: str, peer: str, round: int, node: str, task_id: str, prompt_ids: "NDArray[np.int32]") -> str:
    """The id shared by the rollouts that one peer sampled from one prompt, in one round, at one node."""
    return digest(("group", protocol, peer, round, node, task_id, prompt_ids.astype("<i4").tobytes()))
