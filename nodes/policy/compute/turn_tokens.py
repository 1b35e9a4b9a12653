"""Continue a chat token by token: earlier tokens stay as they were sampled, and the chat template adds the rest.

Text that is decoded and encoded again may have other ids, which the policy did not sample. So a chat of many turns is
never tokenised as a whole: the next prompt is the last one, the completion as sampled, and the ids of what the chat
template puts between a completion and the next one.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import BrokenChat
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens

Chat = Sequence[Mapping[str, str]]

SENTINEL = "\ue0a1\ue0b2\ue0c3"
"""Private-use characters that stand for every completion in a chat, so that its template shows where one ends."""
PROBE = ("Zebra or yak?", "Quagga.", "Why not okapi?")


class TurnTokens:
    """Continues chats for one tokenizer and chat template; `ends` are the ids with which the policy ends a turn."""

    def __init__(self, tokens: ChatTokens, *, ends: Collection[int]) -> None:
        self._tokens, self._ends = tokens, frozenset(ends)
        self._added = {int(id): str(token) for id, token in tokens.tokenizer.added_tokens_decoder.items()}

    def extend(self, ids: NDArray[np.int32], messages: Chat, new: Chat) -> NDArray[np.int32]:
        """Return the ids of the next prompt: `ids` unchanged, then those that the chat template adds for `new`.

        `ids` are a prompt and its completion, `messages` the chat they spell: its last message is the completion.
        Raises `ParamError` if the chat template refuses the messages, and `BrokenChat` if the completion ended with the
        start of a message of another role.
        """
        added = self._ids(self._after_completion(messages, new))
        return np.concatenate([ids, self._without_close(added, last=int(ids[-1]))]).astype(np.int32)

    def prove(self, *, role: str = "user") -> None:
        """Check on a chat of three messages that continuing it spells what the chat template spells.

        `role` is that of the message after the completion. Raises `DataError` if the template drops or rewrites
        completions or messages, or joins tokens across them.
        """
        asked, said, then = PROBE
        first, answer = {"role": "user", "content": asked}, {"role": "assistant", "content": said}
        new = {"role": role, "content": then}
        where = f"{self._tokens.where}: its chat template cannot be continued token by token"
        try:
            prompt = self._tokens.render([first])
            completed = np.concatenate([prompt, self._tokens.encode(said, ended=True)])
            ids = self.extend(completed, [first, answer], [new])
            added = self._after_completion([first, answer], [new])
        except ParamError as error:
            raise DataError(f"{where}: {error}; set history: template") from error
        whole = self._tokens.text([first, answer, new])
        begun = self._tokens.text([first])
        if then not in added:
            raise DataError(f"{where}: it drops or rewrites a message after a completion; set history: template")
        if not whole.endswith(said + added):
            raise DataError(f"{where}: it writes another text around {said!r}; set history: template")
        tail = self._spelt(ids[len(completed) :])
        if not self._spelt(self._ids(whole)).endswith(tail):
            raise DataError(f"{where}: {tail!r} has other tokens within the chat; set history: template")
        # the history may have another text than what was sampled: some templates leave thoughts out
        if whole == begun + said + added and self._silent(ids) != self._silent(self._ids(whole)):
            raise DataError(f"{where}: it spells {self._spelt(ids)!r} instead of {whole!r}; set history: template")

    def _after_completion(self, messages: Chat, new: Chat) -> str:
        """Return the text that the chat template puts between the last completion and the next one."""
        hidden = [{**m, "content": SENTINEL} if m["role"] == "assistant" else m for m in messages]
        _, found, after = self._tokens.text([*hidden, *new]).rpartition(SENTINEL)
        if not found:
            raise ParamError(f"{self._tokens.where}: its chat template drops completions from the history")
        return after

    def _without_close(self, added: NDArray[np.int32], *, last: int) -> NDArray[np.int32]:
        """Return ids without the close of the completion's message, which the policy has written if it ended."""
        if last not in self._ends:
            return added
        first = next((at for at, id in enumerate(added.tolist()) if id in self._added or id in self._ends), None)
        closes = self._closes
        if closes:
            return added[first + 1 :] if first is not None and int(added[first]) in closes else added
        if first == 0 and int(added[0]) == last:
            return added[1:]
        token = self._added.get(last, "")
        if token and token in self._tokens.tokenizer.chat_template:
            raise BrokenChat(f"the completion ends with {token}, which begins a message of another role")
        return added

    @cached_property
    def _closes(self) -> frozenset[int]:
        """The ids that may close a message, empty if the template closes completions only by the next message."""
        asked, said, _ = PROBE
        user, answer = {"role": "user", "content": asked}, {"role": "assistant", "content": said}
        closed = self._first_token(self._tokens.text([user, answer], prompting=False), said)
        if closed is None:
            return frozenset()
        of_user = self._first_token(self._tokens.text([user, answer], prompting=False), asked)
        return frozenset({closed, *self._ends} | ({of_user} if of_user is not None else set()))

    def _first_token(self, text: str, content: str) -> int | None:
        """Return the id of the first added token after a content, None if there is none."""
        after = text.rpartition(content)[2]
        return next((id for id in self._ids(after).tolist() if id in self._added), None)

    def _ids(self, text: str) -> NDArray[np.int32]:
        ids: Any = self._tokens.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(ids, np.int32)

    def _spelt(self, ids: NDArray[np.int32]) -> str:
        return str(self._tokens.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def _silent(self, ids: NDArray[np.int32]) -> str:
        """Return the text of ids without white space and end tokens: a sampled end may differ from the template's."""
        ends = self._ends | self._closes
        return "".join(self._spelt(np.asarray([id for id in ids.tolist() if id not in ends], np.int32)).split())
