"""One vLLM server: which weights and adapters it has, and the calls that give it new ones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from genrl_graph.messages import short
from genrl_graph.nodes.endpoint.http import FailedTry, send
from genrl_graph.nodes.policy.engine.replies import (
    Answered,
    Asked,
    StaleAnswer,
    Vocabulary,
    WrongAnswer,
    read_answer,
    read_checksums,
    read_model,
    request_of,
)
from genrl_graph.nodes.policy.engine.weights import ServedWeights

if TYPE_CHECKING:
    import httpx2

    from genrl_graph.nodes.policy.compute.handle import CausalPolicy

GENERATE = "/inference/v1/generate"
MOST_BYTES = 2**24
"""Largest answer to a call other than for a completion: checksums of 100,000 weights take half of it."""
CALL_TIMEOUT_S = 60.0
MOST_KNOWN = 64
EMPTY = hashlib.sha256().hexdigest()
"""The checksum of a weight that an engine has packed into another one, as vLLM does on a CPU."""
STARTED = "default"
"""The label of the weights that a server was started with."""
_ADVICE = {
    403: "start it with --enable-scale-out",
    404: "start it with VLLM_SERVER_DEV_MODE=1 (adapters: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True), or update vLLM to "
    "0.32 or later",
    405: "update vLLM to 0.32 or later",
}


class ServerFailed(Exception):
    """Raised where a server did not do what it was asked; asking again may help if `retryable`."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


@dataclass(eq=False, slots=True)
class VllmServer:
    """A server at `url`; `loaded` is the label of the weights that it was given last, "" if that is not known."""

    url: str
    timeout_s: float
    sync_timeout_s: float
    base_label: str  # the label of the model below adapters
    loaded: str = ""
    failed: bool = False  # whether a request has failed in this call: others are asked first
    hangs: bool = False  # whether it did not answer in time, and has not answered since
    model: str = ""
    _known: dict[str, str] = field(default_factory=dict)  # labels of weights it was given, and what they are
    _before: tuple[ServedWeights, Mapping[str, str]] | None = None  # last weights, and the checksums with them
    _adapters: "WeakKeyDictionary[CausalPolicy, str]" = field(default_factory=WeakKeyDictionary)

    def forget(self) -> None:
        """Forget what the server has: it may have been started anew."""
        self.loaded, self.model = "", ""
        self._adapters.clear()

    async def prepare(self, client: "httpx2.AsyncClient", policy: "CausalPolicy", weights: ServedWeights) -> None:
        """Give the server the weights, unless it has them.

        Raises `ServerFailed` where it does not take them, and `StaleAnswer` where it says so but still has others.
        """
        if not self.model:
            self.model = read_model(await self._call(client, "GET", "/v1/models"))
        if policy.adapts:
            await self._add_adapter(client, policy, weights)
        elif self.loaded != weights.label:
            await self._load(client, weights)
            self._know(weights)

    async def _load(self, client: "httpx2.AsyncClient", weights: ServedWeights) -> None:
        """Load a folder of weights; the checksums of what changed in it must change, too."""
        self.loaded = ""
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(weights.folder)}}
        await self._call(client, "POST", "/collective_rpc", reload, timeout_s=self.sync_timeout_s)
        await self._call(client, "POST", "/reset_prefix_cache")
        await self._call(client, "POST", "/update_weight_version", {"new_version": weights.label})
        asked = {"action": "checksum"}
        checksums = read_checksums(
            await self._call(client, "POST", "/weight_checker", asked, timeout_s=self.sync_timeout_s)
        )
        if self._before is not None:
            old, before = self._before
            kept = [name for name, value in checksums.items() if value == before.get(name) and value != EMPTY]
            same = next((name for name in kept if _differ(name, old, weights)), None)
            if same is not None:
                raise StaleAnswer(f"{old.what} (its {short(same)} did not change)")
            if checksums == before and old.label != weights.label and EMPTY not in checksums.values():
                raise StaleAnswer(f"{old.what} (none of its checksums changed)")
        self._before = weights, checksums
        self.loaded = weights.label

    async def _add_adapter(self, client: "httpx2.AsyncClient", policy: "CausalPolicy", weights: ServedWeights) -> None:
        """Load an adapter under its label, and unload the one that the policy had before."""
        if self.loaded != self.base_label:
            await self._call(client, "POST", "/update_weight_version", {"new_version": self.base_label})
            self.loaded = self.base_label
        old = self._adapters.get(policy)
        if old == weights.label:
            return
        if weights.label not in self._adapters.values():
            body = {"lora_name": weights.label, "lora_path": str(weights.folder)}
            await self._call(client, "POST", "/v1/load_lora_adapter", body, timeout_s=self.sync_timeout_s)
        self._adapters[policy] = weights.label
        if old is not None and old not in self._adapters.values():
            await self._call(client, "POST", "/v1/unload_lora_adapter", {"lora_name": old})

    async def complete(
        self,
        client: "httpx2.AsyncClient",
        asked: Asked,
        weights: ServedWeights,
        vocabulary: Vocabulary,
        *,
        adapts: bool,
    ) -> Answered:
        """Return a completion that these weights sampled.

        Raises `ServerFailed` without an answer, `StaleAnswer` for one of other weights, `WrongAnswer` for a false one.
        """
        model, label = (weights.label, self.base_label) if adapts else (self.model, weights.label)
        body = request_of(asked, model=model, vocabulary=vocabulary)
        content = await self._call(client, "POST", GENERATE, body, timeout_s=self.timeout_s, max_bytes=asked.max_bytes)
        try:
            return read_answer(content, asked, label=label, model=model, vocabulary=vocabulary)
        except StaleAnswer as stale:
            self.forget()
            raise StaleAnswer(self._described(str(stale))) from stale

    def _know(self, weights: ServedWeights) -> None:
        self._known[weights.label] = weights.what
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _described(self, label: str) -> str:
        if label in self._known:
            return self._known[label]
        if label == STARTED:
            return "the weights that it was started with (was it restarted?)"
        return f"weights {short(label)}, which this run did not send (does another run use it?)"

    async def _call(
        self,
        client: "httpx2.AsyncClient",
        method: Literal["GET", "POST"],
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        max_bytes: int = MOST_BYTES,
    ) -> bytes:
        """Return the body of an answer; raises `ServerFailed` if there is none."""
        answer = await send(client, method, f"{self.url}{path}", body=body, timeout_s=timeout_s, max_bytes=max_bytes)
        self.hangs = isinstance(answer, FailedTry) and answer.late
        if not isinstance(answer, FailedTry):
            return answer
        gone = answer.status == 404 and path == GENERATE  # the model or the adapter: it was started anew
        if gone or answer.status is None:
            self.forget()
        advice = _ADVICE.get(answer.status or 0, "")
        raise ServerFailed(f"{path}: {answer.reason}{'; ' * bool(advice)}{advice}", retryable=answer.retryable or gone)


def _differ(checksum: str, old: ServedWeights, new: ServedWeights) -> bool:
    """Return whether a weight, named as in a checksum with the ranks before it, differs between two versions."""
    name = checksum.rpartition(":")[2].replace(".base_layer.", ".")
    before, after = old.digest_of(name), new.digest_of(name)
    return before is not None and after is not None and before != after


__all__ = ["ServerFailed", "StaleAnswer", "VllmServer", "WrongAnswer"]
