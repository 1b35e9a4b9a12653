"""The edge types that ship with the language: tasks, rollouts, and the marks that rewards and advantages add."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import pyarrow as pa
from typing_extensions import TypeVar

from genrl_graph.arrow.cast import CHAT, FLOATS, IDS, TEXT, TEXTS
from genrl_graph.edge_types.display import Transcript
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollout_rules import rollout_flaws
from genrl_graph.edge_types.violation import ReceiverContext, Violation, differing
from genrl_graph.errors import ColumnError
from genrl_graph.messages import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Tasks(Frame):
    """What a round is about; `metadata` is JSON, `answer` is empty where there is none."""

    columns = {"id": TEXT, "messages": CHAT, "answer": TEXT, "metadata": TEXT}
    task_column = "id"
    __slots__ = ()

    def flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        """Another question or answer than the own source gives."""
        own = [known.tasks[id] for id in self.values("id")]
        for name in ("messages", "answer"):  # a row at a time: a chat is much larger in Python than on the wire
            given = (value.as_py() for value in self.table.column(name))
            yield Violation("task", name, differing(given, [getattr(task, name) for task in own]))


class Rollouts(Frame):
    """Completions with everything that training and lineage need.

    `completion_mask` is 1 where the policy sampled the token; `logprobs` are the sampler's, of the distribution
    at `temperature`, before any top-p cut; `finish` is stop, length or failed (then `error` says why).
    """

    columns = {
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
        "tokenizer": TEXT,
        "temperature": pa.float32(),
        "messages": CHAT,
        "prompt_ids": IDS,
        "completion_ids": IDS,
        "completion_mask": pa.list_(pa.int8()),
        "logprobs": FLOATS,
        "completion": TEXT,
        "finish": TEXT,
        "error": TEXT,
    }
    __slots__ = ()

    def flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        """Values that no generator gives, and ids that are not the hash of what they name."""
        return rollout_flaws(self, known)

    def transcripts(self) -> Iterator[Transcript]:
        """One for every completion: the chat as it was rendered, and what came back."""
        for at, row in enumerate(self.rows("messages", "completion", "completion_ids", "finish", "temperature")):
            said = tuple((f"[{message['role']}]", message["content"]) for message in row["messages"])
            facts = f"{len(row['completion_ids'])} tokens, {row['finish']}, temperature {row['temperature']:g}"
            yield Transcript(np.asarray([at]), facts, row["completion"], (*said, ("[completion]", row["completion"])))

    def of(self, task_id: str) -> Self:
        """The rollouts of one task."""
        return self.where([given == task_id for given in self.values("task_id")])

    def finished(self) -> Self:
        """The rollouts that did not fail."""
        return self.where([finish != "failed" for finish in self.values("finish")])


R = TypeVar("R", bound=Frame, default=Rollouts)
Scored = Annotated[R, SCORED]
Credited = Annotated[R, CREDITED]
Peer = Annotated[R, PEER]
PeerRollouts = Annotated[Rollouts, PEER]


def score(rows: R, terms: Mapping[str, "ArrayLike"], *, weights: Mapping[str, float] | None = None) -> Scored[R]:
    """Rows with one `reward_<term>` column a term and `reward`, their weighted total.

    Terms are arrays of shape (rows,); NaN means "could not be judged" and makes the total NaN. Rows that were
    scored before keep their terms, and the new total is added to the old one: rewards in a chain add up.
    """
    weights = weights or {}
    for name in weights:
        if name not in terms:
            raise ColumnError(
                f"no term {name!r} to weigh{did_you_mean(name, terms)}; terms: {', '.join(terms) or 'none'}"
            )
    values = {f"reward_{name}": _one_a_row(rows, name, term) for name, term in terms.items()}
    taken = sorted(set(values) & set(rows.table.column_names))
    if taken:
        raise ColumnError(f"{type(rows).__name__}: {taken[0]} is scored twice; rename one of the terms")
    total = np.zeros(len(rows)) if SCORED not in rows.marks else rows.numpy("reward").copy()
    for name in terms:
        total += weights.get(name, 1.0) * values[f"reward_{name}"]
    return rows.marked(SCORED, {"reward": total, **values})


def credit(rows: R, advantage: "ArrayLike") -> Credited[R]:
    """Rows with an `advantage` column; NaN leaves a row out of training."""
    return rows.marked(CREDITED, {"advantage": _one_a_row(rows, "advantage", advantage)})


def _one_a_row(rows: Frame, name: str, values: "ArrayLike") -> "NDArray[np.float64]":
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(rows),):
        raise ColumnError(
            f"{type(rows).__name__}: {name} of shape {numbers.shape} for {len(rows)} rows; give one a row"
        )
    return numbers
