"""A policy that an API serves: it completes chats, and has no token ids, log-probs or weights."""

import json
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import Completion, Randomness, Sampling, TextPolicy, TokenSequence
from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.endpoint.client import Endpoint, Reply, read_key
from genrl_graph.nodes.worker.worker import Failure, OutOfTime
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    import torch

    from genrl_graph.nodes.policy.endpoint import EndpointCarry

MOST_BYTES = 2**20
"""Largest chat that is sent, as UTF-8."""
FINGERPRINT = digest(("tokenizer", "chats as JSON lines of UTF-8"))
"""The fingerprint of prompts to APIs: their ids are the bytes of their messages."""
STATE = "endpoint.json"
_NO_IDS, _NO_LOGPROBS = np.empty(0, np.int32), np.empty(0, np.float32)


class EndpointPolicy(TextPolicy):
    """A frozen policy behind an API of chat completions.

    The ids of a prompt are the bytes of its messages, one JSON line each, so that a chat that goes on extends its ids.
    Completions have no ids. One that the API does not give within its limits has an `error`.
    """

    counts_tokens = False

    def __init__(self, name: str, params: "EndpointCarry") -> None:
        self.name, self.version, self._params = name, 0, params
        self.tokenizer_fingerprint, self.vocab_size, self.context_length = FINGERPRINT, 256, 2**30
        read_key(params.api_key_env)  # before round 0, not when it is first needed

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the bytes of the messages."""
        lines = (json.dumps({"role": m["role"], "content": m["content"]}, ensure_ascii=False) for m in messages)
        text = "".join(f"{line}\n" for line in lines)
        return np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8).astype(np.int32)

    def extend(
        self, ids: NDArray[np.int32], messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> NDArray[np.int32]:
        """Return the bytes of the chat with its last completion and the new messages; they begin with `ids`."""
        return self.render([*messages, *new])

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of its bytes."""
        return bytes(map(int, ids)).decode(errors="replace")

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Ask for `num_generations` completions of each prompt, `concurrency` at a time."""
        rngs = [rng] * len(prompts) if isinstance(rng, np.random.Generator) else rng
        seeds = [one.integers(2**31, size=num_generations).tolist() for one in rngs]
        bodies = {
            f"{at} {sample}": self._body(prompt, sampling, seed)
            for at, prompt in enumerate(prompts)
            if len(prompt) <= MOST_BYTES
            for sample, seed in enumerate(seeds[at])
        }
        until = time.monotonic() + self._params.call_timeout_s
        client = Endpoint.of(self._params.endpoint, self._params, who="the endpoint")
        replies = client.ask(bodies, keep=lambda key, reply: None, until=until)
        too_long = Failure(f"the chat has more than {MOST_BYTES} bytes")
        return [
            [self._completion(replies.get(f"{at} {sample}", too_long)) for sample in range(num_generations)]
            for at in range(len(prompts))
        ]

    def _body(self, prompt: NDArray[np.int32], sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return the request for one completion: what the API of OpenAI has, and else what is not the default."""
        body: dict[str, Any] = {
            "model": self._params.model,
            "messages": [json.loads(line) for line in self.decode(prompt.tolist()).split("\n") if line],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed,
        }
        further = {
            "top_p": (sampling.top_p, 1.0),
            "top_k": (sampling.top_k, 0),
            "min_p": (sampling.min_p, 0.0),
            "repetition_penalty": (sampling.repetition_penalty, 1.0),
            "stop": (list(sampling.stop), []),
        }
        body |= {name: value for name, (value, default) in further.items() if value != default}
        return {name: value for name, value in (body | self._params.request).items() if value is not None}

    def _completion(self, reply: Reply | Failure) -> Completion:
        if isinstance(reply, OutOfTime):
            reply = Failure(f"the endpoint had no time left (call_timeout_s {self._params.call_timeout_s:g})")
        if isinstance(reply, Failure):
            return Completion(_NO_IDS, _NO_LOGPROBS, "", "failed", error=reply.reason)
        return Completion(_NO_IDS, _NO_LOGPROBS, reply.text, "length" if reply.truncated else "stop")

    def save(self, folder: Path) -> None:
        """Write which model this is; never the key."""
        (folder / STATE).write_text(json.dumps(self._facts(), sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Check that the saved policy is this one; raises `StoreError` if it is another."""
        try:
            saved = json.loads((folder / STATE).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder / STATE}: holds no endpoint: {error}") from error
        if saved != self._facts():
            raise StoreError(f"{folder / STATE}: is {saved}, not {self._facts()}")

    def digest(self) -> str:
        """Return a digest of which model this is; what it answers is not known to it."""
        return digest(("endpoint", *chain.from_iterable(sorted(self._facts().items()))))

    def _facts(self) -> dict[str, str]:
        return {"endpoint": self._params.endpoint, "model": self._params.model}

    def fork(self, name: str) -> Self:
        """Raise `NodeFailed`: what an API serves cannot be copied."""
        self._refuse("cannot be copied")

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]) -> "torch.Tensor":
        """Raise `NodeFailed`: an API gives no log-probs of given ids."""
        self._refuse("gives no log-probs")

    def backward(self, loss: "torch.Tensor") -> None:
        """Raise `NodeFailed`: what an API serves is not trained here."""
        self._refuse("cannot be trained")

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Raise `NodeFailed`: what an API serves is not trained here."""
        self._refuse("cannot be trained")

    def _refuse(self, what: str) -> NoReturn:
        raise NodeFailed(f"policy {self.name!r}: the model behind {self._params.endpoint} {what}; use a local policy")
