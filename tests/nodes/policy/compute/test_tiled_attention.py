"""Tiled attention: outputs and gradients equal those of one dense, masked softmax."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph.nodes.policy.compute.activation_checkpointing import kept_bytes
from genrl_graph.nodes.policy.compute.packing import Packed
from genrl_graph.nodes.policy.compute.tiled_attention import COLUMNS, PLACES, ROWS, Tile, attend, tiles

SIZE = 8


def sequences_of(seed: int, lengths: Sequence[int], shared: int) -> list[np.ndarray]:
    """Draw sequences with these lengths; every other one starts with the same tokens."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 9, shared)
    return [
        np.concatenate([start[: length * (at % 2)], rng.integers(0, 9, length)]).astype(np.int32)
        for at, length in enumerate(lengths)
    ]


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def parts_of(tokens: int, heads: int, shared: int, dtype: torch.dtype = torch.float64) -> Parts:
    """Return random queries, keys and values."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> torch.Tensor:
        return torch.randn((1, count, tokens, SIZE), generator=generator, dtype=dtype, requires_grad=True)

    return drawn(heads), drawn(shared), drawn(shared)


def plain(packed: Packed, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute attention [1, places, heads, size] with a dense mask; a place attends to earlier places of its paths."""
    tokens = query.shape[2]
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    for path in packed.paths:
        on = torch.from_numpy(path)
        sees[on[:, None], on[None]] |= torch.ones(len(on), len(on), dtype=torch.bool).tril()
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~sees, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 2 * PLACES + 20), min_size=1, max_size=5),
    start=st.sampled_from([0, 20, PLACES, PLACES + 1]),
    heads=st.sampled_from([(1, 1), (2, 2), (6, 2)]),
    scale=st.sampled_from([None, 0.3]),
)
def test_values_and_gradients_are_those_of_a_dense_mask(
    lengths: list[int], start: int, heads: tuple[int, int], scale: float | None
) -> None:
    packed = Packed.of(sequences_of(0, lengths, start))
    parts = parts_of(len(packed.ids), *heads)
    output = attend(*parts, tiles(packed.branches), scale)
    expected = plain(packed, *parts, SIZE**-0.5 if scale is None else scale)
    torch.testing.assert_close(output, expected)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    ours, theirs = (torch.autograd.grad((each * weights).sum(), parts) for each in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_every_place_is_in_one_tile_that_sees_its_path() -> None:
    packed = Packed.of(sequences_of(1, [300, 40, 300, 7, 129], 150))
    split = tiles(packed.branches)
    assert [place for tile in split for place in range(tile.start, tile.stop)] == list(range(len(packed.ids)))
    assert all(tile.stop - tile.start <= PLACES for tile in split)
    for tile in split:
        path = next(path for path in packed.paths if tile.stop - 1 in path)
        seen = [place for start, stop in tile.runs for place in range(start, stop)]
        assert seen[: tile.own + tile.stop - tile.start] == path[path < tile.stop].tolist()


def test_products_have_few_sizes() -> None:
    """A processor's library keeps code for each; without bound it would take more memory with every batch."""
    sizes = set()
    for seed in range(40):
        lengths = np.random.default_rng(seed).integers(1, 400, 6).tolist()
        split = tiles(Packed.of(sequences_of(seed, lengths, 100)).branches)
        sizes |= {(tile.rows, tile.seen) for tile in split}
        assert all(0 <= tile.rows - (tile.stop - tile.start) < ROWS for tile in split)
        assert all(0 <= tile.seen - tile.own - (tile.stop - tile.start) < COLUMNS for tile in split)
    assert len(sizes) <= PLACES // ROWS * (500 // COLUMNS + 1)


def test_runs_that_meet_are_one() -> None:
    packed = Packed.of([np.arange(190, dtype=np.int32)])
    first, second = Tile(0, PLACES, PLACES, ((0, PLACES),), 0, PLACES), Tile(PLACES, 190, 64, ((0, 192),), PLACES, 192)
    assert tiles(packed.branches) == [first, second]


def test_bfloat16_lies_as_near_as_its_rounding() -> None:
    packed = Packed.of(sequences_of(2, [300, 60, 60, 60], 100))
    exact = parts_of(len(packed.ids), 6, 2)
    query, key, value = (part.detach().bfloat16().requires_grad_() for part in exact)
    rough = query, key, value
    expected, output = (attend(*parts, tiles(packed.branches), None) for parts in (exact, rough))
    assert output.dtype == torch.bfloat16
    ours, theirs = (torch.autograd.grad(to.square().sum(), of) for to, of in ((output, rough), (expected, exact)))
    for mine, other in zip((output, *ours), (expected, *theirs), strict=True):
        assert float((mine.double() - other).detach().norm() / other.detach().norm()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_neither_the_type_nor_the_result(dtype: torch.dtype) -> None:
    packed = Packed.of(sequences_of(3, [150, 30], 40))
    parts = parts_of(len(packed.ids), 4, 2, dtype)
    alone = attend(*parts, tiles(packed.branches), None)
    with torch.autocast("cpu", torch.bfloat16):
        within = attend(*parts, tiles(packed.branches), None)
    assert within.dtype == dtype
    assert torch.equal(within, alone)


def test_no_scores_are_kept_for_the_backward_pass() -> None:
    packed = Packed.of([np.arange(1000, dtype=np.int32)])
    parts = parts_of(1000, 2, 2, torch.float32)
    size = kept_bytes(lambda: attend(*parts, tiles(packed.branches), None), torch.nn.Identity())
    assert size < 8 * parts[0].numel() * 4
