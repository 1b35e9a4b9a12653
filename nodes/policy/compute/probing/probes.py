"""Find out how a model may be called, by comparing each way with plain transformers on a small random twin.

Padding, caches, shared prefixes, recomputation and the borders of a configuration are all tried: with rows shorter
than, as long as and longer than each border, alone and beside others.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.activation_checkpointing import ActivationCheckpointing
from genrl_graph.nodes.policy.compute.call_state import changed_kinds, remember, restore, states
from genrl_graph.nodes.policy.compute.logprobs import has_plain_head, logprobs_by_group
from genrl_graph.nodes.policy.compute.packed_forward import prepare
from genrl_graph.nodes.policy.compute.probing.twin import Twin, twins
from genrl_graph.nodes.policy.compute.reading import LengthRule, Reading
from genrl_graph.nodes.policy.compute.sampling import Limits, sample_completions

TOLERANCE = 5e-5
"""Largest difference of log-probs that counts as rounding, in nats."""
NEW = 10
"""Tokens to sample per row of a probe."""
SHARED = 18
"""Tokens that two prompts of a probe have in common."""

_verdicts: dict[str, "Reading | str"] = {}


def reading_of(model: torch.nn.Module) -> Reading:
    """Return how a model may be called; models of equal configurations are probed once.

    Raises `DataError` with the reason if no way gives log-probs that depend on the weights and the row alone.
    """
    config = {name: value for name, value in cast(Any, model).config.to_dict().items() if not name.startswith("_")}
    key = f"{type(model).__qualname__} {next(model.parameters()).device.type} {json.dumps(config, default=repr)}"
    if key not in _verdicts:
        # the caller may be sampling without gradients, or in bfloat16
        with torch.enable_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
            _verdicts[key] = _probe(model)
    verdict = _verdicts[key]
    if isinstance(verdict, str):
        raise DataError(f"{type(model).__name__} cannot be played: {verdict}")
    return verdict


def _probe(model: torch.nn.Module) -> "Reading | str":
    """Return the reading of the first twin that plain transformers can run, or the reason of the last one."""
    reason = "transformers cannot build it from its own configuration"
    for twin in twins(model):
        probes = _Probes(twin)
        try:
            probes.reference(max(probes.lengths, default=8))  # without a length that works: why the shortest fails
        except Exception as error:  # whatever the model's own code raises
            reason = f"a plain call raises {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        return probes.verdict()
    return reason


class _Probes:
    """The probes of one twin."""

    def __init__(self, twin: Twin) -> None:
        self.model, self.borders = twin.model, twin.borders
        self._first = states(self.model)
        remember(self.model, {type(module).__qualname__ for module in self.model.modules()})
        self._rng = np.random.default_rng(0)
        embedding = cast(Any, self.model).get_input_embeddings()
        head = cast(Any, self.model).get_output_embeddings()
        sizes = [int(layer.weight.shape[0]) for layer in (embedding, head) if layer is not None]
        self.ids = self._rng.integers(min(3, min(sizes) - 1), min(sizes), 256).astype(np.int32)
        self._plain: dict[bytes, torch.Tensor] = {}

    @cached_property
    def lengths(self) -> list[int]:
        """Lengths below, at and above each border that the model can read, ascending."""
        near = {8, 2 * SHARED, *(length for border in self.borders for length in range(border - 1, border + 3))}
        return [length for length in sorted(near) if 2 <= length <= len(self.ids) and self._reads(length)]

    def _reads(self, length: int) -> bool:
        try:
            self.reference(length)
        except Exception:  # beyond the positions that it has
            return False
        return True

    def reference(self, length: int) -> torch.Tensor:
        """Return the log-probs [length, vocabulary] of the first ids in a plain call."""
        return self._of(self.ids[:length])

    def _of(self, ids: NDArray[np.int32]) -> torch.Tensor:
        key = ids.tobytes()
        if key not in self._plain:
            restore(self.model)
            with torch.no_grad():
                inputs = torch.from_numpy(ids.astype(np.int64))[None].to(self.model.device)
                self._plain[key] = self.model(input_ids=inputs, use_cache=False).logits[0].float().log_softmax(-1)
        return self._plain[key]

    def verdict(self) -> "Reading | str":
        """Return the fastest reading that is exact, or the reason why none is.

        If none is, those that read only up to a border are tried: sparse attention, for example, breaks ties between
        keys by chance where it leaves keys out, but not in rows that are shorter than that.
        """
        volatile, every = self._volatile(), self.lengths
        reason = self._unusable()
        limits = [] if reason else [None, *sorted(self.borders, reverse=True)]
        for limit in limits:
            lengths = [length for length in every if limit is None or length <= limit]
            if limit is not None and (len(lengths) < 2 or lengths == self.lengths):
                continue
            self.lengths = lengths
            verdict = self._fastest(Reading(volatile=volatile, limit=None if limit is None else self.borders[limit]))
            if isinstance(verdict, Reading):
                return verdict
            reason = reason or verdict
        return reason

    def _fastest(self, reading: Reading) -> "Reading | str":
        """Return the fastest reading that is exact for these lengths, or the reason why none is."""
        if not self._is_causal():
            return "tokens see later ones, so it is no causal language model as configured; is is_decoder set?"
        reading = replace(reading, lengths=self._length_rule(), recomputes=self._recomputes())
        plain_head = has_plain_head(self.model)
        rows = self._training_rows()
        for pads in (True, False):
            reading = replace(reading, pads=pads)
            if self._holds(partial(self._trains, rows, reading, plain_head=plain_head, shared=False)):
                break
        else:
            return "rows give other log-probs in a batch than alone"
        packs = plain_head and prepare(self.model)
        packs = packs and self._holds(partial(self._trains, rows, reading, plain_head=plain_head, shared=True))
        ways = ((True, True, True), (False, True, True), (False, False, True), (False, False, False))
        for shares, pads_prompts, caches in ways if packs else ways[1:]:
            reading = replace(reading, packs=packs, shares_prompts=shares, pads_prompts=pads_prompts, caches=caches)
            if self._holds(partial(self._samples, reading)):
                return reading
        return "it samples other log-probs than it computes"

    def _volatile(self) -> frozenset[str]:
        """Return the classes of modules whose state a plain call changes, at any of the lengths."""
        kinds: frozenset[str] = frozenset()
        for length in self.lengths:
            self._plain.pop(self.ids[:length].tobytes(), None)
            self.reference(length)
            kinds |= changed_kinds(self._first, self.model)
        return kinds

    def _unusable(self) -> str:
        """Return why not even plain calls are a function of the weights and the tokens, or ""."""
        if self._first.keys() != {name for name, _ in self.model.named_modules()}:
            return "a call replaces modules of the model, so later calls give other log-probs"
        length = self.lengths[0]
        first = self.reference(length)
        self._plain.clear()
        if not _near(first, self.reference(length)):
            return "two identical calls give other log-probs"
        return "" if bool(torch.isfinite(first).all()) else "its log-probs are not finite"

    def _is_causal(self) -> bool:
        """Return whether no last token changes what was computed before it, at any of the lengths."""
        for length in self.lengths:
            rows = self._rng.choice(self.ids, (8, length)).astype(np.int64)
            other = rows.copy()
            other[:, -1] = self._rng.choice(self.ids, 8)
            if not _near(self._batch(rows)[:, :-1], self._batch(other)[:, :-1]):
                return False
        return True

    def _batch(self, rows: NDArray[np.int64]) -> torch.Tensor:
        restore(self.model)
        with torch.no_grad():
            inputs = torch.from_numpy(rows).to(self.model.device)
            return cast(torch.Tensor, self.model(input_ids=inputs, use_cache=False).logits.float().log_softmax(-1))

    def _length_rule(self) -> LengthRule:
        """Return which lengths are computed alike, from the log-probs of a common beginning."""
        common = self.lengths[0] - 1
        alike = [
            [_near(self.reference(a)[:common], self.reference(b)[:common]) for b in self.lengths] for a in self.lengths
        ]
        below = [length for length, same in zip(self.lengths, alike[0], strict=True) if same]
        above = [row for row, same in zip(alike, alike[0], strict=True) if not same]
        if not above:
            return LengthRule()
        border = self.borders.get(max(below))
        if border is None or below != self.lengths[: len(below)]:
            return LengthRule(0, each=True)
        return LengthRule(border, each=not all(all(row[len(below) :]) for row in above))

    def _small(self, reading: Reading) -> Reading:
        """Return a reading with the border of the twin in place of the original's."""
        small = {large: small for small, large in self.borders.items()}
        rule = reading.lengths
        return reading if not rule.border else replace(reading, lengths=replace(rule, border=small[rule.border]))

    def _training_rows(self) -> list[TokenSequence]:
        """Return rows of all lengths, two of them with a common beginning."""
        rows = [TokenSequence(self.ids[: length // 2], self.ids[length // 2 : length]) for length in self.lengths]
        fork = np.concatenate([self.ids[:SHARED], self.ids[::-1][:SHARED]])[: self.lengths[-1]]
        return [*rows, TokenSequence(fork[:-4], fork[-4:])]

    def _trains(self, rows: Sequence[TokenSequence], reading: Reading, *, plain_head: bool, shared: bool) -> bool:
        ones = np.ones(len(rows), np.float32)
        with torch.no_grad():
            values = logprobs_by_group(
                self.model, rows, ones, reading=self._small(reading), plain_head=plain_head, shared=shared
            )
        return all(
            _near(value[: len(row.completion_ids)], self._own(row)) for value, row in zip(values, rows, strict=True)
        )

    def _own(self, row: TokenSequence) -> torch.Tensor:
        """Return the log-probs of a row's completion in a plain call of the row alone."""
        first, last = len(row.prompt_ids) - 1, len(row.prompt_ids) + len(row.completion_ids) - 1
        target = torch.from_numpy(row.completion_ids.astype(np.int64)).to(self.model.device)
        whole = self._of(np.concatenate([row.prompt_ids, row.completion_ids]))
        return whole[first:last].gather(-1, target[:, None])[:, 0]

    def _samples(self, reading: Reading) -> bool:
        """Sample rows that end at many lengths and compare their log-probs with plain calls."""
        small = self._small(reading)
        lengths = [length for length in self.lengths if length + NEW <= self.lengths[-1]] or [2]
        prompts = [self.ids[:length] for length in lengths]
        forked = np.concatenate([self.ids[:SHARED], self.ids[-3:]])
        if len(forked) + NEW <= self.lengths[-1]:
            prompts += [forked]
        sampled = sample_completions(
            self.model,
            prompts,
            num_generations=2,
            sampling=Sampling(NEW),
            rng=np.random.default_rng(0),
            # many end tokens, so that rows end at many lengths and leave the batch
            limits=Limits(np.unique(self.ids)[::8].tolist()),
            max_batch_tokens=1 << 20,
            shared=reading.shares_prompts,
            reading=small,
        )
        for row, prompt in enumerate(np.repeat(np.arange(len(prompts)), 2)):
            length = int(sampled.lengths[row])
            sequence = TokenSequence(prompts[prompt], sampled.ids[row, :length])
            if small.lengths.key(len(prompts[prompt])) != small.lengths.key(len(prompts[prompt]) + length):
                continue  # the log-probs of these rows are computed again
            if not _near(torch.from_numpy(sampled.logprobs[row, :length]), self._own(sequence).cpu()):
                return False
        return True

    def _recomputes(self) -> bool:
        """Return whether gradients are the same when activations are recomputed in the backward pass."""
        ids = torch.from_numpy(self.ids[: self.lengths[-1]].astype(np.int64))[None].to(self.model.device)

        def gradients() -> list[torch.Tensor]:
            restore(self.model)
            self.model.zero_grad(set_to_none=True)
            logits = self.model(input_ids=ids, use_cache=False).logits
            cast(Any, logits.float().log_softmax(-1).square().mean()).backward()
            return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

        checkpointing = ActivationCheckpointing(self.model, 0.0)
        if not checkpointing.possible:
            return False

        def same() -> bool:
            kept = gradients()
            with checkpointing.recomputing():
                again = gradients()
            return len(kept) == len(again) and all(map(_same_gradient, kept, again))

        return self._holds(same)

    def _holds(self, test: Callable[[], bool]) -> bool:
        """Return the result of a test, False if the model cannot be called like this."""
        try:
            return test()
        except Exception:  # whatever the model's own code raises
            return False
        finally:
            self.model.zero_grad(set_to_none=True)
            restore(self.model)


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE if a.numel() else True)


def _same_gradient(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * a.abs().max().clamp_min(1e-6))
