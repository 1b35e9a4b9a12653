"""Optimiser steps of `update.sft`, taken by TRL's SFTTrainer (imports trl: loaded when an update runs)."""

from typing import TYPE_CHECKING

import numpy as np
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.update.steps.external import ExternalRows
from genrl_graph.nodes.update.steps.training import prompt_digest
from genrl_graph.nodes.update.trl.trl_training import (
    InPlaceTrainer,
    Recipe,
    as_causal_policy,
    report_nothing,
    train_in_place,
    usable_rows,
)

if TYPE_CHECKING:
    from genrl_graph.nodes.update.sft import Sft

IGNORED = -100  # label of a token without a loss


class _InPlaceSft(InPlaceTrainer, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on a live policy."""


def train_sft(
    node: "Sft", policy: TextPolicy, rows: Rollouts, *, rng: np.random.Generator, log: Log, peer: str
) -> None:
    """Take the optimiser steps of all epochs on the usable rows and log their metrics."""
    trained, external = as_causal_policy(policy), ExternalRows(policy, peer=peer)
    rows = usable_rows(rows, trained, external, log, mask_truncated=node.mask_truncated)
    prompts, completions = rows.ragged("prompt_ids"), rows.ragged("completion_ids")
    masks = rows.ragged("completion_mask")
    columns = {
        "input_ids": [np.concatenate(pair) for pair in zip(prompts, completions, strict=True)],
        "labels": [
            np.concatenate([np.full(len(prompt), IGNORED), np.where(mask > 0, completion, IGNORED)])
            for prompt, completion, mask in zip(prompts, completions, masks, strict=True)
        ],
    }

    if len(rows):
        recipe = Recipe(
            trainer=_InPlaceSft,
            config=SFTConfig,
            settings={"loss_type": node.loss_type, "dataset_kwargs": {"skip_prepare_dataset": True}},
            columns=columns,
            collator=DataCollatorForLanguageModeling(pad_token_id=0),  # any id: padding is masked
            lengths=[len(ids) for ids in columns["input_ids"]],
        )
        train_in_place(node, trained, recipe, rng=rng, log=log)
    else:
        report_nothing(log)
    log.metric("trained_rows", len(rows))
    log.metric("trained_tokens", node.epochs * sum(int(mask.sum()) for mask in masks))
    log.metric("learning_rate", node.learning_rate_at(max(policy.version - 1, 0)))
    external.report(log, trained=rows.values("id"))
    log.rows("trained", {"id": rows.values("id"), "prompt_digest": list(map(prompt_digest, prompts))})
