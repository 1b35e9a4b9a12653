"""Which upstream rollouts a prompt quotes, and what gives way where a prompt does not fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.generate.prompting.prompts import Quoted

TooLong = Literal["refuse", "drop_quoted", "cut_left"]
Quotes = dict[str, list[Quoted]]
Chat = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat, its ids, what it quotes, and why it cannot be completed ("" if it can)."""

    messages: Chat
    ids: NDArray[np.int32]
    quoted: Quotes = field(default_factory=dict)
    error: str = ""
    cut: int = 0  # tokens that `cut_left` dropped

    @property
    def parent_ids(self) -> list[str]:
        """The ids of the quoted rollouts: input by input, each in the order of its numbers."""
        return [row.id for rows in self.quoted.values() for row in rows]


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tokens a prompt may have, and by what arithmetic."""

    tokens: int
    reason: str


class Quotable:
    """The finished rows of the upstream rollouts, by task."""

    def __init__(self, upstream: Mapping[str, Rollouts]) -> None:
        self._rows = {name: _by_task(rollouts) for name, rollouts in upstream.items()}

    def of(self, task_id: str, *, per_peer: int | None, rng: np.random.Generator) -> Quotes:
        """Numbered quotes of one task; of each peer at most `per_peer` rows, drawn, in the order they had."""
        quotes: Quotes = {}
        for name, tasks in self._rows.items():
            rows = tasks.get(task_id, [])
            if per_peer is not None:
                rows = _drawn(rows, per_peer, rng)
            quotes[name] = [
                Quoted(number, completion, peer, id) for number, (id, peer, completion) in enumerate(rows, start=1)
            ]
        return quotes


_Row = tuple[str, str, str]


def _by_task(rollouts: Rollouts) -> dict[str, list[_Row]]:
    tasks: dict[str, list[_Row]] = {}
    columns = [rollouts.values(name) for name in ("task_id", "finish", "id", "peer", "completion")]
    for task_id, finish, id, peer, completion in zip(*columns, strict=True):
        if finish != "failed":
            tasks.setdefault(task_id, []).append((id, peer, completion))
    return tasks


def _drawn(rows: list[_Row], per_peer: int, rng: np.random.Generator) -> list[_Row]:
    of_peer: dict[str, list[int]] = {}
    for at, (_, peer, _) in enumerate(rows):
        of_peer.setdefault(peer, []).append(at)
    kept: set[int] = set()
    for places in of_peer.values():
        if len(places) > per_peer:
            places = [places[at] for at in rng.permutation(len(places))[:per_peer]]
        kept.update(places)
    return [row for at, row in enumerate(rows) if at in kept]


def branches(quotes: Quotes, each: str) -> list[Quotes]:
    """The quotes of each prompt of a task: one prompt for every row of the input `each`, or one in all without it."""
    if not quotes.get(each):
        return [quotes]
    return [{**quotes, each: [row]} for row in quotes[each]]


def fit(
    policy: TextPolicy,
    chat: Callable[[Quotes], Chat],
    quotes: Quotes,
    *,
    limit: Limit,
    too_long: TooLong,
    each: str = "",
) -> Prompt:
    """The prompt within the limit, by the rule; what cannot be made to fit carries an error.

    `drop_quoted` leaves out the last row of the input that quotes most, until it fits: kept rows keep their numbers,
    and the row of the input `each`, which the prompt is about, stays. `cut_left` drops the first tokens.
    """
    while True:
        messages = chat(quotes)
        ids = policy.render(messages)
        droppable = [name for name, rows in quotes.items() if rows and name != each]
        if len(ids) <= limit.tokens or too_long != "drop_quoted" or not droppable:
            break
        longest = max(droppable, key=lambda name: len(quotes[name]))
        quotes = {**quotes, longest: quotes[longest][:-1]}
    cut = max(len(ids) - limit.tokens, 0) if too_long == "cut_left" else 0
    ids = ids[cut:]
    error = "the prompt has no tokens" if len(ids) == 0 else ""
    if len(ids) > limit.tokens:
        error = f"the prompt has {len(ids)} tokens, but at most {limit.tokens} fit: {limit.reason}"
    return Prompt(messages, ids, quotes, error, cut)
