"""Attention over packed rows as plain matrix products, one per tile of places.

On a CPU, torch's bfloat16 matrix products are faster than its fused attention, and here all branches form a single
autograd function. As in fused attention (arXiv 2205.14135), scores exist for one tile at a time and are recomputed in
the backward pass.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch.nn.functional import pad

from genrl_graph.nodes.policy.compute.activation_checkpointing import compute_once
from genrl_graph.nodes.policy.compute.packing import Branch

PLACES = 128
"""Places per tile, few enough for its scores to stay in a CPU cache."""
ROWS, COLUMNS = 32, 64
"""Sizes of matrix products are rounded up to multiples of these: the CPU library compiles and keeps code per size."""


class Tile(NamedTuple):
    """The query places from `start` to `stop`, and the runs of key places that they attend to.

    The tile's product has `rows` rows from `start` on, of which those from `stop` on are padding, and one column for
    each of the `seen` places in `runs`. Column `own` is the tile's first own place; from there the mask is causal.
    """

    start: int
    stop: int
    rows: int
    runs: Sequence[tuple[int, int]]
    own: int
    seen: int

    @classmethod
    def of(cls, start: int, stop: int, before: Sequence[tuple[int, int]], first: int) -> "Tile":
        """Return the tile that attends to the runs `before` and to all places from `first` up to its own."""
        own = sum(end - begin for begin, end in before) + start - first
        seen = _round_up(own + stop - start, COLUMNS)
        last = (first, start + seen - own)  # places beyond `stop` are masked for all rows
        return cls(start, stop, _round_up(stop - start, ROWS), (*before, last), own, seen)


def tiles(branches: Sequence[Branch]) -> list[Tile]:
    """Split branches into tiles of at most `PLACES` places."""
    split = []
    for branch in branches:
        for start in range(branch.start, branch.stop, PLACES):
            stop = min(start + PLACES, branch.stop)
            joined = bool(branch.before) and branch.before[-1][1] == branch.start
            before, first = (branch.before[:-1], branch.before[-1][0]) if joined else (branch.before, branch.start)
            split.append(Tile.of(start, stop, before, first))
    return split


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile], scaling: float | None
) -> torch.Tensor:
    """Compute attention [1, places, heads, size] over tiles, in the dtype of the values.

    `query` is [1, heads, places, size]; `key` and `value` are [1, shared heads, places, size].
    """
    scaled = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    parts = scaled.to(value.dtype).transpose(0, 1), key[0].to(value.dtype), value[0]
    return cast(torch.Tensor, cast(Any, _Attention).apply(*parts, tiles))[None]


class _Attention(torch.autograd.Function):
    """Attention of scaled queries [places, heads, size] to keys and values [shared heads, places, size]."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile]
    ) -> torch.Tensor:
        ctx.tiles, ctx.places = tiles, len(query)
        query = pad(query, (0, 0, 0, 0, 0, ROWS))  # the padding of the last tiles reaches beyond the last place
        key, value = (pad(part, (0, 0, 0, COLUMNS)) for part in (key, value))
        ctx.save_for_backward(query, key, value)
        return compute_once(partial(_output, query, key, value, tiles, ctx.places))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        grad_query = query.new_empty((ctx.places, *query.shape[1:]))  # latent attention: values are of another size
        grad_key, grad_value = (
            torch.zeros(part.shape, dtype=_accumulator_dtype(part), device=part.device) for part in (key, value)
        )
        with torch.autocast(query.device.type, enabled=False):
            for tile in ctx.tiles:
                weights, grad_rows = _weights(query, key, tile), _gradient_rows(grad, tile, len(key))
                _add_seen(grad_value, tile, torch.bmm(weights.transpose(1, 2), grad_rows))
                grad_weights = torch.bmm(grad_rows, _seen(value, tile).transpose(1, 2))
                grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                _write_rows(grad_query, tile, torch.bmm(grad_scores, _seen(key, tile)))
                _add_seen(grad_key, tile, torch.bmm(grad_scores.transpose(1, 2), _rows(query, tile, len(key))))
        grad_key, grad_value = grad_key[:, : ctx.places], grad_value[:, : ctx.places]
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _output(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Sequence[Tile], places: int
) -> torch.Tensor:
    output = query.new_empty((places, query.shape[1], value.shape[-1]))
    with torch.autocast(query.device.type, enabled=False):
        for tile in tiles:
            _write_rows(output, tile, torch.bmm(_weights(query, key, tile), _seen(value, tile)))
    return output


def _weights(query: torch.Tensor, key: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Compute the attention weights of a tile: [shared heads, group x rows, seen]."""
    scores = torch.bmm(_rows(query, tile, len(key)), _seen(key, tile).transpose(1, 2))
    bias = _causal_bias(scores.dtype, scores.device)[: tile.rows, : tile.seen - tile.own]
    scores.view(len(key), -1, tile.rows, tile.seen)[..., tile.own :] += bias
    return torch.softmax(scores, -1)


def _rows(part: torch.Tensor, tile: Tile, shared: int) -> torch.Tensor:
    """Return the rows of a tile from [places, heads, size], as [shared heads, group x rows, size]."""
    return _by_head(part[tile.start : tile.start + tile.rows], shared)


def _gradient_rows(grad: torch.Tensor, tile: Tile, shared: int) -> torch.Tensor:
    """Return the rows of a tile from gradients [places, heads, size], like `_rows` but with 0 in the padding."""
    new = tile.stop - tile.start
    return _by_head(pad(grad[tile.start : tile.stop], (0, 0, 0, 0, 0, tile.rows - new)), shared)


def _by_head(rows: torch.Tensor, shared: int) -> torch.Tensor:
    count, _, size = rows.shape
    return rows.view(count, shared, -1, size).permute(1, 2, 0, 3).reshape(shared, -1, size)


def _write_rows(into: torch.Tensor, tile: Tile, part: torch.Tensor) -> None:
    """Write rows of a tile back into [places, heads, size], without the padding: the reverse of `_rows`."""
    shared, _, size = part.shape
    new = tile.stop - tile.start
    rows = part.view(shared, -1, tile.rows, size)[:, :, :new]
    into[tile.start : tile.stop].view(new, shared, -1, size).copy_(rows.permute(2, 0, 1, 3))


def _seen(part: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Return the places that a tile attends to, from [shared heads, places, size]."""
    runs = [part[:, start:stop] for start, stop in tile.runs]
    return runs[0] if len(runs) == 1 else torch.cat(runs, 1)


def _add_seen(into: torch.Tensor, tile: Tile, part: torch.Tensor) -> None:
    """Add a tile's contribution to the places that it attends to: the reverse of `_seen`."""
    offset = 0
    for start, stop in tile.runs:
        into[:, start:stop] += part[:, offset : offset + stop - start]
        offset += stop - start


def _accumulator_dtype(part: torch.Tensor) -> torch.dtype:
    return torch.promote_types(part.dtype, torch.float32)


@cache
def _causal_bias(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the bias of a tile's scores with its own and later places: -inf for keys after the query, else 0."""
    return torch.full((PLACES, PLACES + COLUMNS), -torch.inf, dtype=dtype, device=device).triu(1)
