"""Optimiser steps of `update.text_ppo` (imports torch: loaded when an update runs)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.update.steps.actor_losses import value_errors
from genrl_graph.nodes.update.steps.losses import Totals
from genrl_graph.nodes.update.steps.training import Trainer
from genrl_graph.nodes.update.steps.training_batch import TokenValues, TrainingBatch, padded

if TYPE_CHECKING:
    from genrl_graph.nodes.update.text_ppo import TextPpo


class PpoTrainer(Trainer):
    """Takes the optimiser steps of one run of `update.text_ppo`: advantages of tokens, and the loss of the critic."""

    _node: "TextPpo"
    _policy_losses = _value_losses = 0.0
    _clipped_values = _learned_values = 0

    def _batch(self, rows: Rollouts) -> TrainingBatch:
        fits = _fits(rows)
        self._left_out += int((~fits).sum())
        batch = super()._batch(rows.where(fits))
        if self._node.whiten and batch.ids:
            tokens = _tokens(batch)
            tokens.advantages = whitened(tokens.advantages, batch.masks)
        return batch

    def report(self) -> None:
        """Log the metrics of all updates, those of the critic, and the table of rows that were trained on."""
        super().report()
        steps = max(self._steps, 1)
        self._log.metric("policy_loss", self._policy_losses / steps)
        self._log.metric("value_loss", self._value_losses / steps)
        self._log.metric("clipped_values", self._clipped_values / max(self._learned_values, 1))

    def _forward_needed(self, batch: TrainingBatch) -> NDArray[np.bool_]:
        """Return True for each row: the critic learns from all of them."""
        return np.ones(len(batch.ids), dtype=bool)

    def _totals(self, batch: TrainingBatch, part: NDArray[np.int64]) -> Totals:
        totals, targets = super()._totals(batch, part), _tokens(batch).targets
        count = sum(int(np.isfinite(targets[at]).sum()) for at in part.tolist())
        return Totals(
            sequences=totals.sequences,
            tokens=totals.tokens,
            max_completion_tokens=totals.max_completion_tokens,
            targets=max(count, 1),
        )

    def _micro(self, batch: TrainingBatch, at: NDArray[np.int64], totals: Totals) -> None:
        sequences = [batch.sequences[i] for i in at]
        logprobs, values = self._policy.logprobs_and_values(sequences, temperatures=batch.temperatures[at])
        result = self._policy_loss(batch, at, logprobs, totals)
        critic = self._value_loss(batch, at, values[:, : logprobs.shape[1]], totals)
        loss = result.loss + self._node.value_coef * critic
        self._policy.backward(loss)
        self._policy_losses += float(result.loss.detach())
        self._value_losses += float(critic.detach())
        self._count(batch, at, logprobs, result, loss=float(loss.detach()))

    def _advantages(self, batch: TrainingBatch, at: NDArray[np.int64], like: Tensor) -> Tensor:
        return padded([_tokens(batch).advantages[i] for i in at], like).nan_to_num(0.0)

    def _value_loss(self, batch: TrainingBatch, at: NDArray[np.int64], values: Tensor, totals: Totals) -> Tensor:
        """Return half the squared errors of the critic, over the targets of the whole optimiser step."""
        tokens = _tokens(batch)
        inside = padded([np.isfinite(tokens.targets[i]) for i in at], values)
        # NaN would reach the gradient, also through values that are left out
        targets = padded([tokens.targets[i] for i in at], values).nan_to_num(0.0)
        old = padded([tokens.values[i] for i in at], values).nan_to_num(0.0)
        errors, clipped = value_errors(values, old, targets, epsilon=self._node.value_epsilon)
        self._clipped_values += int((clipped & inside).sum())
        self._learned_values += int(inside.sum())
        return 0.5 * torch.where(inside, errors, 0.0).sum() / totals.targets


COLUMNS = ("values", "token_advantages", "targets")


def whitened(rows: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.int8]]) -> list[NDArray[np.float32]]:
    """Scale the advantages of masked tokens to mean 0 and sample deviation 1; NaN elsewhere is kept."""
    values = np.concatenate([row[mask > 0] for row, mask in zip(rows, masks, strict=True)]).astype(np.float64)
    if len(values) < 2:
        return list(rows)
    mean, deviation = values.mean(), np.sqrt(values.var(ddof=1) + 1e-8)
    return [((row - mean) / deviation).astype(np.float32) for row in rows]


def _tokens(batch: TrainingBatch) -> TokenValues:
    assert batch.tokens is not None, "the input has the mark TokenValued"
    return batch.tokens


def _fits(rows: Rollouts) -> NDArray[np.bool_]:
    """Return a mask of the rows that have a value for each token: those of other peers may claim anything."""
    lengths = [[len(values) for values in rows.ragged(name)] for name in ("completion_ids", *COLUMNS)]
    return np.asarray([len(set(each)) == 1 for each in zip(*lengths, strict=True)], dtype=bool)
