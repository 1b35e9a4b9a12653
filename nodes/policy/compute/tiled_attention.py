"""Attention of packed sequences as plain matrix products over tiles of places.

On a processor torch multiplies bfloat16 matrices faster than its fused attention does, and all branches are here one
function of the graph. As in fused attention, scores exist for one tile at a time (arXiv 2205.14135), and are made again
in the backward pass.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F

from genrl_graph.nodes.policy.compute.activation_checkpointing import once
from genrl_graph.nodes.policy.compute.packing import Branch

PLACES = 128
"""Places of a tile: its scores stay in a processor's cache."""
ROWS, COLUMNS = 32, 64
"""What the sizes of products are multiples of: for each size a processor's library makes code, and keeps it."""


class Tile(NamedTuple):
    """The places from `start` to `stop`, which see `runs` of places and, of their own, those that are not ahead.

    A product has `rows` from `start` on, of which those from `stop` on count for nothing, and the `seen` places of the
    runs; the first place of the last run that is the tile's own is the product's column `own`.
    """

    start: int
    stop: int
    rows: int
    runs: Sequence[tuple[int, int]]
    own: int
    seen: int

    @classmethod
    def of(cls, start: int, stop: int, before: Sequence[tuple[int, int]], first: int) -> "Tile":
        """The tile that sees the runs `before`, and all from `first` up to itself."""
        own = sum(end - begin for begin, end in before) + start - first
        seen = _multiple(own + stop - start, COLUMNS)
        last = (first, start + seen - own)  # beyond `stop` lies what is ahead of all
        return cls(start, stop, _multiple(stop - start, ROWS), (*before, last), own, seen)


def tiles(branches: Sequence[Branch]) -> list[Tile]:
    """All places of some branches, tile by tile."""
    found = []
    for branch in branches:
        for start in range(branch.start, branch.stop, PLACES):
            stop = min(start + PLACES, branch.stop)
            joined = bool(branch.before) and branch.before[-1][1] == branch.start
            before, first = (branch.before[:-1], branch.before[-1][0]) if joined else (branch.before, branch.start)
            found.append(Tile.of(start, stop, before, first))
    return found


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile], scaling: float | None
) -> torch.Tensor:
    """Attention [1, places, heads, size] of [1, heads or shared heads, places, size], in the type of the values."""
    scaled = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    parts = scaled.to(value.dtype).transpose(0, 1), key[0].to(value.dtype), value[0]
    return cast(torch.Tensor, cast(Any, _Attention).apply(*parts, tiles))[None]


class _Attention(torch.autograd.Function):
    """Of queries [places, heads, size] that are scaled, and keys and values [shared heads, places, size]."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile]
    ) -> torch.Tensor:
        ctx.tiles, ctx.places = tiles, len(query)
        query = F.pad(query, (0, 0, 0, 0, 0, ROWS))  # what the last tiles go on to behind all places
        key, value = (F.pad(part, (0, 0, 0, COLUMNS)) for part in (key, value))
        ctx.save_for_backward(query, key, value)
        return once(partial(_found, query, key, value, tiles, ctx.places))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        to_query = query.new_empty(grad.shape)
        to_key, to_value = (torch.zeros(part.shape, dtype=_wide(part), device=part.device) for part in (key, value))
        with torch.autocast(query.device.type, enabled=False):
            for tile in ctx.tiles:
                weights, of_tile = _weights(query, key, tile), _given(grad, tile, len(key))
                _add(to_value, tile, torch.bmm(weights.transpose(1, 2), of_tile))
                to_weights = torch.bmm(of_tile, _seen(value, tile).transpose(1, 2))
                to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
                _put(to_query, tile, torch.bmm(to_scores, _seen(key, tile)))
                _add(to_key, tile, torch.bmm(to_scores.transpose(1, 2), _own(query, tile, len(key))))
        to_key, to_value = to_key[:, : ctx.places], to_value[:, : ctx.places]
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None


def _found(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile], places: int
) -> torch.Tensor:
    found = query.new_empty((places, query.shape[1], value.shape[-1]))
    with torch.autocast(query.device.type, enabled=False):
        for tile in tiles:
            _put(found, tile, torch.bmm(_weights(query, key, tile), _seen(value, tile)))
    return found


def _weights(query: torch.Tensor, key: torch.Tensor, tile: Tile) -> torch.Tensor:
    """How much each place of a tile looks at what it sees: [shared heads, group x rows, seen]."""
    scores = torch.bmm(_own(query, tile, len(key)), _seen(key, tile).transpose(1, 2))
    ahead = _ahead(scores.dtype, scores.device)[: tile.rows, : tile.seen - tile.own]
    scores.view(len(key), -1, tile.rows, tile.seen)[..., tile.own :] += ahead
    return torch.softmax(scores, -1)


def _own(part: torch.Tensor, tile: Tile, shared: int) -> torch.Tensor:
    """The rows of a tile of [places, heads, size]: [shared heads, group x rows, size]."""
    return _by_head(part[tile.start : tile.start + tile.rows], shared)


def _given(grad: torch.Tensor, tile: Tile, shared: int) -> torch.Tensor:
    """The same of gradients [places, heads, size]: 0 in rows that count for nothing."""
    new = tile.stop - tile.start
    return _by_head(F.pad(grad[tile.start : tile.stop], (0, 0, 0, 0, 0, tile.rows - new)), shared)


def _by_head(rows: torch.Tensor, shared: int) -> torch.Tensor:
    count, _, size = rows.shape
    return rows.view(count, shared, -1, size).permute(1, 2, 0, 3).reshape(shared, -1, size)


def _put(into: torch.Tensor, tile: Tile, part: torch.Tensor) -> None:
    """The reverse of `_own`, without the rows that count for nothing."""
    shared, _, size = part.shape
    new = tile.stop - tile.start
    rows = part.view(shared, -1, tile.rows, size)[:, :, :new]
    into[tile.start : tile.stop].view(new, shared, -1, size).copy_(rows.permute(2, 0, 1, 3))


def _seen(part: torch.Tensor, tile: Tile) -> torch.Tensor:
    """What a tile sees of [shared heads, places, size]."""
    runs = [part[:, start:stop] for start, stop in tile.runs]
    return runs[0] if len(runs) == 1 else torch.cat(runs, 1)


def _add(into: torch.Tensor, tile: Tile, part: torch.Tensor) -> None:
    """Add what a tile gives to what it sees."""
    at = 0
    for start, stop in tile.runs:
        into[:, start:stop] += part[:, at : at + stop - start]
        at += stop - start


def _wide(part: torch.Tensor) -> torch.dtype:
    return torch.promote_types(part.dtype, torch.float32)


@cache
def _ahead(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What is added to scores of a tile's own places and of those behind it: -inf for those ahead."""
    return torch.full((PLACES, PLACES + COLUMNS), -torch.inf, dtype=dtype, device=device).triu(1)
