"""Choose the upstream rollouts that a prompt quotes, and shorten prompts that do not fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy, VisionPolicy
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.generate.prompting.prompts import Quoted

TooLong = Annotated[
    Literal["refuse", "drop_quoted", "cut_left"],
    Field(
        description="a prompt that does not fit: fail its rows (refuse), leave out the last quoted rows, "
        "or drop its first tokens"
    ),
]
Quotes = dict[str, list[Quoted]]
Chat = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat, its token ids, the rows it quotes by input, and why it cannot be completed ("" if it can)."""

    messages: Chat
    ids: NDArray[np.int32]
    quoted: Quotes = field(default_factory=dict)
    error: str = ""
    tokens_cut: int = 0  # tokens that `cut_left` dropped
    image: bytes = b""  # the image that it shows, encoded

    @property
    def parent_ids(self) -> list[str]:
        """Ids of the quoted rollouts, input by input, each in the order of its numbers."""
        return [row.id for rows in self.quoted.values() for row in rows]


@dataclass(frozen=True, slots=True)
class PromptLimit:
    """The most tokens a prompt may have, and the params from which this follows, for error messages."""

    tokens: int
    reason: str


class Quotable:
    """The rows of upstream rollouts that did not fail, by input and task; with their prompts, if asked for."""

    def __init__(self, upstream: Mapping[str, Rollouts], *, with_prompts: bool = False) -> None:
        self._rows = {name: _by_task(rollouts, with_prompts) for name, rollouts in upstream.items()}

    def of(self, task_id: str, *, per_peer: int | None, rng: np.random.Generator) -> Quotes:
        """Return the numbered quotes of one task; if `per_peer` is set, draw at most so many rows of each peer.

        Rows keep their order.
        """
        quotes: Quotes = {}
        for name, tasks in self._rows.items():
            rows = tasks.get(task_id, [])
            if per_peer is not None:
                rows = _draw_per_peer(rows, per_peer, rng)
            quotes[name] = [
                Quoted(number, completion, peer, id, prompt)
                for number, (id, peer, completion, prompt) in enumerate(rows, start=1)
            ]
        return quotes


_Row = tuple[str, str, str, str]  # id, peer, completion, prompt


def _by_task(rollouts: Rollouts, with_prompts: bool) -> dict[str, list[_Row]]:
    tasks: dict[str, list[_Row]] = {}
    columns = [rollouts.values(name) for name in ("task_id", "finish_reason", "id", "peer", "completion")]
    prompts = map(_last_message, rollouts.values("messages")) if with_prompts else [""] * len(rollouts)
    for task_id, finish, id, peer, completion, prompt in zip(*columns, prompts, strict=True):
        if finish != "failed":
            tasks.setdefault(task_id, []).append((id, peer, completion, prompt))
    return tasks


def _last_message(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"] if messages else ""


def _draw_per_peer(rows: list[_Row], per_peer: int, rng: np.random.Generator) -> list[_Row]:
    by_peer: dict[str, list[int]] = {}
    for index, (_, peer, *_) in enumerate(rows):
        by_peer.setdefault(peer, []).append(index)
    chosen: set[int] = set()
    for indices in by_peer.values():
        if len(indices) > per_peer:
            indices = [indices[at] for at in rng.permutation(len(indices))[:per_peer]]
        chosen.update(indices)
    return [row for index, row in enumerate(rows) if index in chosen]


def branches(quotes: Quotes, each: str, *, skip: bool = False) -> list[Quotes]:
    """Return the quotes of each prompt of a task: one prompt per row of the input `each`, a single one without it.

    A task without such a row has one prompt, which fails, or with `skip` none.
    """
    if not quotes.get(each):
        return [] if skip else [quotes]
    return [{**quotes, each: [row]} for row in quotes[each]]


def fit(
    policy: TextPolicy,
    chat: Callable[[Quotes], Chat],
    quotes: Quotes,
    *,
    limit: PromptLimit,
    too_long: TooLong,
    each: str = "",
    image: bytes = b"",
) -> Prompt:
    """Render a prompt and shorten it to the limit by the rule `too_long`; a prompt that still exceeds it has an error.

    `drop_quoted` drops the last row of the input with most rows until the prompt fits. Remaining rows keep their
    numbers, and the input `each` keeps its row. `cut_left` drops the first tokens. `chat` builds the messages from
    quotes. An `image` is shown by a policy that sees.
    """
    while True:
        messages = chat(quotes)
        ids = _rendered(policy, messages, image)
        droppable = [name for name, rows in quotes.items() if rows and name != each]
        if len(ids) <= limit.tokens or too_long != "drop_quoted" or not droppable:
            break
        longest = max(droppable, key=lambda name: len(quotes[name]))
        quotes = {**quotes, longest: quotes[longest][:-1]}
    tokens_cut = max(len(ids) - limit.tokens, 0) if too_long == "cut_left" else 0
    ids = ids[tokens_cut:]
    error = "the prompt has no tokens" if len(ids) == 0 else ""
    if len(ids) > limit.tokens:
        error = f"the prompt has {len(ids)} tokens, but at most {limit.tokens} fit: {limit.reason}"
    return Prompt(messages, ids, quotes, error, tokens_cut, image)


def _rendered(policy: TextPolicy, messages: Chat, image: bytes) -> NDArray[np.int32]:
    if not image:
        return policy.render(messages)
    assert isinstance(policy, VisionPolicy)
    return policy.render_with_image(messages, image)
