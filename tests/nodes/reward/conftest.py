"""A generator with completions from the graph file, to test rewards in whole games."""

from typing import Any

import numpy as np

from genrl_graph import Generator, Rollouts, Tasks
from genrl_graph.seeds import group_id, rollout_id


class Scripted(Generator, name="test_scripted"):
    """Generates the same completions for every task, one token per character; `{answer}` is the task's answer."""

    completions: list[str]

    def run(self, tasks: Tasks, *, round: int, peer: str) -> Rollouts:
        """Return one rollout per task and completion."""
        rows = []
        for task in tasks.rows():
            prompt = np.array([len(task["id"])], np.int32)
            where: dict[str, Any] = {
                "protocol": self.place.protocol,
                "peer": peer,
                "round": round,
                "node": self.place.node,
            }
            group = group_id(**where, task_id=task["id"], prompt_ids=prompt)
            for sample, template in enumerate(self.completions):
                text = template.replace("{answer}", task["answer"])
                ids = np.array([ord(character) for character in text], np.int32)
                identity: dict[str, Any] = {
                    "task_id": task["id"],
                    "parent_ids": [],
                    "sample": sample,
                    "prompt_ids": prompt,
                }
                rows.append(
                    identity
                    | {name: where[name] for name in ("peer", "round", "node")}
                    | {
                        "id": rollout_id(**where, **identity, completion_ids=ids),
                        "group_id": group,
                        "stage": self.place.stage,
                        "policy": "script",
                        "policy_version": 0,
                        "tokenizer_fingerprint": "characters",
                        "temperature": 1.0,
                        "messages": task["messages"],
                        "completion_ids": ids,
                        "completion_mask": [1] * len(ids),
                        "logprobs": np.zeros(len(ids), np.float32),
                        "completion": text,
                        "finish_reason": "stop",
                        "error": "",
                    }
                )
        return Rollouts.from_rows(rows)
