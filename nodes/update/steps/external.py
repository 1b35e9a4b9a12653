"""Rows that other peers sampled, made fit to train the own policy."""

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

MOST_NAMED = 64  # ids in the journal
TEMPERATURES = (0.1, 10.0)  # log-probs at one outside would give a row any gradient that its author likes


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one row is trained on: ids of shape (prompt,) and (completion,), and 1 where a token was sampled."""

    prompt_ids: NDArray[np.int32]
    completion_ids: NDArray[np.int32]
    completion_mask: NDArray[np.int8]


class ExternalRows:
    """What one run of an update does with rows of other peers; those of `peer` stay as they are.

    Rows of another tokenizer are tokenised again, from `messages` with the policy's chat template and from
    `completion`, with the end token where it stopped. This is the only place where that is done. Left out and counted
    are rows that the policy cannot be trained on: without a prompt (or with messages that the chat template refuses)
    or a sampled token, longer than its context, with ids outside its vocabulary, of a temperature beyond
    `TEMPERATURES`, and those whose ids spell another text than the one that was judged.
    """

    def __init__(self, policy: TextPolicy, *, peer: str) -> None:
        self._policy, self._peer = policy, peer
        self._fitted: dict[str, bool] = {}  # id -> whether its text was tokenised again
        self._left_out: Counter[str] = Counter()

    def among(self, rows: Rollouts) -> NDArray[np.bool_]:
        """Which rows another peer sampled."""
        return np.asarray([author != self._peer for author in rows.values("peer")], dtype=bool)

    def fit(self, rows: Rollouts) -> Rollouts:
        """The rows in their order, without those that cannot be trained on; all that stay have ids of this policy."""
        external = np.flatnonzero(self.among(rows)).tolist()
        if not external:
            return rows
        kept, again = np.ones(len(rows), dtype=bool), dict[int, Tokens]()
        for at, row in zip(external, rows.take(external).rows(*_READ), strict=True):
            tokens = self._tokens(row)
            flaw = self._flaw(tokens, row)
            if flaw:
                self._left_out[flaw] += 1
                kept[at] = False
                continue
            self._fitted[row["id"]] = row["tokenizer"] != self._policy.tokenizer
            if self._fitted[row["id"]]:
                again[at] = tokens
        return _with_tokens(rows, again, self._policy.tokenizer).where(kept)

    def report(self, log: Log, *, trained: Collection[str]) -> None:
        """Log what was done: metrics, and as facts the reasons and the first ids that were tokenised again.

        `trained` are the ids of all rows with a gradient.
        """
        trained = self._fitted.keys() & set(trained)
        retokenised = [id for id, again in self._fitted.items() if again and id in trained]
        log.metric("external", len(trained))
        log.metric("retokenised", len(retokenised))
        log.metric("external_left_out", self._left_out.total())
        if retokenised:
            log.fact("retokenised", retokenised[:MOST_NAMED])
        if self._left_out:
            log.fact("external_left_out", dict(sorted(self._left_out.items())))

    def _tokens(self, row: Mapping[str, Any]) -> Tokens:
        """The ids of a row, made anew where another tokenizer made them; no prompt where the chat is none."""
        if row["tokenizer"] == self._policy.tokenizer:
            prompt, completion = (np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids"))
            return Tokens(prompt, completion, np.asarray(row["completion_mask"], np.int8))
        prompt = np.empty(0, np.int32)
        with suppress(ParamError):  # of a chat template, about roles that a stranger chose
            prompt = self._policy.render(row["messages"]) if row["messages"] else prompt
        completion = self._policy.encode(row["completion"], ended=row["finish"] == "stop")
        return Tokens(prompt, completion, np.ones(len(completion), np.int8))

    def _flaw(self, tokens: Tokens, row: Mapping[str, Any]) -> str:
        """Why a row cannot be trained on; empty if it can."""
        ids = np.concatenate([tokens.prompt_ids, tokens.completion_ids])
        low, high = TEMPERATURES
        if not len(tokens.prompt_ids):
            return "no_prompt"
        if not tokens.completion_mask.any():
            return "no_completion"
        if len(ids) > self._policy.context:
            return "too_long"
        if ids.min() < 0 or ids.max() >= self._policy.vocabulary:
            return "outside_vocabulary"
        if row["temperature"] and not low <= row["temperature"] <= high:  # 0 is greedy, and counts as 1
            return "temperature"
        return "" if self._policy.decode(tokens.completion_ids.tolist()) == row["completion"] else "other_text"


_READ = (
    "id",
    "tokenizer",
    "temperature",
    "messages",
    "prompt_ids",
    "completion_ids",
    "completion_mask",
    "completion",
    "finish",
)


def _with_tokens(rows: Rollouts, again: Mapping[int, Tokens], tokenizer: str) -> Rollouts:
    """Rows with other tokens at some positions; nobody knows the log-probs that those were sampled with."""
    if not again:
        return rows
    changed: dict[str, list[Any]] = {
        name: rows.ragged(name) for name in ("prompt_ids", "completion_ids", "completion_mask", "logprobs")
    }
    changed["tokenizer"] = rows.values("tokenizer")
    for at, tokens in again.items():
        changed["prompt_ids"][at] = tokens.prompt_ids
        changed["completion_ids"][at] = tokens.completion_ids
        changed["completion_mask"][at] = tokens.completion_mask
        changed["logprobs"][at] = np.full(len(tokens.completion_ids), np.nan, np.float32)
        changed["tokenizer"][at] = tokenizer
    kept = {name: rows.table.column(name) for name in rows.table.column_names if name not in changed}
    return Rollouts.from_columns({**kept, **changed}, marks=rows.marks)
