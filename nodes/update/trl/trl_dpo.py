"""The optimiser steps of `update.dpo`, taken by TRL's DPOTrainer (imports trl: loaded when an update runs)."""

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
    live,
    report_nothing,
    train_in_place,
    usable_rows,
)

if TYPE_CHECKING:
    from genrl_graph.nodes.update.dpo import Dpo


class _InPlaceDpo(InPlaceTrainer, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on a live policy, pairs of token ids and reference log-probs that are known."""

    loss_is_scaled_for_ga = True  # by `compute_loss`
    _pairs_of_step = 0

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """TRL would render and tokenise texts."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        """TRL would compute them in this model and keep them in a file."""
        return dataset

    def get_batch_samples(self, *given: Any) -> Any:
        """The micro-batches of a step."""
        batches, count = super().get_batch_samples(*given)
        self._pairs_of_step = sum(_pairs_in(batch) for batch in batches)
        return batches, count

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        """The part of a micro-batch in the mean over all pairs of the step, however they are split."""
        return super().compute_loss(model, inputs, *given, **named) * (_pairs_in(inputs) / self._pairs_of_step)


class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """Pads pairs of token ids; of the completions only sampled tokens count."""

    def torch_call(self, examples: list[dict[str, Any]]) -> Any:
        batch = super().torch_call(examples)
        for side, name in enumerate(("chosen", "rejected")):
            for at, example in enumerate(examples, start=side * len(examples)):
                start, mask = len(example["prompt_ids"]), torch.tensor(example[f"{name}_mask"])
                batch["completion_mask"][at, start : start + len(mask)] = mask
        return batch


def prefer(
    node: "Dpo",
    policy: TextPolicy,
    reference: TextPolicy,
    rows: Rollouts,
    *,
    rng: np.random.Generator,
    log: Log,
    peer: str,
) -> None:
    """Take the steps of all epochs on the pairs of these rows, and report."""
    trained, external = live(policy), ExternalRows(policy, peer=peer)
    if reference.tokenizer != policy.tokenizer:
        raise ParamError(f"reference {reference.name!r} reads other tokens than policy {policy.name!r}")
    rows = usable_rows(rows, trained, external, log)
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
        collator=_Collator(pad_token_id=0),  # under the masks any id will do
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
    """By position of a row in a pair the log-prob of its sampled tokens at temperature 1, under the reference."""
    needed = np.asarray(sorted({*pairs.chosen, *pairs.rejected}))
    sides = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    sequences = [TokenSequence(prompt, completion) for prompt, completion in sides]
    masks = rows.ragged("completion_mask")
    lengths = [len(sequences[at].prompt_ids) + len(sequences[at].completion_ids) for at in needed]
    found: dict[int, float] = {}
    for micro in micro_batches(lengths, max_batch_tokens=max_batch_tokens):
        at: NDArray[np.int64] = needed[micro]
        with torch.no_grad():
            logprobs = policy.logprobs([sequences[i] for i in at], temperatures=np.ones(len(at), np.float32)).cpu()
        for row, i in enumerate(at.tolist()):
            found[i] = float(logprobs[row, : len(masks[i])][torch.from_numpy(masks[i] > 0)].sum())
    return found


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
