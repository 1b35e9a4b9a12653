"""A transformers causal language model reads packed sequences: attention by branches, all else on one row."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from genrl_graph.nodes.policy.compute import tiled_attention
from genrl_graph.nodes.policy.compute.kv_cache import cache_argument
from genrl_graph.nodes.policy.compute.packing import Branch, Packed
from genrl_graph.nodes.policy.compute.shared_prompts import SharedPrompts

ATTENTION = "genrl_packed"
"""What transformers calls the attention of models that can read packed sequences: sdpa for all others."""

TILED = {"cpu"}
"""Devices on which plain products of tiles are faster than fused attention to one branch after the other."""


def read(model: torch.nn.Module, packed: Packed, *, cache: DynamicCache | None = None) -> torch.Tensor:
    """The last hidden states [tokens, width]; `cache` then holds the keys and values of all places."""
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
    """Let a model read packed sequences, if it can: tried out on two, so that no window, state or other mask is in it.

    Attention of plain calls stays that of sdpa.
    """
    config = cast(Any, model).config
    if getattr(config, "_attn_implementation", None) != "sdpa" or not is_full(config.get_text_config()):
        return getattr(config, "_attn_implementation", None) == ATTENTION
    config._attn_implementation = ATTENTION
    try:
        if _reads_as_one_by_one(model):
            return True
    except (TypeError, ValueError, RuntimeError, IndexError):
        pass  # it takes no such arguments, and reads padded rows instead
    config._attn_implementation = "sdpa"
    return False


def is_full(config: Any) -> bool:
    """Whether every layer attends to all that came before."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return layers == {"full_attention"} and not windows


def _reads_as_one_by_one(model: torch.nn.Module) -> bool:
    vocabulary = cast(Any, model).get_input_embeddings().weight.shape[0]
    ids = (np.arange(60) * 7 % vocabulary).astype(np.int32)
    sequences = [ids[:40], np.concatenate([ids[:30], ids[40:]])]
    packed = Packed.of(sequences)
    with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
        together = read(model, packed)
        for path, sequence in zip(packed.paths, sequences, strict=True):
            given = torch.from_numpy(sequence.astype(np.int64)).to(together.device)[None]
            alone = cast(Any, model).base_model(input_ids=given, use_cache=False).last_hidden_state[0]
            gap = (together[torch.from_numpy(path).to(together.device)] - alone).abs().max()
            if not gap <= 1e-3 * alone.abs().max():
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
    """Attention [1, heads, tokens, size] of packed sequences, each branch to what it sees; otherwise that of sdpa.

    With `prompts` that of one token of each row, whose prompts are not among its keys.
    """
    if branches is not None:
        return branches.attend(query, key, value, scaling), None
    if prompts is not None:
        layer: int = module.layer_idx  # type: ignore[assignment]
        return prompts.attend(layer, query, key, value, scaling).transpose(1, 2).contiguous(), None
    if query.shape[2] == 1 and (attention_mask is None or attention_mask.shape[1] == 1):
        return _grouped(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
    found: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **rest
    )
    return found


class Branches:
    """The branches of packed sequences while a model reads them; what their places see is the same in every layer."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._all = branches
        self._tiles = tiled_attention.tiles(branches)
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attention [1, places, heads, size] of all places, each to what its branch sees."""
        if value.device.type in TILED:
            return tiled_attention.attend(query, key, value, self._tiles, scaling)
        parts = [self._of_branch(branch, query, key, value, scaling) for branch in self._all]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()

    def _of_branch(
        self, branch: Branch, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attention of the places of one branch: [1, heads, places, size]."""
        runs = [*branch.before, (branch.start, branch.stop)]
        own, keys, values = query[:, :, branch.start : branch.stop], _cat_runs(key, runs), _cat_runs(value, runs)
        if branch.before:
            return _grouped(own, keys, values, self._mask(branch, query.shape[1] // key.shape[1], own), scaling)
        heads = query.shape[1] // key.shape[1]
        keys, values = repeat_kv(keys, heads), repeat_kv(values, heads)
        return F.scaled_dot_product_attention(own, keys, values, is_causal=True, scale=scaling)

    def _mask(self, branch: Branch, group: int, like: torch.Tensor) -> torch.Tensor:
        """What is added [group x places of the branch, places that it sees]: 0 or, where a place lies ahead, -inf."""
        new = branch.stop - branch.start
        key = (new, branch.seen, group)
        if key not in self._masks:
            ahead = torch.full((new, branch.seen + new), -torch.inf, dtype=like.dtype, device=like.device)
            self._masks[key] = ahead.triu(branch.seen + 1).repeat(group, 1)
        return self._masks[key]


def _grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Attention [rows, heads, places, size] in which heads that share keys are places of one head: no key is copied."""
    rows, heads, places, size = query.shape
    shared = key.shape[1]
    together = query.reshape(rows, shared, heads // shared * places, size)
    found = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=scaling)
    return found.view(rows, heads, places, size)


def _cat_runs(part: torch.Tensor, runs: "list[tuple[int, int]]") -> torch.Tensor:
    """These runs of places of [rows, heads, places, size], one after the other."""
    pieces = [part[:, :, start:stop] for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
