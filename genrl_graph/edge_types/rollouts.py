"""Edge types of language games: tasks, rollouts, and rows with rewards and advantages."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import pyarrow as pa
from typing_extensions import TypeVar

from genrl_graph.arrow.cast import BYTES, CHAT, FLOATS, IDS, TEXT, TEXTS
from genrl_graph.edge_types.display import Transcript
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED, Mark
from genrl_graph.edge_types.frame import Frame, LocalColumn
from genrl_graph.edge_types.rollout_rules import content_ids, group_ids, rollout_flaws
from genrl_graph.edge_types.violation import ReceiverContext, Violation, differing
from genrl_graph.errors import ColumnError
from genrl_graph.messages import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


NO_ENGINE = -1
"""The `weight_version` of rows that the policy itself sampled."""


class Tasks(Frame):
    """The tasks of a round; `metadata` is JSON, and `answer` is empty if a task has no reference answer."""

    columns = {"id": TEXT, "messages": CHAT, "answer": TEXT, "metadata": TEXT}
    task_column = "id"
    __slots__ = ()

    def violations(self, known: ReceiverContext) -> Iterator[Violation]:
        """Yield the rows whose messages or answer differ from the task that the receiver's own source makes."""
        own = [known.tasks[id] for id in self.values("id")]
        for name in ("messages", "answer"):  # read row by row: a chat is much larger in Python than in a packet
            values = (value.as_py() for value in self.table.column(name))
            yield Violation("task", name, differing(values, [getattr(task, name) for task in own]))


SAMPLED = {
    "id": TEXT,
    "task_id": TEXT,
    "group_id": TEXT,
    "parent_ids": TEXTS,
    "peer": TEXT,
    "node": TEXT,
    "stage": pa.int32(),
    "round": pa.int32(),
    "sample": pa.int32(),
    "policy": TEXT,
    "policy_version": pa.int64(),
}
"""The columns that rows of samples begin with: which sample of which task, made where, when and by which weights."""


class Rollouts(Frame):
    """Completions of a policy, with the tokens, log-probs and ids that training and lineage need.

    `completion_mask` is 1 for tokens that the policy sampled. `logprobs` are the sampler's, from the distribution that
    was sampled. `finish_reason` is stop, length or failed; `error` is the reason of a failure.

    Generators that truncate the distribution (top-k, top-p, min-p) add `support_ids` and `support_counts`: how many of
    the ids could be sampled at each token, 0 where `logprobs` is of the whole distribution. Those with a penalty add
    `repetition_penalty`. Updates compute log-probs in the same way. Where an engine samples, `weight_version` is the
    version of the policy whose weights it had. Where prompts show an image, `image` is its PNG. Other peers do not get
    these columns.
    """

    columns = {
        **SAMPLED,
        "tokenizer_fingerprint": TEXT,
        "temperature": pa.float32(),
        "messages": CHAT,
        "prompt_ids": IDS,
        "completion_ids": IDS,
        "completion_mask": pa.list_(pa.int8()),
        "logprobs": FLOATS,
        "completion": TEXT,
        "finish_reason": TEXT,
        "error": TEXT,
    }
    local_columns = {
        "support_ids": LocalColumn(IDS, []),
        "support_counts": LocalColumn(IDS, []),
        "repetition_penalty": LocalColumn(pa.float32(), 1.0),
        "weight_version": LocalColumn(pa.int64(), NO_ENGINE),
        "image": LocalColumn(BYTES, []),
    }
    __slots__ = ()

    def violations(self, known: ReceiverContext) -> Iterator[Violation]:
        """Yield values that no generator produces, and ids that are not the hash of the content."""
        yield from rollout_flaws(self, known)
        yield Violation("hash", "id", differing(self.values("id"), self.content_ids(protocol=known.protocol)))
        groups = group_ids(self, protocol=known.protocol)
        yield Violation("hash", "group_id", differing(self.values("group_id"), groups))

    def content_ids(self, *, protocol: str) -> list[str]:
        """Return the id that each row must have in a graph with this protocol fingerprint."""
        return content_ids(self, protocol=protocol)

    def transcripts(self) -> Iterator[Transcript]:
        """Render each row: the messages of its prompt, then the completion."""
        for position, row in enumerate(
            self.rows("messages", "completion", "completion_ids", "finish_reason", "temperature")
        ):
            chat = tuple((f"[{message['role']}]", message["content"]) for message in row["messages"])
            facts = f"{len(row['completion_ids'])} tokens, {row['finish_reason']}, temperature {row['temperature']:g}"
            parts = (*chat, ("[completion]", row["completion"]))
            yield Transcript(np.asarray([position]), facts, row["completion"], parts)

    def of(self, task_id: str) -> Self:
        """Return the rollouts of one task."""
        return self.where([value == task_id for value in self.values("task_id")])

    def finished(self) -> Self:
        """Return the rollouts that did not fail."""
        return self.where([finish != "failed" for finish in self.values("finish_reason")])


TOKEN_VALUED = Mark(
    "TokenValued", {"values": FLOATS, "token_advantages": FLOATS, "targets": FLOATS}, implies=(CREDITED,)
)
"""Values of a critic, advantages and value targets of each completion token, as `advantage.text_gae` adds them.

Values are those before the token. A target is NaN where the critic has none to learn from.
"""

R = TypeVar("R", bound=Frame, default=Rollouts)
Scored = Annotated[R, SCORED]
Credited = Annotated[R, CREDITED]
TokenValued = Annotated[R, TOKEN_VALUED]
Peer = Annotated[R, PEER]
PeerRollouts = Annotated[Rollouts, PEER]


def score(rows: R, terms: Mapping[str, "ArrayLike"], *, weights: Mapping[str, float] | None = None) -> Scored[R]:
    """Add a `reward_<term>` column per term, and `reward`, their weighted sum (weights default to 1).

    Terms are arrays of shape (rows,); NaN means "could not be judged" and makes the sum NaN. Rows that have rewards
    already keep their terms, and the new sum is added to their `reward`: rewards in a chain add up. Raises
    `ColumnError` for a term that exists already, a weight without a term, or values of another shape.
    """
    weights = weights or {}
    for name in weights:
        if name not in terms:
            raise ColumnError(
                f"no term {name!r} to weigh{did_you_mean(name, terms)}; terms: {', '.join(terms) or 'none'}"
            )
    values = {f"reward_{name}": _per_row(rows, name, term) for name, term in terms.items()}
    duplicates = sorted(set(values) & set(rows.table.column_names))
    if duplicates:
        raise ColumnError(f"{type(rows).__name__}: {duplicates[0]} is scored twice; rename one of the terms")
    total = np.zeros(len(rows)) if SCORED not in rows.marks else rows.numpy("reward").copy()
    for name in terms:
        total += weights.get(name, 1.0) * values[f"reward_{name}"]
    return rows.marked(SCORED, {"reward": total, **values})


def credit(rows: R, advantage: "ArrayLike") -> Credited[R]:
    """Add an `advantage` column, shape (rows,); rows with NaN are left out of training."""
    return rows.marked(CREDITED, {"advantage": _per_row(rows, "advantage", advantage)})


def _per_row(rows: Frame, name: str, values: "ArrayLike") -> "NDArray[np.float64]":
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(rows),):
        raise ColumnError(
            f"{type(rows).__name__}: {name} of shape {numbers.shape} for {len(rows)} rows; give one a row"
        )
    return numbers
