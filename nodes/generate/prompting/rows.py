"""Turn prompts and completions into rows of `Rollouts`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.cast import CHAT, IDS, TEXTS
from genrl_graph.contract.node import Place
from genrl_graph.contract.policy import Completion, Sampling, Support, TextPolicy
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.generate.prompting.quoting import Prompt
from genrl_graph.seeds import group_id, rollout_id

_NO_COMPLETION = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "", "failed")


def rollout_rows(
    place: Place,
    policy: TextPolicy,
    task_ids: Sequence[str],
    prompts: Sequence[Prompt],
    completions: Sequence[list[Completion] | None],
    *,
    num_generations: int,
    sampling: Sampling,
    round: int,
    peer: str,
) -> Rollouts:
    """Return `num_generations` rows per prompt; a prompt without completions gives failed rows with its error.

    `sample` numbers the rows of a task from 0, across its prompts.
    """
    if not prompts:
        return Rollouts.empty().with_local(local_columns([], sampling, policy))
    rows = [row for sampled in completions for row in sampled or [_NO_COMPLETION] * num_generations]
    of_row = np.repeat(np.arange(len(prompts)), num_generations).tolist()
    samples = _occurrences([task_ids[at] for at in of_row])
    ids = [
        rollout_id(
            protocol=place.protocol,
            peer=peer,
            round=round,
            node=place.node,
            task_id=task_ids[at],
            parent_ids=prompts[at].parent_ids,
            sample=sample,
            prompt_ids=prompts[at].ids,
            completion_ids=row.ids,
        )
        for at, row, sample in zip(of_row, rows, samples, strict=True)
    ]
    by_prompt = _prompt_columns(place, task_ids, prompts, round=round, peer=peer)
    count = len(rows)
    return Rollouts.from_columns(
        {
            **{name: values.take(pa.array(of_row)) for name, values in by_prompt.items()},
            **_completion_columns(rows),
            **local_columns(rows, sampling, policy),
            "id": ids,
            "error": [prompts[at].error or row.error for at, row in zip(of_row, rows, strict=True)],
            "peer": [peer] * count,
            "node": [place.node] * count,
            "stage": np.full(count, place.stage, np.int32),
            "round": np.full(count, round, np.int32),
            "sample": np.asarray(samples, np.int32),
            "policy": [policy.name] * count,
            "policy_version": np.full(count, policy.version, np.int64),
            "tokenizer_fingerprint": [policy.tokenizer_fingerprint] * count,
            "temperature": np.full(count, sampling.temperature, np.float32),
        }
    )


def _prompt_columns(
    place: Place, task_ids: Sequence[str], prompts: Sequence[Prompt], *, round: int, peer: str
) -> dict[str, pa.Array]:
    """Return the columns that all rows of a prompt share, one value per prompt."""
    groups = [
        group_id(
            protocol=place.protocol, peer=peer, round=round, node=place.node, task_id=task_id, prompt_ids=prompt.ids
        )
        for task_id, prompt in zip(task_ids, prompts, strict=True)
    ]
    return {
        "task_id": pa.array(task_ids),
        "group_id": pa.array(groups),
        "parent_ids": pa.array([prompt.parent_ids for prompt in prompts], TEXTS),
        "messages": pa.array([prompt.messages for prompt in prompts], CHAT),
        "prompt_ids": pa.array([prompt.ids for prompt in prompts], IDS),
    }


def _completion_columns(rows: Sequence[Completion]) -> dict[str, Any]:
    ends = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int32)
    return {
        "completion_ids": [row.ids for row in rows],
        "completion_mask": pa.ListArray.from_arrays(pa.array(ends), np.ones(ends[-1], np.int8)),
        "logprobs": [row.logprobs for row in rows],
        "completion": [row.text for row in rows],
        "finish_reason": ["failed" if row.error else row.finish_reason for row in rows],
    }


def local_columns(rows: Sequence[Completion], sampling: Sampling, policy: TextPolicy) -> dict[str, Any]:
    """Return the columns from which updates make the distribution of the sampler again; none if it is the whole one.

    Where an engine samples, they say which weights it had.
    """
    columns: dict[str, Any] = {}
    if sampling.truncates:
        nothing = np.empty(0, np.int32)
        supports = [Support(nothing, nothing) if row.support is None else row.support for row in rows]
        columns["support_ids"] = [support.ids for support in supports]
        columns["support_counts"] = [support.counts for support in supports]
    if sampling.repetition_penalty != 1.0:
        columns["repetition_penalty"] = np.full(len(rows), sampling.repetition_penalty, np.float32)
    if policy.served:
        columns["weight_version"] = np.asarray([row.weight_version for row in rows], np.int64)
    return columns


def _occurrences(names: Sequence[str]) -> list[int]:
    """Return for each name how often it occurs before its position."""
    seen: Counter[str] = Counter()
    counts = []
    for name in names:
        counts.append(seen[name])
        seen[name] += 1
    return counts
