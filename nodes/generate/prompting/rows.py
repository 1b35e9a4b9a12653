"""From prompts and completions to rows of rollouts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.cast import CHAT, IDS, TEXTS
from genrl_graph.contract.node import Place
from genrl_graph.contract.policy import Completion, TextPolicy
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.generate.prompting.quoting import Prompt
from genrl_graph.seeds import group_id, rollout_id

_NOTHING = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "", "failed")


def rollout_rows(
    place: Place,
    policy: TextPolicy,
    task_ids: Sequence[str],
    prompts: Sequence[Prompt],
    completions: Sequence[list[Completion] | None],
    *,
    num_generations: int,
    temperature: float,
    round: int,
    peer: str,
) -> Rollouts:
    """`num_generations` rows a prompt; where there are no completions, failed rows with the prompt's error.

    `sample` counts the rows of a task from 0, over all of its prompts.
    """
    if not prompts:
        return Rollouts.empty()
    rows = [row for made in completions for row in made or [_NOTHING] * num_generations]
    of_prompt = np.repeat(np.arange(len(prompts)), num_generations).tolist()
    samples = _count_up([task_ids[at] for at in of_prompt])
    groups = [
        group_id(
            protocol=place.protocol, peer=peer, round=round, node=place.node, task_id=task_id, prompt_ids=prompt.ids
        )
        for task_id, prompt in zip(task_ids, prompts, strict=True)
    ]
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
        for at, row, sample in zip(of_prompt, rows, samples, strict=True)
    ]
    ends = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int32)
    count = len(rows)
    return Rollouts.from_columns(
        {
            "id": ids,
            "task_id": pa.array(task_ids).take(pa.array(of_prompt)),
            "group_id": pa.array(groups).take(pa.array(of_prompt)),
            "parent_ids": pa.array([p.parent_ids for p in prompts], TEXTS).take(pa.array(of_prompt)),
            "peer": [peer] * count,
            "node": [place.node] * count,
            "stage": np.full(count, place.stage, np.int32),
            "round": np.full(count, round, np.int32),
            "sample": np.asarray(samples, np.int32),
            "policy": [policy.name] * count,
            "policy_version": np.full(count, policy.version, np.int64),
            "tokenizer": [policy.tokenizer] * count,
            "temperature": np.full(count, temperature, np.float32),
            "messages": pa.array([p.messages for p in prompts], CHAT).take(pa.array(of_prompt)),
            "prompt_ids": pa.array([p.ids for p in prompts], IDS).take(pa.array(of_prompt)),
            "completion_ids": [row.ids for row in rows],
            "completion_mask": pa.ListArray.from_arrays(pa.array(ends), np.ones(ends[-1], np.int8)),
            "logprobs": [row.logprobs for row in rows],
            "completion": [row.text for row in rows],
            "finish": [row.finish for row in rows],
            "error": pa.array([p.error for p in prompts]).take(pa.array(of_prompt)),
        }
    )


def _count_up(names: Sequence[str]) -> list[int]:
    """For each name how often it came before."""
    seen: Counter[str] = Counter()
    counts = []
    for name in names:
        counts.append(seen[name])
        seen[name] += 1
    return counts
