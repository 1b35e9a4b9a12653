"""Optimiser steps of `update.dpo`, taken by TRL's DPOTrainer (imports trl: loaded when an update runs)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from genrl_graph.contract.policy import TextPolicy, TokenSequence, micro_batches
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.update.steps.external import ExternalRows
from genrl_graph.nodes.update.steps.pairs import Pairs, preference_pairs
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
    from genrl_graph.nodes.update.dpo import Dpo


class _InPlaceDpo(InPlaceTrainer, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on a live policy, given pairs of token ids and precomputed reference log-probs."""

    loss_is_scaled_for_ga = True  # by `compute_loss`
    _pairs_of_step = 0

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Return the dataset unchanged: it holds token ids, and TRL would tokenise texts."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        """Return the dataset unchanged: TRL would compute the log-probs with this model and write them to a file."""
        return dataset

    def get_batch_samples(self, *args: Any) -> Any:
        """Return the micro-batches of a step and count their pairs."""
        batches, count = super().get_batch_samples(*args)
        self._pairs_of_step = sum(_pairs_in(batch) for batch in batches)
        return batches, count

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Scale the micro-batch's mean loss by its share of the step's pairs, so micro-batches add up to the mean."""
        return super().compute_loss(model, inputs, *args, **kwargs) * (_pairs_in(inputs) / self._pairs_of_step)


class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """Pads pairs of token ids and masks completion tokens that were not sampled."""

    def torch_call(self, examples: list[dict[str, Any]]) -> Any:
        """Collate examples, with the mask of sampled tokens in place of TRL's completion mask."""
        batch = super().torch_call(examples)
        for side, name in enumerate(("chosen", "rejected")):
            for at, example in enumerate(examples, start=side * len(examples)):
                start, mask = len(example["prompt_ids"]), torch.tensor(example[f"{name}_mask"])
                batch["completion_mask"][at, start : start + len(mask)] = mask
        return batch


def train_dpo(
    node: "Dpo",
    policy: TextPolicy,
    reference: TextPolicy,
    rows: Rollouts,
    *,
    rng: np.random.Generator,
    log: Log,
    peer: str,
) -> None:
    """Take the optimiser steps of all epochs on the preference pairs of `rows` and log their metrics."""
    trained, external = as_causal_policy(policy), ExternalRows(policy, peer=peer)
    if reference.tokenizer_fingerprint != policy.tokenizer_fingerprint:
        raise ParamError(f"reference {reference.name!r} reads other tokens than policy {policy.name!r}")
    rows = usable_rows(rows, trained, external, log, mask_truncated=node.mask_truncated)
    pairs = preference_pairs(rows, rule=node.pairs, min_margin=node.min_margin)
    if pairs.chosen:
        _train(node, trained, reference, rows, pairs, rng=rng, log=log)
    else:
        report_nothing(log)
    ids = rows.values("id")
    external.report(log, trained={ids[at] for at in (*pairs.chosen, *pairs.rejected)})
    _report(node, policy, rows, pairs, log)


def _train(
    node: "Dpo",
    policy: CausalPolicy,
    reference: TextPolicy,
    rows: Rollouts,
    pairs: Pairs,
    *,
    rng: np.random.Generator,
    log: Log,
) -> None:
    columns = _columns(rows, pairs, _reference_logprobs(reference, rows, pairs, node.max_batch_tokens))
    sides = (columns["prompt_ids"], columns["chosen_ids"], columns["rejected_ids"])
    recipe = Recipe(
        trainer=_InPlaceDpo,
        config=DPOConfig,
        settings={
            "loss_type": node.loss_type,
            "beta": node.beta,
            "label_smoothing": node.label_smoothing,
            "precompute_ref_log_probs": True,
            "disable_dropout": False,  # a policy has none
        },
        columns=columns,
        collator=_Collator(pad_token_id=0),  # any id: padding is masked
        lengths=[2 * (len(p) + max(len(c), len(r))) for p, c, r in zip(*sides, strict=True)],
    )
    train_in_place(node, policy, recipe, rng=rng, log=log)


def _columns(rows: Rollouts, pairs: Pairs, reference: dict[int, float]) -> dict[str, list[Any]]:
    prompts, completions = rows.ragged("prompt_ids"), rows.ragged("completion_ids")
    masks = rows.ragged("completion_mask")
    columns: dict[str, list[Any]] = {"prompt_ids": [prompts[at] for at in pairs.chosen]}
    for name, side in (("chosen", pairs.chosen), ("rejected", pairs.rejected)):
        columns[f"{name}_ids"] = [completions[at] for at in side]
        columns[f"{name}_mask"] = [masks[at] for at in side]
        columns[f"ref_{name}_logps"] = [reference[at] for at in side]
    return columns


def _reference_logprobs(policy: TextPolicy, rows: Rollouts, pairs: Pairs, max_batch_tokens: int) -> dict[int, float]:
    """Return, by row position, the summed reference log-prob of the sampled tokens (temperature 1) of paired rows."""
    needed = np.asarray(sorted({*pairs.chosen, *pairs.rejected}))
    sides = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    sequences = [TokenSequence(prompt, completion) for prompt, completion in sides]
    masks = rows.ragged("completion_mask")
    lengths = [len(sequences[at].prompt_ids) + len(sequences[at].completion_ids) for at in needed]
    sums: dict[int, float] = {}
    for micro in micro_batches(lengths, max_batch_tokens=max_batch_tokens):
        at: NDArray[np.int64] = needed[micro]
        with torch.no_grad():
            logprobs = policy.logprobs([sequences[i] for i in at], temperatures=np.ones(len(at), np.float32)).cpu()
        for row, i in enumerate(at.tolist()):
            sums[i] = float(logprobs[row, : len(masks[i])][torch.from_numpy(masks[i] > 0)].sum())
    return sums


def _report(node: "Dpo", policy: TextPolicy, rows: Rollouts, pairs: Pairs, log: Log) -> None:
    ids, prompts, masks = rows.values("id"), rows.ragged("prompt_ids"), rows.ragged("completion_mask")
    paired = [*pairs.chosen, *pairs.rejected]
    log.metric("pairs", len(pairs.chosen))
    log.metric("groups_without_pair", pairs.groups_without)
    log.metric("trained_rows", len(set(paired)))
    log.metric("trained_tokens", node.epochs * sum(int(masks[at].sum()) for at in paired))
    log.metric("learning_rate", node.learning_rate_at(max(policy.version - 1, 0)))
    log.rows(
        "trained",
        {
            "chosen_id": [ids[at] for at in pairs.chosen],
            "rejected_id": [ids[at] for at in pairs.rejected],
            "prompt_digest": [prompt_digest(prompts[at]) for at in pairs.chosen],
        },
    )


def _pairs_in(batch: Any) -> int:
    return len(batch["input_ids"]) // 2
