"""Values and advantages of tokens for `advantage.text_gae` (imports torch: loaded when it runs)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import TextPolicy, TokenSequence
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import TOKEN_VALUED, Rollouts
from genrl_graph.edge_types.sequences import in_order
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.advantage.baseline import log_mean
from genrl_graph.nodes.advantage.returns import Floats, generalized_advantages

if TYPE_CHECKING:
    from genrl_graph.nodes.advantage.text_gae import TextGae

T = TypeVar("T", bound=Rollouts)
Lists = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of text as trajectories: `order` are the rows of each in the order of its turns, all of them usable.

    `rewards` are those of rows, `truncated` marks rows after which a value is bootstrapped, and `sampled` holds the
    positions of each row's sampled tokens.
    """

    order: list[NDArray[np.int64]]
    rewards: Floats
    truncated: NDArray[np.bool_]
    sampled: list[NDArray[np.int64]]

    @classmethod
    def of(cls, rows: Rollouts, policy: TextPolicy, *, bootstrap_length: bool) -> "TokenRows":
        """Collect the trajectories that are whole and whose rows the policy can read."""
        sampled = [np.flatnonzero(mask) for mask in rows.ragged("completion_mask")]
        rewards = rows.numpy("reward").astype(np.float64)
        usable = np.isfinite(rewards) & _readable(rows, policy) & np.asarray([len(p) > 0 for p in sampled], dtype=bool)
        if isinstance(rows, Turns):
            usable &= ~rows.incomplete() & (rows.numpy("ending") != "failed")
            turns, truncated = rows.numpy("turn"), rows.numpy("ending") == "truncated"
        else:
            usable &= rows.numpy("finish_reason") != "failed"
            turns = np.zeros(len(rows), np.int32)
            truncated = (rows.numpy("finish_reason") == "length") & bootstrap_length
        order = [part for part in in_order(rows.trajectory_codes(), turns) if usable[part].all()]
        return cls(order, rewards, truncated, sampled)


def with_token_values(node: "TextGae", rows: T, policy: TextPolicy, *, log: Log) -> T:
    """Return the rows with values, advantages and targets of their tokens; log how well the critic predicts."""
    steps = TokenRows.of(rows, policy, bootstrap_length=node.on_length == "bootstrap")
    used = np.concatenate([np.zeros(0, np.int64), *steps.order])
    known = _values(policy, rows, used, max_batch_tokens=node.max_batch_tokens)
    columns = _TokenColumns.blank(rows)
    for part, advantages in zip(steps.order, _advantages(node, steps, known), strict=True):
        ends = np.cumsum([len(steps.sampled[at]) if node.over == "token" else 1 for at in part.tolist()])
        for at, own in zip(part.tolist(), np.split(advantages, ends[:-1]), strict=True):
            columns.set(at, steps.sampled[at], known[at], own)
    return columns.added(rows, steps, log=log)


@dataclass(frozen=True, slots=True)
class _TokenColumns:
    """The columns that are added: one array a row, and the mean advantage of each row; NaN where there is none."""

    values: Lists
    advantages: Lists
    targets: Lists
    means: Floats

    @classmethod
    def blank(cls, rows: Rollouts) -> "_TokenColumns":
        lengths = [len(ids) for ids in rows.ragged("completion_ids")]
        values, advantages, targets = ([np.full(size, np.nan, np.float32) for size in lengths] for _ in range(3))
        return cls(values, advantages, targets, np.full(len(rows), np.nan))

    def set(self, row: int, sampled: NDArray[np.int64], values: NDArray[np.float32], advantages: Floats) -> None:
        """Set a row: advantages of all of its sampled tokens, or one of the whole turn, before its first token."""
        learns = sampled[: len(advantages)]
        self.values[row][:] = values[:-1]
        self.advantages[row][sampled] = advantages
        self.targets[row][learns] = advantages + values[learns]
        self.means[row] = float(self.advantages[row][sampled].mean(dtype=np.float64))

    def added(self, rows: T, steps: TokenRows, *, log: Log) -> T:
        """Return the rows with these columns, and log their metrics."""
        names = ("values", "token_advantages", "targets")
        lists = dict(zip(names, (self.values, self.advantages, self.targets), strict=True))
        log_mean(log, "reward", np.asarray([steps.rewards[part].sum() for part in steps.order]))
        log.metric("left_out", len(rows) - sum(map(len, steps.order)))
        targets = np.concatenate([np.zeros(0, np.float32), *self.targets]).astype(np.float64)
        values = np.concatenate([np.zeros(0, np.float32), *self.values])[np.isfinite(targets)]
        targets = targets[np.isfinite(targets)]
        if len(targets):
            log.metric("value", values.mean())
        if len(targets) and (variance := float(targets.var())) > 0:
            log.metric("explained_variance", 1.0 - float((targets - values).var()) / variance)
        return rows.marked(TOKEN_VALUED, {**lists, "advantage": self.means})


def _advantages(node: "TextGae", steps: TokenRows, values: dict[int, NDArray[np.float32]]) -> list[Floats]:
    """Return the advantages of the steps of each trajectory: of its sampled tokens, or of its turns."""
    by_token = node.over == "token"
    counts = [[len(steps.sampled[at]) if by_token else 1 for at in part.tolist()] for part in steps.order]
    lengths = np.asarray([sum(each) for each in counts], dtype=np.int64)
    shape = (len(lengths), int(lengths.max(initial=0)))
    rewards, before, bootstrap = np.zeros(shape), np.zeros(shape), np.zeros(len(lengths))
    for number, (part, sizes) in enumerate(zip(steps.order, counts, strict=True)):
        rewards[number, np.cumsum(sizes) - 1] = steps.rewards[part]
        places = [values[at][steps.sampled[at][:size]] for at, size in zip(part.tolist(), sizes, strict=True)]
        before[number, : lengths[number]] = np.concatenate(places)
        if steps.truncated[part[-1]]:
            bootstrap[number] = values[int(part[-1])][-1]
    padded = generalized_advantages(rewards, before, bootstrap, lengths, gamma=node.gamma, lam=node.lam)
    return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]


def _values(
    policy: TextPolicy, rows: Rollouts, used: NDArray[np.int64], *, max_batch_tokens: int
) -> dict[int, NDArray[np.float32]]:
    """Return the critic's values of some rows, before each token of the completion and after the last one."""
    sequences, values = TokenSequence.of(rows), dict[int, NDArray[np.float32]]()
    batches = policy.micro_batches([sequences[at] for at in used.tolist()], max_batch_tokens=max_batch_tokens)
    for batch in batches:
        chosen = used[batch].tolist()
        with torch.no_grad():
            padded = policy.values([sequences[at] for at in chosen]).float().cpu().numpy()
        for at, row in zip(chosen, padded, strict=True):
            values[at] = row[: len(sequences[at].completion_ids) + 1]
    return values


def _readable(rows: Rollouts, policy: TextPolicy) -> NDArray[np.bool_]:
    """Return a mask of the rows whose tokens are of this policy's tokenizer, in its vocabulary and context."""
    ids = [np.concatenate(pair) for pair in zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)]
    prompts = [len(prompt) for prompt in rows.ragged("prompt_ids")]
    names = rows.values("tokenizer_fingerprint")
    return np.asarray(
        [
            name == policy.tokenizer_fingerprint
            and prompt > 0
            and len(row) <= policy.context_length
            and int(row.min(initial=0)) >= 0
            and int(row.max(initial=0)) < policy.vocab_size
            for name, prompt, row in zip(names, prompts, ids, strict=True)
        ],
        dtype=bool,
    )
