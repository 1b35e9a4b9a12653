"""A Merkle tree over rows in canonical form (RFC 6962, section 2.1, with SHA-256).

A row is the JSON of chosen columns, with sorted keys and without spaces: it can be computed again from the arrays of a
store, long after the run, and read by anybody.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from genrl_graph.edge_types.frame import Frame

COLUMNS = (
    *("id", "task_id", "group_id", "parent_ids", "peer", "node", "stage", "round", "sample"),
    *("policy", "policy_version", "completion_ids", "completion", "finish_reason", "reward"),
)
"""The columns of a row, besides one for each term of the reward; the id is a hash of the prompt, too."""


def canonical_rows(rows: Frame) -> list[bytes]:
    """Return each row of scored rollouts as canonical JSON."""
    names = rows.table.column_names
    columns = [name for name in names if name in COLUMNS or name.startswith("reward_")]
    values = {name: rows.table.column(name).to_pylist() for name in columns}
    return [canonical({name: values[name][at] for name in columns}) for at in range(len(rows))]


def canonical(row: dict[str, Any]) -> bytes:
    """Return the canonical JSON of a row; numbers that JSON does not have are texts."""
    plain = {name: str(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def leaf(row: bytes) -> bytes:
    """Return the hash of a row."""
    return hashlib.sha256(b"\0" + row).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree; that of no rows is the hash of nothing."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    half = _half(len(leaves))
    return _inner(root(leaves[:half]), root(leaves[half:]))


def path(leaves: Sequence[bytes], at: int) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root, from the bottom up."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if at < half:
        return [*path(leaves[:half], at), root(leaves[half:])]
    return [*path(leaves[half:], at - half), root(leaves[:half])]


def root_of_path(start: bytes, at: int, count: int, hashes: Sequence[bytes]) -> bytes | None:
    """Return the root to which hashes lead from leaf `at` of `count`; None where they are too few or too many."""
    if not 0 <= at < count:
        return None
    sides, low, high = [], 0, count
    while high - low > 1:
        half = low + _half(high - low)
        sides.append(at < half)
        low, high = (low, half) if at < half else (half, high)
    if len(sides) != len(hashes):
        return None
    value = start
    for is_left, other in zip(reversed(sides), hashes, strict=True):
        value = _inner(value, other) if is_left else _inner(other, value)
    return value


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _half(count: int) -> int:
    """Return the largest power of two below a count."""
    return 1 << (count - 1).bit_length() - 1
