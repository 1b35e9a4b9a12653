"""Batched sampling: each distinct prompt is read once, then all its completions grow token by token.

The uniform number behind every token is drawn beforehand for (prompt, sample, position), so a completion does
not depend on how the rows were batched, beyond the rounding of floats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from genrl_graph.contract.policy import Sampling
from genrl_graph.nodes.policy.compute.kv_cache import begin_rows, cache_argument, spread, spread_paths
from genrl_graph.nodes.policy.compute.packed_forward import read
from genrl_graph.nodes.policy.compute.packing import Packed
from genrl_graph.nodes.policy.compute.shared_prompts import SharedPrompts

_BLOCK = 1 << 23  # logits that are turned into probabilities at once
PACKED = 0.9  # share of the tokens of padded rows up to which packed ones are read instead
_NUCLEUS = 1024  # most probable tokens among which a nucleus is sought before all are sorted


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens of rows = prompts x generations, prompt by prompt: arrays [rows, max_new_tokens], valid up to `lengths`.

    `stopped` says which rows ended with an end token.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    stopped: NDArray[np.bool_]


def sample_completions(
    model: torch.nn.Module,
    prompts: Sequence[NDArray[np.int32]],
    *,
    num_generations: int,
    sampling: Sampling,
    rng: np.random.Generator,
    eos_ids: Sequence[int],
    max_batch_tokens: int,
    shared: bool = False,
) -> Sampled:
    """`num_generations` completions of every prompt from a Hugging Face causal language model.

    A row that alone exceeds `max_batch_tokens` makes a batch of its own. `shared` lets it read once what different
    prompts have in common from their beginning on; it needs a `prepare`d model. The caller has set evaluation mode and
    autocast.
    """
    rows, steps = len(prompts) * num_generations, sampling.max_new_tokens
    uniforms = rng.random((rows, steps), dtype=np.float32) if sampling.temperature > 0 else None
    ids, logprobs = np.zeros((rows, steps), np.int32), np.zeros((rows, steps), np.float32)
    lengths, stopped = np.full(rows, steps, np.int64), np.zeros(rows, np.bool_)
    of_prompt = np.repeat(np.arange(len(prompts)), num_generations)
    prompt_lengths = np.array([len(prompt) for prompt in prompts], np.int64)[of_prompt]
    with torch.no_grad():
        for chosen in token_batches(prompt_lengths + steps, max_batch_tokens):
            batch = _Batch(model, [prompts[at] for at in of_prompt[chosen]], sampling, eos_ids, shared=shared)
            batch.run(None if uniforms is None else uniforms[chosen])
            width = batch.ids.shape[1]
            ids[chosen, :width] = batch.ids.cpu().numpy()
            logprobs[chosen, :width] = batch.logprobs.cpu().numpy()
            lengths[chosen] = batch.lengths.cpu().numpy()
            stopped[chosen] = batch.done.cpu().numpy()
    return Sampled(ids, logprobs, lengths, stopped)


def token_batches(lengths: NDArray[np.int64], max_batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Positions of rows, in batches of at most `max_batch_tokens` = rows x longest; by length if there are several."""
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
    """One batch of rows on its way from prompts to completions."""

    def __init__(
        self,
        model: torch.nn.Module,
        prompts: Sequence[NDArray[np.int32]],
        sampling: Sampling,
        eos_ids: Sequence[int],
        *,
        shared: bool,
    ) -> None:
        self.model, self.sampling = model, sampling
        self.device = next(model.parameters()).device
        rows, steps = len(prompts), sampling.max_new_tokens
        self.eos = torch.tensor(list(eos_ids), device=self.device)
        self.ids = torch.zeros((rows, steps), dtype=torch.int32, device=self.device)
        self.logprobs = torch.zeros((rows, steps), device=self.device)
        self.lengths = torch.full((rows,), steps, device=self.device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self._prefill(prompts, shared=shared)

    def _prefill(self, prompts: Sequence[NDArray[np.int32]], *, shared: bool) -> None:
        """Read each distinct prompt once and give every row its copy of the cache, left-padded."""
        first: dict[bytes, NDArray[np.int32]] = {}
        keys = [prompt.tobytes() for prompt in prompts]
        for key, prompt in zip(keys, prompts, strict=True):
            first.setdefault(key, prompt)
        distinct, numbers = list(first.values()), {key: at for at, key in enumerate(first)}
        self.width = max(map(len, distinct))
        mask = np.zeros((len(distinct), self.width + self.sampling.max_new_tokens), np.int64)
        for row, prompt in enumerate(distinct):
            mask[row, self.width - len(prompt) :] = 1
        # without padding no mask: attention then takes its fastest path
        padded = any(len(prompt) < self.width for prompt in distinct)
        self.mask = torch.from_numpy(mask).to(self.device) if padded else None
        self.cache = DynamicCache(config=cast(Any, self.model).config)
        index = torch.tensor([numbers[key] for key in keys], device=self.device)
        packed = Packed.of(distinct) if shared and len(distinct) > 1 else None
        self.prompts: SharedPrompts | None = None
        # on a GPU the many small products that keep prompts apart would take longer than reading copies
        apart = shared and self.device.type == "cpu" and len(distinct) < len(prompts)
        if packed is not None and len(packed.ids) < PACKED * len(distinct) * self.width:
            logits = self._read_packed(packed, index, apart=apart)
        else:
            logits = self._read_rows(distinct, mask[:, : self.width], index, apart=apart)
        self.logits = logits[index]
        self.mask = None if self.mask is None else self.mask[index]
        self.next_position = torch.tensor([len(prompt) for prompt in prompts], device=self.device)

    def _read_rows(
        self, prompts: Sequence[NDArray[np.int32]], mask: NDArray[np.int64], index: torch.Tensor, *, apart: bool
    ) -> torch.Tensor:
        """The logits after each prompt [prompts, vocabulary]; the cache is that of the rows in `index`."""
        ids = np.zeros(mask.shape, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, self.width - len(prompt) :] = prompt
        positions = (np.cumsum(mask, axis=1) - 1).clip(min=0)
        logits = self._forward(torch.from_numpy(ids), torch.from_numpy(positions))
        if apart:
            lengths = map(len, prompts)
            places = [torch.arange(self.width - length, self.width, device=self.device) for length in lengths]
            self._keep_apart(list(enumerate(places)), index)
        else:
            spread(self.cache, index, self.sampling.max_new_tokens)
        return logits

    def _read_packed(self, packed: Packed, index: torch.Tensor, *, apart: bool) -> torch.Tensor:
        """The same of prompts that have much in common, or are of many lengths."""
        hidden = read(self.model, packed, cache=self.cache)
        last = torch.tensor([path[-1] for path in packed.paths], device=self.device)
        if apart:
            self._keep_apart([(0, torch.from_numpy(path).to(self.device)) for path in packed.paths], index)
        else:
            spread_paths(self.cache, packed.paths, index, self.sampling.max_new_tokens)
        return self._head(hidden[last])

    def _keep_apart(self, places: Sequence[tuple[int, torch.Tensor]], index: torch.Tensor) -> None:
        """Prompts stay what they are, and the cache holds what rows add to them."""
        self.prompts, self.mask = SharedPrompts.of(self.cache, places, index), None
        begin_rows(self.cache, len(index), self.sampling.max_new_tokens)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        head = cast(torch.nn.Module, cast(Any, self.model).get_output_embeddings())
        return cast(torch.Tensor, head(hidden))

    def _next(self, token: torch.Tensor) -> torch.Tensor:
        """The logits after one more token of each row."""
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
        seen = int(self.cache.get_seq_length()) + ids.shape[1]
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=None if self.mask is None else self.mask[:, :seen],
            position_ids=positions.to(self.device),
            use_cache=True,
            logits_to_keep=1,
            **cache_argument(self.model, self.cache),
        )
        return cast(torch.Tensor, output.logits[:, -1])

    def run(self, uniforms: NDArray[np.float32] | None) -> None:
        """Sample until every row has ended; rows that ended leave the batch where that pays."""
        drawn = None if uniforms is None else torch.from_numpy(uniforms).to(self.device)
        active = torch.arange(len(self.ids), device=self.device)
        for step in range(self.sampling.max_new_tokens):
            token, logprob = choose(self.logits, None if drawn is None else drawn[active, step], self.sampling)
            self.ids[active, step] = token.to(torch.int32)
            self.logprobs[active, step] = logprob
            ended = torch.isin(token, self.eos) & ~self.done[active]
            self.lengths[active[ended]] = step + 1
            self.done[active[ended]] = True
            running = ~self.done[active]
            left = int(running.sum())
            if left == 0 or step + 1 == self.sampling.max_new_tokens:
                break
            if left <= 0.8 * len(active):
                active, token = active[running], token[running]
                self._keep(running.nonzero()[:, 0])
            self.logits = self._next(token)
            self.next_position += 1

    def _keep(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.next_position = self.next_position[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        if self.prompts is not None:
            self.prompts.keep(rows)


def choose(
    logits: torch.Tensor, uniforms: torch.Tensor | None, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row and its log-prob at the sampling temperature, by inverting the distribution function.

    `logits` is [rows, vocabulary], `uniforms` [rows] in [0, 1), None for greedy choice.
    """
    block = max(1, _BLOCK // logits.shape[1])
    if len(logits) <= block:
        return _choose(logits, uniforms, sampling)
    parts = [
        _choose(logits[at : at + block], None if uniforms is None else uniforms[at : at + block], sampling)
        for at in range(0, len(logits), block)
    ]
    return torch.cat([token for token, _ in parts]), torch.cat([logprob for _, logprob in parts])


def _choose(
    logits: torch.Tensor, uniforms: torch.Tensor | None, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    scaled = logits.float()
    if uniforms is not None and sampling.temperature != 1.0:
        scaled = scaled / sampling.temperature
    normalizer = scaled.logsumexp(-1)
    if uniforms is None:
        token = scaled.argmax(-1)
    else:
        probs = (scaled - normalizer[:, None]).exp_()
        if sampling.top_p < 1.0:
            probs = _nucleus(probs, sampling.top_p)
        token = _invert(probs.cumsum(-1), uniforms)
    return token, scaled.gather(-1, token[:, None])[:, 0] - normalizer


def _invert(cumulative: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative mass exceeds the uniform share of the total; one without mass never is."""
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniforms * total, below)
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return found.clamp_(max=cumulative.shape[1] - 1)  # only where logits are NaN; the caller refuses these


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities of the smallest set of tokens that holds `top_p` of the mass (ties included), 0 elsewhere."""
    count = min(_NUCLEUS, probs.shape[1])
    ordered = probs.topk(count, dim=-1).values
    if count < probs.shape[1] and bool((ordered.sum(-1) < top_p).any()):
        ordered = probs.sort(dim=-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    smallest = ordered.masked_fill(before >= top_p, torch.inf).amin(-1, keepdim=True)
    return probs.masked_fill(probs < smallest, 0.0)
