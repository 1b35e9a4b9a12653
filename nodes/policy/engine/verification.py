"""Check completions of an engine: log-probs against those that the policy computes, and seeds against each other."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.engine.replies import Answered, Asked
from genrl_graph.nodes.policy.engine_params import VllmEngine

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.compute.handle import CausalPolicy

LEAST_CHANCE = 1e-16
"""Chance below which two completions of one prompt with different seeds are not the same by luck."""


def verify(
    policy: "CausalPolicy",
    asked: Sequence[Asked],
    answered: Sequence[Answered],
    params: VllmEngine,
    *,
    urls: Sequence[str],
) -> None:
    """Compare `verify_rows` completions, drawn by the seed of the first.

    Raises `NodeFailed` if they are too far apart: then other ids, weights or temperatures made them.
    """
    count = min(params.verify_rows, len(asked))
    if not count:
        return
    at = np.random.default_rng(asked[0].seed).choice(len(asked), count, replace=False).tolist()
    sampling, rows = asked[0].sampling, [answered[i] for i in at]
    prompts = [asked[i].prompt for i in at]
    gap = _gap(policy, prompts, rows, temperature=sampling.temperature, penalty=sampling.repetition_penalty)
    if gap <= params.max_log_ratio:
        return
    advice = "its weights, its token ids or its log-probs are not those of this policy"
    if sampling.temperature not in (0.0, 1.0):
        unscaled = _gap(policy, prompts, rows, temperature=1.0, penalty=sampling.repetition_penalty)
        if unscaled < gap / 2:
            advice = "they are those before the temperature; start it with --logprobs-mode processed_logprobs"
    raise NodeFailed(
        f"policy {policy.name!r} version {policy.version}: log-probs of vLLM at {', '.join(urls)} differ from the "
        f"policy's by {gap:.2g} nats a token (engine.max_log_ratio {params.max_log_ratio:g}): {advice}; nothing of "
        "this round's answers was used"
    )


def check_seeds(
    policy: "CausalPolicy", asked: Sequence[Asked], answered: Sequence[Answered], *, copies: int, urls: Sequence[str]
) -> None:
    """Raise `NodeFailed` if two of the `copies` of a prompt are the same, and too long for that to be luck.

    A cache before a server, or a server that samples greedily, answers so, with log-probs that are right.
    """
    for start in range(0, len(asked), copies):
        seed_of: dict[bytes, int] = {}
        for one, row in zip(asked[start : start + copies], answered[start : start + copies], strict=True):
            seed = seed_of.setdefault(row.ids.tobytes(), one.seed)
            total = float(row.logprobs.sum())
            if seed != one.seed and total < math.log(LEAST_CHANCE):
                raise NodeFailed(
                    f"policy {policy.name!r} version {policy.version}: vLLM at {', '.join(urls)} answers the seeds "
                    f"{seed} and {one.seed} with the same {len(row.ids)} tokens, which has a chance of e^{total:.0f}: "
                    "it, or a cache before it, leaves out the seed or the temperature; nothing of this round's answers "
                    "was used"
                )


def _gap(
    policy: "CausalPolicy",
    prompts: Sequence["np.typing.NDArray[np.int32]"],
    rows: Sequence[Answered],
    *,
    temperature: float,
    penalty: float,
) -> float:
    """Return the mean difference between the log-probs of rows and the policy's, in nats a token."""
    pairs = zip(prompts, rows, strict=True)
    sequences = [TokenSequence(prompt, row.ids, None, penalty) for prompt, row in pairs]
    with torch.no_grad():
        temperatures = np.full(len(rows), temperature, np.float32)
        own = policy.logprobs(sequences, temperatures=temperatures).float().cpu().numpy()
    gaps = [np.abs(values[: len(row.ids)] - row.logprobs) for values, row in zip(own, rows, strict=True)]
    return float(np.concatenate(gaps).mean())
