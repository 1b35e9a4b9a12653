"""Batched sampling: read each distinct prompt once, then generate all completions token by token.

The uniform number of every (prompt, sample, position) is drawn in advance. Therefore completions do not depend on how
rows are batched, except through floating-point rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from genrl_graph.contract.policy import Randomness, Sampling, Support
from genrl_graph.nodes.policy.compute.call_state import restore
from genrl_graph.nodes.policy.compute.distribution import choose
from genrl_graph.nodes.policy.compute.kv_cache import (
    cache_argument,
    expand_paths,
    expand_rows,
    keep_rows,
    position_argument,
    reset_rows,
)
from genrl_graph.nodes.policy.compute.kv_session import KvSession, Past, can_keep, fill, past_of
from genrl_graph.nodes.policy.compute.packed_forward import packed_hidden_states
from genrl_graph.nodes.policy.compute.packing import Packed
from genrl_graph.nodes.policy.compute.reading import EXACT, Reading
from genrl_graph.nodes.policy.compute.rereading import Rereading
from genrl_graph.nodes.policy.compute.shared_prompts import SharedPrompts
from genrl_graph.nodes.policy.compute.stop_strings import Decode, StopStrings

PACKED = 0.9  # prompts are packed if that leaves less than this share of the tokens of padded rows


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled tokens [rows, max_new_tokens] of prompts x generations, prompt by prompt, valid up to `lengths`.

    `stopped` marks rows that ended with an end token or a stop string; `supports` is empty if nothing was truncated.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    stopped: NDArray[np.bool_]
    supports: list[Support]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of sampling: `unknown` ids never occur; completions end with one of `eos_ids` or with a stop string.

    `decode` gives the text in which stop strings are looked for; `silent` ids are not in it.
    """

    eos_ids: Sequence[int]
    unknown: torch.Tensor | None = None
    decode: Decode | None = None
    silent: frozenset[int] = frozenset()


def sample_completions(
    model: torch.nn.Module,
    prompts: Sequence[NDArray[np.int32]],
    *,
    num_generations: int,
    sampling: Sampling,
    rng: Randomness,
    limits: Limits,
    max_batch_tokens: int,
    shared: bool = False,
    reading: Reading = EXACT,
    session: KvSession | None = None,
) -> Sampled:
    """Sample `num_generations` completions of every prompt from a Hugging Face causal language model.

    A row that alone exceeds `max_batch_tokens` is a batch of its own. `shared` computes prefixes that prompts share
    only once; the model must be `prepare`d for it. `reading` says what may be in one call. Of prompts whose beginning
    is in the `session` only the rest is read. The caller sets evaluation mode and autocast.
    """
    rows, steps = len(prompts) * num_generations, sampling.max_new_tokens
    uniforms = drawn_uniforms(rng, rows, steps) if sampling.temperature > 0 else None
    ids, logprobs = np.zeros((rows, steps), np.int32), np.zeros((rows, steps), np.float32)
    lengths, stopped = np.full(rows, steps, np.int64), np.zeros(rows, np.bool_)
    supports: dict[int, Support] = {}
    prompt_of_row = np.repeat(np.arange(len(prompts)), num_generations)
    prompt_lengths = np.array([len(prompt) for prompt in prompts], np.int64)[prompt_of_row]
    pasts = session.pasts(prompts) if session is not None else [None] * len(prompts)
    begun = np.array([pasts[at] is not None for at in prompt_of_row], np.bool_)
    with torch.no_grad():
        for in_batch in _batches(prompt_lengths, begun, steps, max_batch_tokens, reading):
            own = [prompts[at] for at in prompt_of_row[in_batch]]
            past = [pasts[at] for at in prompt_of_row[in_batch]]
            batch = _Batch(model, own, sampling, limits, shared=shared, reading=reading, session=session, pasts=past)
            batch.run(None if uniforms is None else uniforms[in_batch])
            width = batch.ids.shape[1]
            ids[in_batch, :width] = batch.ids.cpu().numpy()
            logprobs[in_batch, :width] = batch.logprobs.cpu().numpy()
            lengths[in_batch] = batch.lengths.cpu().numpy()
            stopped[in_batch] = batch.done.cpu().numpy()
            supports |= dict(zip(in_batch.tolist(), batch.supports(), strict=False))
    return Sampled(ids, logprobs, lengths, stopped, [supports[row] for row in range(len(supports))])


def drawn_uniforms(rng: Randomness, rows: int, steps: int) -> NDArray[np.float32]:
    """Draw the numbers of all tokens, shape [rows, steps]; with a generator per prompt, its rows are its own."""
    if isinstance(rng, np.random.Generator):
        return rng.random((rows, steps), dtype=np.float32)
    drawn = [one.random((rows // len(rng), steps), dtype=np.float32) for one in rng]
    return np.concatenate(drawn) if drawn else np.empty((0, steps), np.float32)


def _batches(
    prompt_lengths: NDArray[np.int64],
    begun: NDArray[np.bool_],
    steps: int,
    max_batch_tokens: int,
    reading: Reading,
) -> Iterator[NDArray[np.int64]]:
    """Yield the token batches of each group of prompts that may be in one call; those with a past are apart."""
    for part in (np.flatnonzero(~begun), np.flatnonzero(begun)):
        for group in reading.prompt_groups(prompt_lengths[part], steps):
            for rows in token_batches(prompt_lengths[part][group] + steps, max_batch_tokens):
                yield part[group[rows]]


def token_batches(lengths: NDArray[np.int64], max_batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of row indices with rows x longest <= `max_batch_tokens`; several batches are sorted by length.

    A row longer than `max_batch_tokens` is a batch of its own.
    """
    if not len(lengths):
        return
    if len(lengths) * int(lengths.max()) <= max_batch_tokens:
        yield np.arange(len(lengths))
        return
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * int(lengths[order[end]]) > max_batch_tokens:
            yield order[start:end]
            start = end


class _Batch:
    """A batch of rows: reads the prompts on construction, `run` samples their completions."""

    def __init__(
        self,
        model: torch.nn.Module,
        prompts: Sequence[NDArray[np.int32]],
        sampling: Sampling,
        limits: Limits,
        *,
        shared: bool,
        reading: Reading,
        session: KvSession | None = None,
        pasts: Sequence[Past | None] = (),
    ) -> None:
        self.model, self.sampling, self.reading, self.limits = model, sampling, reading, limits
        self.device = next(model.parameters()).device
        rows, steps = len(prompts), sampling.max_new_tokens
        self.eos = torch.tensor(list(limits.eos_ids), device=self.device)
        self.ids = torch.zeros((rows, steps), dtype=torch.int32, device=self.device)
        self.logprobs = torch.zeros((rows, steps), device=self.device)
        self.lengths = torch.full((rows,), steps, device=self.device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.stops = self._stop_strings(rows)
        self.repeated: torch.Tensor | None = None  # the ids of each row so far, where they are penalized
        self._support: list[list[NDArray[np.int32]]] = [[] for _ in range(rows if sampling.truncates else 0)]
        self.session, self._asked, self._pasts = session, prompts, pasts
        if any(past is not None for past in pasts):
            self._read_rest(prompts, pasts)
        else:
            self._prefill(prompts, shared=shared)
        if sampling.repetition_penalty != 1.0:
            self.repeated = torch.zeros(self.logits.shape, dtype=torch.bool, device=self.device)
            for row, prompt in enumerate(prompts):
                self.repeated[row, torch.from_numpy(prompt.astype(np.int64)).to(self.device)] = True

    def _prefill(self, prompts: Sequence[NDArray[np.int32]], *, shared: bool) -> None:
        """Read each distinct prompt once; set logits, cache and mask, with one row per completion."""
        self.next_position = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.rereading = Rereading.needed(prompts, self.reading, self.sampling.max_new_tokens, self.device)
        self.prompts: SharedPrompts | None = None
        self.mask: torch.Tensor | None = None
        if self.rereading is not None:
            self.logits = self._read_again(self.rereading.ids)
            return
        first: dict[bytes, NDArray[np.int32]] = {}
        keys = [prompt.tobytes() for prompt in prompts]
        for key, prompt in zip(keys, prompts, strict=True):
            first.setdefault(key, prompt)
        distinct, numbers = list(first.values()), {key: number for number, key in enumerate(first)}
        self.width = max(map(len, distinct))
        mask = np.zeros((len(distinct), self.width + self.sampling.max_new_tokens), np.int64)
        for row, prompt in enumerate(distinct):
            mask[row, self.width - len(prompt) :] = 1
        # without padding, no mask: attention is then fastest
        padded = any(len(prompt) < self.width for prompt in distinct)
        self.mask = torch.from_numpy(mask).to(self.device) if padded else None
        self._start()
        index = torch.tensor([numbers[key] for key in keys], device=self.device)
        packed = Packed.of(distinct) if shared and len(distinct) > 1 else None
        # on a GPU the many small products of `SharedPrompts` would take longer than attention to copies
        share_prompts = shared and self.device.type == "cpu" and len(distinct) < len(prompts) and self.session is None
        if packed is not None and len(packed.ids) < PACKED * len(distinct) * self.width:
            logits = self._read_packed(packed, index, share_prompts=share_prompts)
        else:
            logits = self._read_rows(distinct, mask[:, : self.width], index, share_prompts=share_prompts)
        self.logits = logits[index]
        self.mask = None if self.mask is None else self.mask[index]

    def _read_rest(self, prompts: Sequence[NDArray[np.int32]], pasts: Sequence[Past | None]) -> None:
        """Read what is new in each prompt behind its past; set logits, cache and mask."""
        known = [0 if past is None else past.length for past in pasts]
        before, new = max(known), max(len(prompt) - length for prompt, length in zip(prompts, known, strict=True))
        self.width = before + new
        self.next_position = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.rereading, self.prompts = None, None
        ids, positions = np.zeros((2, len(prompts), new), np.int64)
        mask = np.zeros((len(prompts), self.width + self.sampling.max_new_tokens), np.int64)
        for row, (prompt, length) in enumerate(zip(prompts, known, strict=True)):
            start = new - (len(prompt) - length)
            mask[row, before - length : before], mask[row, before + start :] = 1, 1
            ids[row, start:], positions[row, start:] = prompt[length:], np.arange(length, len(prompt))
        self.mask = torch.from_numpy(mask).to(self.device) if not mask.all() else None
        self._start()
        fill(self.cache, pasts, before)
        self.seen = before
        expand_rows(self.cache, torch.arange(len(prompts), device=self.device), new + self.sampling.max_new_tokens)
        self.logits = self._forward(torch.from_numpy(ids), torch.from_numpy(positions))

    def _remember(self, rows: torch.Tensor, active: torch.Tensor, step: int) -> None:
        """Keep the past of these rows of the cache, which hold the prompt and `step` tokens, in the session."""
        if self.session is None or self.rereading is not None or not can_keep(self.cache):
            return
        for row in rows.tolist():
            at = int(active[row])
            mask = self.mask
            places = torch.arange(self.seen, device=self.device)
            places = places if mask is None else places[mask[row, : self.seen].bool()]
            ids = np.concatenate([self._asked[at], self.ids[at, :step].cpu().numpy()])
            past = self._pasts[at]
            length = past.length if past is not None else 0
            self.session.keep(ids, past_of(self.cache, row, places), grown_from=length)

    def _start(self) -> None:
        """Forget what was read: the model's next call begins its rows."""
        restore(self.model)
        # without a cache it stays empty, and some models have none of this kind
        config = cast(Any, self.model).config if self.reading.caches else None
        self.cache, self.seen = DynamicCache(config=config), 0

    def _read_again(self, ids: torch.Tensor) -> torch.Tensor:
        """Read rows of equal length from their start; return the next-token logits."""
        self._start()
        if self.reading.caches:
            return self._forward(ids, torch.arange(ids.shape[1], device=self.device).expand(ids.shape))
        output = self.model(input_ids=ids, use_cache=False, logits_to_keep=1)
        return cast(torch.Tensor, output.logits[:, -1])

    def _read_rows(
        self, prompts: Sequence[NDArray[np.int32]], mask: NDArray[np.int64], index: torch.Tensor, *, share_prompts: bool
    ) -> torch.Tensor:
        """Read left-padded prompts; return the next-token logits [prompts, vocabulary].

        Expands the cache to one row per completion; `index` is the prompt of each row.
        """
        ids = np.zeros(mask.shape, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, self.width - len(prompt) :] = prompt
        positions = (np.cumsum(mask, axis=1) - 1).clip(min=0)
        logits = self._forward(torch.from_numpy(ids), torch.from_numpy(positions))
        if share_prompts:
            lengths = map(len, prompts)
            places = [torch.arange(self.width - length, self.width, device=self.device) for length in lengths]
            self._share_prompts(list(enumerate(places)), index)
        else:
            expand_rows(self.cache, index, self.sampling.max_new_tokens)
        return logits

    def _read_packed(self, packed: Packed, index: torch.Tensor, *, share_prompts: bool) -> torch.Tensor:
        """Do the same as `_read_rows` for packed prompts, which share prefixes or differ much in length."""
        hidden = packed_hidden_states(self.model, packed, cache=self.cache)
        last = torch.tensor([path[-1] for path in packed.paths], device=self.device)
        if share_prompts:
            self._share_prompts([(0, torch.from_numpy(path).to(self.device)) for path in packed.paths], index)
        else:
            expand_paths(self.cache, packed.paths, index, self.sampling.max_new_tokens)
            self.seen = self.width
        return self._head(hidden[last])

    def _share_prompts(self, places: Sequence[tuple[int, torch.Tensor]], index: torch.Tensor) -> None:
        """Move the prompts from the cache into `SharedPrompts`; the cache then holds only the completions."""
        self.prompts, self.mask = SharedPrompts.of(self.cache, places, index), None
        reset_rows(self.cache, len(index), self.sampling.max_new_tokens)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        head = cast(torch.nn.Module, cast(Any, self.model).get_output_embeddings())
        return cast(torch.Tensor, head(hidden))

    def _next(self, token: torch.Tensor) -> torch.Tensor:
        """Feed one token per row; return the next-token logits."""
        if self.rereading is not None and self.rereading.add(token):
            return self._read_again(self.rereading.ids)
        ids, positions = token[:, None], self.next_position[:, None]
        if self.prompts is None:
            return self._forward(ids, positions)
        base = cast(Any, self.model).base_model
        output = base(
            input_ids=ids,
            position_ids=positions,
            use_cache=True,
            prompts=self.prompts,
            **cache_argument(base, self.cache),
        )
        return self._head(output.last_hidden_state[:, -1])

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.seen += ids.shape[1]
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=None if self.mask is None else self.mask[:, : self.seen],
            use_cache=True,
            logits_to_keep=1,
            **position_argument(self.model, positions.to(self.device)),
            **cache_argument(self.model, self.cache),
        )
        return cast(torch.Tensor, output.logits[:, -1])

    def run(self, uniforms: NDArray[np.float32] | None) -> None:
        """Sample until every row has ended; drop ended rows from the batch once they are a fifth of it."""
        draws = None if uniforms is None else torch.from_numpy(uniforms).to(self.device)
        active = torch.arange(len(self.ids), device=self.device)
        for step in range(self.sampling.max_new_tokens):
            uniform = None if draws is None else draws[active, step]
            token = self._sample(active, uniform, step)
            ended = (torch.isin(token, self.eos) | self._stopped(active, token)) & ~self.done[active]
            self.lengths[active[ended]] = step + 1
            self.done[active[ended]] = True
            running = ~self.done[active]
            remaining = int(running.sum())
            last = step + 1 == self.sampling.max_new_tokens
            self._remember((ended | running if last else ended).nonzero()[:, 0], active, step)
            if remaining == 0 or last:
                break
            if remaining <= 0.8 * len(active):
                active, token = active[running], token[running]
                self._keep(running.nonzero()[:, 0])
            self.logits = self._next(token)
            self.next_position += 1

    def _sample(self, active: torch.Tensor, uniform: torch.Tensor | None, step: int) -> torch.Tensor:
        """Choose and record the next token of the active rows."""
        seen = None if self.repeated is None else self.repeated[active]
        choice = choose(self.logits, uniform, self.sampling, unknown=self.limits.unknown, seen=seen)
        self.ids[active, step] = choice.token.to(torch.int32)
        self.logprobs[active, step] = choice.logprob
        if self.repeated is not None:
            self.repeated[active, choice.token] = True
        if choice.counts is not None and choice.support is not None:
            counts = choice.counts.cpu().numpy()
            parts = np.split(choice.support.to(torch.int32).cpu().numpy(), np.cumsum(counts)[:-1])
            for row, part in zip(active.tolist(), parts, strict=True):
                self._support[row].append(part)
        return choice.token

    def _stop_strings(self, rows: int) -> StopStrings | None:
        if not self.sampling.stop or self.limits.decode is None:
            return None
        return StopStrings(self.sampling.stop, self.limits.decode, rows=rows, silent=self.limits.silent)

    def _stopped(self, active: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Return which of the active rows contain a stop string with their new token."""
        if self.stops is None:
            return torch.zeros_like(token, dtype=torch.bool)
        ends = [self.stops.ends(row, id) for row, id in zip(active.tolist(), token.tolist(), strict=True)]
        return torch.tensor(ends, device=self.device)

    def supports(self) -> list[Support]:
        """Return the support of each row, up to its end; none if nothing is truncated."""
        rows = [parts[:length] for parts, length in zip(self._support, self.lengths.tolist(), strict=False)]
        counts = [np.array([len(part) for part in parts], np.int32) for parts in rows]
        return [Support(np.concatenate(parts), count) for parts, count in zip(rows, counts, strict=True)]

    def _keep(self, rows: torch.Tensor) -> None:
        keep_rows(self.cache, rows)
        self.next_position = self.next_position[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        if self.prompts is not None:
            self.prompts.keep(rows)
        if self.rereading is not None:
            self.rereading.keep(rows)
