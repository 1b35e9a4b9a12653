"""Write a policy's model for plain transformers or peft, and verify that they compute the policy's log-probs."""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import StoreError
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.logprobs import whole_of
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.weights import M, cast_weights
from genrl_graph.store.durable import refusal

TOLERANCE = 1e-3
"""Largest difference of log-probs between a policy and its export, in nats; merging an adapter rounds its weights."""
ROWS, TOKENS = 3, 24

LogProbs = Callable[[list[TokenSequence]], torch.Tensor]
"""Computes float32 log-probs [rows, completion] of a policy."""


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what the block has written into a folder if it raises; turn errors of libraries into `StoreError`."""
    before = set(folder.iterdir())
    try:
        yield
    except BaseException as error:
        for path in set(folder.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not isinstance(error, OSError) and (refused := refusal(error)) is not None:
            raise refused from error
        if isinstance(error, (ValueError, RuntimeError, KeyError, NotImplementedError)):
            raise StoreError(f"{folder}: cannot export the policy: {line_of(error)}; nothing was written") from error
        raise


def in_float32(model: M) -> M:
    """Return a copy of a model with float32 weights; a model that has them itself."""
    if all(weight.dtype != torch.bfloat16 for weight in model.parameters()):
        return model
    return cast_weights(copy.deepcopy(model), torch.float32)


def load_exported(folder: Path, loader: Any = AutoModelForCausalLM) -> Any:
    """Load a model as plain transformers does; raises `StoreError` if weights are missing or left over."""
    with without_progress():
        model, report = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := report.get(kind):
            first = sorted(map(str, names))[0]
            raise StoreError(
                f"{folder}: cannot export the policy: {kind.replace('_', ' ')} {first}; nothing was written"
            )
    return model.eval()


def verify(folder: Path, exported: Any, live: LogProbs, *, vocab_size: int, length: int) -> None:
    """Raise `StoreError` if the log-probs of an exported model differ from those of the live policy."""
    rows = _rows(vocab_size, min(TOKENS, length))
    with torch.no_grad():
        mine = live(rows).cpu()
        plain = torch.stack([_plain(exported, row) for row in rows])
    gap = float((mine - plain).abs().max())
    if not gap <= TOLERANCE:
        raise StoreError(
            f"{folder}: cannot export the policy: its log-probs and those of the files differ by {gap:.2g} nats "
            f"(tolerance {TOLERANCE}); nothing was written"
        )


def _rows(vocab_size: int, tokens: int) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    ids: NDArray[np.int32] = rng.integers(0, vocab_size, (ROWS, tokens)).astype(np.int32)
    return [TokenSequence(row[: tokens // 2], row[tokens // 2 :]) for row in ids]


def _plain(model: Any, row: TokenSequence) -> torch.Tensor:
    ids = torch.from_numpy(whole_of(row).astype(np.int64))[None].to(model.device)
    start = len(row.prompt_ids)
    logprobs: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    return logprobs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0].cpu()
