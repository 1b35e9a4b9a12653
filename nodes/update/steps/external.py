"""Prepare rows that other peers sampled for training this peer's policy."""

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import ParamError

MAX_JOURNALED_IDS = 64
TEMPERATURES = (0.1, 10.0)  # beyond these a peer could give its row an arbitrarily large gradient


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one row, shapes (prompt,) and (completion,); the mask is 1 where a token was sampled."""

    prompt_ids: NDArray[np.int32]
    completion_ids: NDArray[np.int32]
    completion_mask: NDArray[np.int8]


class ExternalRows:
    """Retokenises and filters other peers' rows for one run of an update; rows of `peer` itself pass unchanged.

    Rows of another tokenizer are tokenised again: `messages` with the policy's chat template, `completion` with an end
    token if its finish reason is "stop". Retokenising happens nowhere else. Left out and counted are rows without a
    prompt (or with messages that the chat template refuses), without a sampled token, longer than the policy's context,
    with ids outside its vocabulary, with a temperature outside `TEMPERATURES`, or whose ids do not decode to the
    completion that was judged.
    """

    def __init__(self, policy: TextPolicy, *, peer: str) -> None:
        self._policy, self._peer = policy, peer
        self._retokenised: dict[str, bool] = {}  # by id of each usable row
        self._left_out: Counter[str] = Counter()

    def mask(self, rows: Rollouts) -> NDArray[np.bool_]:
        """Return, per row, True if another peer sampled it."""
        return np.asarray([author != self._peer for author in rows.values("peer")], dtype=bool)

    def fit(self, rows: Rollouts) -> Rollouts:
        """Return the usable rows in order, all with token ids of this policy's tokenizer; count the others."""
        external = np.flatnonzero(self.mask(rows)).tolist()
        if not external:
            return rows
        usable, new_tokens = np.ones(len(rows), dtype=bool), dict[int, Tokens]()
        for at, row in zip(external, rows.take(external).rows(*_COLUMNS), strict=True):
            tokens = self._tokens(row)
            reason = self._reason_unusable(tokens, row)
            if reason:
                self._left_out[reason] += 1
                usable[at] = False
                continue
            self._retokenised[row["id"]] = row["tokenizer_fingerprint"] != self._policy.tokenizer_fingerprint
            if self._retokenised[row["id"]]:
                new_tokens[at] = tokens
        return _with_tokens(rows, new_tokens, self._policy.tokenizer_fingerprint).where(usable)

    def report(self, log: Log, *, trained: Collection[str]) -> None:
        """Log counts as metrics; as facts the first retokenised ids and the number of rows left out by reason.

        `trained` holds the ids of all rows with a gradient.
        """
        trained = self._retokenised.keys() & set(trained)
        retokenised = [id for id, is_new in self._retokenised.items() if is_new and id in trained]
        log.metric("external", len(trained))
        log.metric("retokenised", len(retokenised))
        log.metric("external_left_out", self._left_out.total())
        if retokenised:
            log.fact("retokenised", retokenised[:MAX_JOURNALED_IDS])
        if self._left_out:
            log.fact("external_left_out", dict(sorted(self._left_out.items())))

    def _tokens(self, row: Mapping[str, Any]) -> Tokens:
        """Return the token ids of a row, retokenised if needed; an empty prompt if its messages cannot be rendered."""
        if row["tokenizer_fingerprint"] == self._policy.tokenizer_fingerprint:
            prompt, completion = (np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids"))
            return Tokens(prompt, completion, np.asarray(row["completion_mask"], np.int8))
        prompt = np.empty(0, np.int32)
        with suppress(ParamError):  # the chat template may refuse the roles that another peer wrote
            prompt = self._policy.render(row["messages"]) if row["messages"] else prompt
        completion = self._policy.encode(row["completion"], ended=row["finish_reason"] == "stop")
        return Tokens(prompt, completion, np.ones(len(completion), np.int8))

    def _reason_unusable(self, tokens: Tokens, row: Mapping[str, Any]) -> str:
        """Return the reason why a row cannot be trained on; empty if it can."""
        ids = np.concatenate([tokens.prompt_ids, tokens.completion_ids])
        low, high = TEMPERATURES
        if not len(tokens.prompt_ids):
            return "no_prompt"
        if not tokens.completion_mask.any():
            return "no_completion"
        if len(ids) > self._policy.context_length:
            return "too_long"
        if (
            ids.min() < 0
            or ids.max() >= self._policy.vocab_size
            or not self._policy.unknown_ids.isdisjoint(tokens.completion_ids.tolist())
        ):
            return "outside_vocabulary"
        if row["temperature"] and not low <= row["temperature"] <= high:  # 0 is greedy, and counts as 1
            return "temperature"
        return "" if self._policy.decode(tokens.completion_ids.tolist()) == row["completion"] else "other_text"


_COLUMNS = (
    "id",
    "tokenizer_fingerprint",
    "temperature",
    "messages",
    "prompt_ids",
    "completion_ids",
    "completion_mask",
    "completion",
    "finish_reason",
)


def _with_tokens(rows: Rollouts, new_tokens: Mapping[int, Tokens], tokenizer: str) -> Rollouts:
    """Replace the tokens of the rows at some positions; the sampler's log-probs and support do not apply to them."""
    if not new_tokens:
        return rows
    changed: dict[str, list[Any]] = {
        name: rows.ragged(name) for name in ("prompt_ids", "completion_ids", "completion_mask", "logprobs")
    }
    changed["tokenizer_fingerprint"] = rows.values("tokenizer_fingerprint")
    supports = [name for name in ("support_ids", "support_counts") if name in rows.table.column_names]
    changed |= {name: rows.ragged(name) for name in supports}
    for at, tokens in new_tokens.items():
        for name in supports:
            changed[name][at] = np.empty(0, np.int32)
        changed["prompt_ids"][at] = tokens.prompt_ids
        changed["completion_ids"][at] = tokens.completion_ids
        changed["completion_mask"][at] = tokens.completion_mask
        changed["logprobs"][at] = np.full(len(tokens.completion_ids), np.nan, np.float32)
        changed["tokenizer_fingerprint"][at] = tokenizer
    unchanged = {name: rows.table.column(name) for name in rows.table.column_names if name not in changed}
    return Rollouts.from_columns({**unchanged, **changed}, marks=rows.marks)
