"""Random streams and ids as pure functions of named parts."""

import hashlib
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = str | int | bytes


def digest(parts: Iterable[Part], *, size: int = 16) -> str:
    """Return a hex BLAKE2b digest of `size` bytes over the parts.

    Each part is prefixed with its type and length, so ("ab", "c") and ("a", "bc") differ.
    """
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
    return b"i", str(operator.index(part)).encode()  # accepts NumPy integers too


def stream(*parts: Part) -> np.random.Generator:
    """Return the random generator seeded by these parts, for example (run seed, round, node, peer)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(digest(parts), 16))))


def substream(rng: np.random.Generator, *parts: Part) -> np.random.Generator:
    """Return a random generator seeded by the seed of `rng` and the parts; draws from `rng` do not change it."""
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
    """Return the id of a rollout: a hash of where it was sampled, its task, its parents and its tokens.

    Floats such as log-probs are not hashed.
    """
    tokens = (prompt_ids.astype("<i4").tobytes(), completion_ids.astype("<i4").tobytes())
    return digest(("rollout", protocol, peer, round, node, task_id, len(parent_ids), *parent_ids, sample, *tokens))


def group_id(*, protocol: str, peer: str, round: int, node: str, task_id: str, prompt_ids: "NDArray[np.int32]") -> str:
    """Return the id that rollouts share which one peer sampled from one prompt, in one round, at one node."""
    return digest(("group", protocol, peer, round, node, task_id, prompt_ids.astype("<i4").tobytes()))
