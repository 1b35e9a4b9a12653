"""Forward passes of transformers causal language models over packed rows, with attention per branch."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from genrl_graph.nodes.policy.compute import tiled_attention
from genrl_graph.nodes.policy.compute.kv_cache import cache_argument
from genrl_graph.nodes.policy.compute.packing import Branch, Packed
from genrl_graph.nodes.policy.compute.shared_prompts import SharedPrompts

ATTENTION = "genrl_packed"
"""Name of the attention of prepared models in transformers' registry; unpacked calls still use sdpa."""

TILED = {"cpu"}
"""Device types on which attention over tiles, as plain matrix products, is faster than fused attention per branch."""


def packed_hidden_states(model: torch.nn.Module, packed: Packed, *, cache: DynamicCache | None = None) -> torch.Tensor:
    """Return the last hidden states [tokens, width] of a packed row; fills `cache` with keys and values of all places.

    The model must be prepared by `prepare`.
    """
    base, device = cast(Any, model).base_model, next(model.parameters()).device
    output = base(
        input_ids=torch.from_numpy(packed.ids).to(device)[None],
        position_ids=torch.from_numpy(packed.positions).to(device)[None],
        branches=Branches(packed.branches),
        use_cache=cache is not None,
        **cache_argument(base, cache),
    )
    return cast(torch.Tensor, output.last_hidden_state[0])


def prepare(model: torch.nn.Module) -> bool:
    """Switch a model to an attention that accepts packed rows; return whether it supports them.

    A test with two packed sequences rules out models with windows, recurrent states or other masks; these keep sdpa.
    Calls without packed rows still use sdpa.
    """
    config = cast(Any, model).config
    if getattr(config, "_attn_implementation", None) != "sdpa" or not is_full(config.get_text_config()):
        return getattr(config, "_attn_implementation", None) == ATTENTION
    config._attn_implementation = ATTENTION
    try:
        if _packing_is_exact(model):
            return True
    except (TypeError, ValueError, RuntimeError, IndexError):
        pass  # the model does not accept the extra arguments; it will read padded rows
    config._attn_implementation = "sdpa"
    return False


def is_full(config: Any) -> bool:
    """Return whether every layer attends to all earlier tokens, without a window."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return layers == {"full_attention"} and not windows


def _packing_is_exact(model: torch.nn.Module) -> bool:
    """Compare hidden states of two packed sequences with those of each sequence alone."""
    vocab_size = cast(Any, model).get_input_embeddings().weight.shape[0]
    ids = (np.arange(60) * 7 % vocab_size).astype(np.int32)
    sequences = [ids[:40], np.concatenate([ids[:30], ids[40:]])]
    packed = Packed.of(sequences)
    tolerance = max(1e-3, 8 * torch.finfo(next(model.parameters()).dtype).eps)
    with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
        together = packed_hidden_states(model, packed)
        for path, sequence in zip(packed.paths, sequences, strict=True):
            inputs = torch.from_numpy(sequence.astype(np.int64)).to(together.device)[None]
            alone = cast(Any, model).base_model(input_ids=inputs, use_cache=False).last_hidden_state[0]
            gap = (together[torch.from_numpy(path).to(together.device)] - alone).abs().max()
            if not gap <= tolerance * alone.abs().max():
                return False
    return True


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    branches: "Branches | None" = None,
    prompts: SharedPrompts | None = None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for a transformers layer: per branch, against shared prompts, or by sdpa.

    With `branches`, the input is one packed row. With `prompts`, it is one new token per row, and `key` and `value`
    lack the prompts.
    """
    if branches is not None:
        return branches.attend(query, key, value, scaling), None
    if prompts is not None:
        layer: int = module.layer_idx  # type: ignore[assignment]
        return prompts.attend(layer, query, key, value, scaling).transpose(1, 2).contiguous(), None
    if query.shape[2] == 1 and (attention_mask is None or attention_mask.shape[1] == 1):
        return _grouped(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
    output: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **rest
    )
    return output


class Branches:
    """The branches of a packed row, with tiles and masks that all layers of a forward pass share."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._all = branches
        self._tiles = tiled_attention.tiles(branches)
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Compute attention [1, places, heads, size], each place to its prefix and the earlier places of its branch."""
        if value.device.type in TILED:
            return tiled_attention.attend(query, key, value, self._tiles, scaling)
        parts = [self._attend_branch(branch, query, key, value, scaling) for branch in self._all]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()

    def _attend_branch(
        self, branch: Branch, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Compute attention of the places of one branch: [1, heads, places, size]."""
        runs = [*branch.before, (branch.start, branch.stop)]
        own, keys, values = query[:, :, branch.start : branch.stop], _cat_runs(key, runs), _cat_runs(value, runs)
        if branch.before:
            return _grouped(own, keys, values, self._mask(branch, query.shape[1] // key.shape[1], own), scaling)
        heads = query.shape[1] // key.shape[1]
        keys, values = repeat_kv(keys, heads), repeat_kv(values, heads)
        return scaled_dot_product_attention(own, keys, values, is_causal=True, scale=scaling)

    def _mask(self, branch: Branch, group: int, like: torch.Tensor) -> torch.Tensor:
        """Return the additive causal mask [group x branch places, prefix + branch places]: -inf for later places."""
        new = branch.stop - branch.start
        key = (new, branch.seen, group)
        if key not in self._masks:
            ahead = torch.full((new, branch.seen + new), -torch.inf, dtype=like.dtype, device=like.device)
            self._masks[key] = ahead.triu(branch.seen + 1).repeat(group, 1)
        return self._masks[key]


def _grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Compute grouped-query attention [rows, heads, places, size] without copying keys.

    Query heads that share a key head are treated as further places of that head.
    """
    rows, heads, places, size = query.shape
    shared = key.shape[1]
    together = query.reshape(rows, shared, heads // shared * places, size)
    output = scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=scaling)
    return output.view(rows, heads, places, value.shape[-1])


def _cat_runs(part: torch.Tensor, runs: "list[tuple[int, int]]") -> torch.Tensor:
    """Concatenate runs of places of [rows, heads, places, size]."""
    pieces = [part[:, :, start:stop] for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
