"""Optimiser steps of updates of language models (imports torch: loaded when an update runs)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.steps.batches import split_groups
from genrl_graph.nodes.update.steps.correction import SamplerGap, correction_weights, kept
from genrl_graph.nodes.update.steps.external import ExternalRows
from genrl_graph.nodes.update.steps.losses import LossSums, PolicyLoss, Totals, policy_loss
from genrl_graph.nodes.update.steps.role_shares import RoleShares, token_gradient
from genrl_graph.nodes.update.steps.training_batch import TrainingBatch, padded
from genrl_graph.nodes.update.steps.truncated import truncated
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from genrl_graph.nodes.update.grpo import Grpo
    from genrl_graph.nodes.update.text_ppo import TextPpo


class Trainer:
    """Takes the optimiser steps of one run of an update of a language model and collects their metrics.

    The old log-probs of the policy's own rows are the sampler's. With an importance correction they are those of this
    policy from before its first step, and weights lead from the sampler to these.
    """

    def __init__(
        self,
        node: "Grpo | TextPpo",
        policy: TextPolicy,
        reference: TextPolicy | None,
        *,
        rng: np.random.Generator,
        log: Log,
        peer: str,
        roles: Mapping[str, str],
    ) -> None:
        self._node, self._policy, self._reference = node, policy, reference
        self._rng, self._log, self._peer = rng, log, peer
        self._config, self._correction = node.loss_config(), node.correction()
        if reference is not None and reference.tokenizer_fingerprint != policy.tokenizer_fingerprint:
            raise ParamError(f"reference {reference.name!r} reads other tokens than policy {policy.name!r}")
        self._external = ExternalRows(policy, peer=peer)
        self._first_version = policy.version
        self._sums, self._shares = LossSums(), RoleShares(roles)
        self._gap = SamplerGap(self._correction.level)
        self._loss = self._grad_norm = 0.0
        self._steps = self._left_out = self._truncated = self._other_tokenizer_rows = self._zero_variance_groups = (
            self._rows_without_forward
        ) = 0
        self._rejected = self._considered = 0
        self._trained: dict[str, tuple[float, str]] = {}  # by rollout id: mean ratio, digest of the prompt

    def train(self, inputs: Sequence[Rollouts]) -> None:
        """Take the optimiser steps of all epochs on each input, one input after the other."""
        batches = [batch for batch in map(self._batch, inputs) if batch.ids]
        plans = [
            [split_groups(batch.groups, parts=self._node.minibatches, rng=self._rng) for _ in range(self._node.epochs)]
            for batch in batches
        ]
        many = sum(len(parts) for plan in plans for parts in plan) > 1
        for batch in batches:
            if many or self._correction.rejects:
                self._record_initial_logprobs(batch)
            if self._correction.rejects:
                self._reject(batch)
        for batch, plan in zip(batches, plans, strict=True):
            self._count_rows_without_forward(batch)
            for part in (part for parts in plan for part in parts):
                self._step(batch, part)

    def _batch(self, rows: Rollouts) -> TrainingBatch:
        """Return the usable rows: with tokens of this policy's tokenizer and a finite advantage; count the others.

        Rows cut by the length limit are left out with `mask_truncated`.
        """
        lengths = np.asarray([len(ids) for ids in rows.ragged("completion_ids")], dtype=np.int64)
        readable = np.asarray(
            [name == self._policy.tokenizer_fingerprint for name in rows.values("tokenizer_fingerprint")], dtype=bool
        )
        external = self._external.mask(rows)
        usable = np.isfinite(rows.numpy("advantage")) & ((lengths > 0) & readable | external)
        usable &= self._policy.can_read(rows)
        if self._node.mask_truncated:
            self._truncated += int((usable & truncated(rows)).sum())
            usable &= ~truncated(rows)
        fitted = self._external.fit(rows.where(usable))
        self._left_out += len(rows) - len(fitted)
        self._other_tokenizer_rows += int((~readable & ~external).sum())
        return TrainingBatch.of(fitted, policy=self._policy, peer=self._peer)

    def report(self) -> None:
        """Log the metrics and the table of rows that were trained on."""
        means = self._sums.means()
        steps = max(self._steps, 1)
        metrics = {
            "loss": self._loss / steps,
            "grad_norm": self._grad_norm / steps,
            "optimiser_steps": self._steps,
            "trained_rows": len(self._trained),
            "trained_tokens": self._sums.tokens,
            "left_out_rows": self._left_out,
            **(
                {}
                if self._config.off_policy_mask_threshold is None
                else {"off_policy_rows": self._sums.off_policy_rows}
            ),
            **({"truncated_rows": self._truncated} if self._node.mask_truncated else {}),
            **({"rejected_tokens": self._rejected / max(self._considered, 1)} if self._correction.rejects else {}),
            **self._gap.metrics(),
            "rows_of_another_tokenizer": self._other_tokenizer_rows,
            "groups_without_variance": self._zero_variance_groups,
            "rows_without_forward": self._rows_without_forward,
            "learning_rate": self._node.learning_rate_at(max(self._policy.version - 1, 0)),
        }
        for name, value in {**metrics, **(means if self._sums.tokens else {})}.items():
            self._log.metric(name, value)
        self._shares.report(self._log, steps=self._steps)
        self._external.report(self._log, trained=self._trained)
        self._log.rows(
            "trained",
            {
                "id": list(self._trained),
                "ratio": [ratio for ratio, _ in self._trained.values()],
                "prompt_digest": [prompt for _, prompt in self._trained.values()],
            },
        )

    def _forward_needed(self, batch: TrainingBatch) -> NDArray[np.bool_]:
        """Return, per row, True if it has a gradient: its advantage is not 0, or the loss has a KL term."""
        trained = np.asarray([bool(mask.any()) for mask in batch.masks], dtype=bool)
        return trained if self._config.beta > 0 else trained & (batch.advantages != 0.0)

    def _count_rows_without_forward(self, batch: TrainingBatch) -> None:
        needed = self._forward_needed(batch)
        self._rows_without_forward += int((~needed).sum())
        varied = {group for group, advantage in zip(batch.groups, batch.advantages, strict=True) if advantage != 0.0}
        self._zero_variance_groups += len(set(batch.groups) - varied)

    def _step(self, batch: TrainingBatch, part: NDArray[np.int64]) -> None:
        """Take one optimiser step on the rows of `part`; gradients accumulate over its micro-batches."""
        needed = part[self._forward_needed(batch)[part]]
        if not len(needed):
            return
        totals = self._totals(batch, part)
        for at in self._micro_batches(batch, needed):
            self._micro(batch, at, totals)
        rate = self._node.learning_rate_at(self._policy.version)
        self._grad_norm += self._policy.step(learning_rate=rate, max_grad_norm=self._node.max_grad_norm)
        self._steps += 1

    def _totals(self, batch: TrainingBatch, part: NDArray[np.int64]) -> Totals:
        """Return what the means of an optimiser step divide by; rejected tokens and sequences do not count."""
        tokens = [int(batch.masks[at].sum()) for at in part]
        return Totals(
            sequences=max(sum(count > 0 for count in tokens), 1) if self._correction.rejects else len(part),
            tokens=max(sum(tokens), 1),
            max_completion_tokens=self._node.max_completion_tokens,
        )

    def _micro_batches(self, batch: TrainingBatch, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        sequences = [batch.sequences[at] for at in rows]
        parts = self._policy.micro_batches(sequences, max_batch_tokens=self._node.max_batch_tokens)
        return [rows[at] for at in parts]

    def _micro(self, batch: TrainingBatch, at: NDArray[np.int64], totals: Totals) -> None:
        sequences, temperatures = [batch.sequences[i] for i in at], batch.temperatures[at]
        logprobs = self._policy.logprobs(sequences, temperatures=temperatures)
        result = self._policy_loss(batch, at, logprobs, totals)
        self._policy.backward(result.loss)
        self._count(batch, at, logprobs, result, loss=float(result.loss.detach()))

    def _policy_loss(self, batch: TrainingBatch, at: NDArray[np.int64], logprobs: Tensor, totals: Totals) -> PolicyLoss:
        """Return the loss of the policy for the rows at positions `at`."""
        logprobs.retain_grad()
        reference = None
        if self._config.beta > 0 and self._reference is not None:
            sequences, temperatures = [batch.sequences[i] for i in at], batch.temperatures[at]
            with torch.no_grad():
                reference = self._reference.logprobs(sequences, temperatures=temperatures)
        old = self._old(batch, at, logprobs.detach())
        self._measure(batch, at, old)
        return policy_loss(
            logprobs=logprobs,
            old_logprobs=old,
            ref_logprobs=reference,
            advantages=self._advantages(batch, at, logprobs),
            mask=padded([batch.masks[i] for i in at], logprobs) > 0,
            config=self._config,
            totals=totals,
            correction=self._weights(batch, at, old),
        )

    def _advantages(self, batch: TrainingBatch, at: NDArray[np.int64], like: Tensor) -> Tensor:
        """Return the advantages of rows [rows], or of their tokens [rows, tokens]."""
        return torch.as_tensor(batch.advantages[at], dtype=torch.float32, device=like.device)

    def _count(
        self, batch: TrainingBatch, at: NDArray[np.int64], logprobs: Tensor, result: PolicyLoss, *, loss: float
    ) -> None:
        """Add a micro-batch to the metrics, after its backward pass."""
        gradient = token_gradient(logprobs, torch.as_tensor(batch.temperatures[at].copy()))
        tokens = padded([batch.masks[i] for i in at], logprobs).sum(-1)
        ids = [batch.ids[i] for i in at]
        self._shares.add(ids, gradient=gradient, loss=result.row_losses, tokens=tokens)
        self._loss += loss
        self._sums += result.sums
        for i, ratio in zip(at.tolist(), result.ratio.tolist(), strict=True):
            self._trained[batch.ids[i]] = (ratio, prompt_digest(batch.sequences[i].prompt_ids))

    def _old(self, batch: TrainingBatch, at: NDArray[np.int64], current: Tensor) -> Tensor:
        """Return old log-probs [rows, tokens]: current for on-policy rows, else the sampler's or the initial ones.

        The first step uses the current ones in place of the initial ones: they differ only by rounding, as another
        micro-batch computed them.
        """
        old, first = current.clone(), self._policy.version == self._first_version
        for row, i in enumerate(at.tolist()):
            known = None if first else batch.initial_logprobs.get(i)
            if batch.own[i] and batch.versions[i] != self._policy.version and not self._correction.active:
                known = batch.logprobs[i]
            if known is not None:
                old[row, : len(known)] = torch.as_tensor(known.copy(), device=old.device)
        return old

    def _record_initial_logprobs(self, batch: TrainingBatch) -> None:
        """Compute this policy's log-probs before the first of several steps, of rows for which they are the old ones.

        These are the rows that it did not sample; with an importance correction they are all rows.
        """
        needed = self._forward_needed(batch)
        wanted = needed if self._correction.active else needed & ~batch.own
        if self._correction.rejects:  # the means of the loss count rows without a gradient, too
            wanted = wanted | batch.own
        for at in self._micro_batches(batch, np.flatnonzero(wanted)):
            with torch.no_grad():
                values = self._policy.logprobs([batch.sequences[i] for i in at], temperatures=batch.temperatures[at])
            self._measure(batch, at, values)
            for row, i in enumerate(at.tolist()):
                batch.initial_logprobs[i] = values[row, : len(batch.sequences[i].completion_ids)].float().cpu().numpy()

    def _measure(self, batch: TrainingBatch, at: NDArray[np.int64], current: Tensor) -> None:
        """Measure the gap to the sampler, once and before the first step, of rows that the present weights sampled."""
        values = current.float().cpu().numpy() if self._policy.version == self._first_version else None
        for row, i in enumerate(at.tolist()):
            skip = i in batch.initial_logprobs or not batch.own[i] or batch.versions[i] != self._first_version
            if values is not None and not skip:
                sampled = batch.logprobs[i]
                self._gap.add(values[row, : len(sampled)], sampled, batch.sampled[i])

    def _weights(self, batch: TrainingBatch, at: NDArray[np.int64], old: Tensor) -> Tensor | None:
        """Return the weights of an importance correction; 1 for rows of other peers, whose log-probs are claims."""
        if not self._correction.active:
            return None
        sampled = padded([_sampled(batch, i) for i in at.tolist()], old)
        mask = padded([batch.sampled[i] for i in at], old) > 0
        return correction_weights(old - sampled, mask, self._correction)

    def _reject(self, batch: TrainingBatch) -> None:
        """Take tokens or sequences whose weight is out of bounds out of the masks of a batch."""
        for i, initial in batch.initial_logprobs.items():
            if batch.own[i]:
                log_ratio, mask = torch.from_numpy(initial - batch.logprobs[i]), torch.from_numpy(batch.sampled[i] > 0)
                within = kept(log_ratio[None], mask[None], self._correction)[0].numpy()
                batch.masks[i] = np.where(within, batch.masks[i], 0).astype(np.int8)
                self._considered += int(mask.sum())
                self._rejected += int(mask.sum()) - int(within.sum())


def _sampled(batch: TrainingBatch, row: int) -> NDArray[np.float32]:
    """Return the sampler's log-probs of a row; NaN, which stands for unknown, if another policy sampled it."""
    known = batch.logprobs[row]
    return known if batch.own[row] else np.full(len(known), np.nan, np.float32)


def prompt_digest(prompt_ids: NDArray[np.int32]) -> str:
    """Digest of a row's prompt ids, to compare the prompt of training with the prompt of sampling."""
    return digest((prompt_ids.astype("<i4").tobytes(),), size=8)
