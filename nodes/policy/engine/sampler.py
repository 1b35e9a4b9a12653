"""Sample with vLLM in place of a policy: tokens in, tokens out, with the weights that the policy has now."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from genrl_graph import seeds
from genrl_graph.contract.policy import Completion, Randomness, Sampling
from genrl_graph.errors import NodeFailed, ParamError
from genrl_graph.long_work import long_work, tell
from genrl_graph.nodes.endpoint.client import MAX_WAIT_S, read_key
from genrl_graph.nodes.functions.callables import call_here
from genrl_graph.nodes.policy.engine.process import LaunchedServer, interpreter, server_arguments
from genrl_graph.nodes.policy.engine.replies import Answered, Asked, StaleAnswer, Vocabulary, WrongAnswer
from genrl_graph.nodes.policy.engine.server import ServerFailed, VllmServer
from genrl_graph.nodes.policy.engine.verification import check_seeds, verify
from genrl_graph.nodes.policy.engine.weights import ServedWeights, WeightsFolders
from genrl_graph.nodes.policy.engine_params import VllmEngine

if TYPE_CHECKING:
    import httpx2

    from genrl_graph.nodes.policy.causal_lm import CausalLM
    from genrl_graph.nodes.policy.compute.handle import CausalPolicy

MOST_UNKNOWN = 4096
"""Most ids that the tokenizer does not know; each is named in every request."""

_samplers: "WeakValueDictionary[str, VllmSampler]" = WeakValueDictionary()


def sampler_of(params: "CausalLM", *, adapts: bool) -> "VllmSampler | None":
    """Return the sampler of the params' engine, which policies of one process with equal params share.

    Raises `ParamError` or `DataError` where a key or the program to launch is missing.
    """
    if params.engine is None:
        return None
    served = [params.model, params.revision, params.max_context, adapts, getattr(params, "r", None)]
    key = json.dumps([params.engine.model_dump_json(), *served])
    sampler = _samplers.get(key)
    if sampler is None:
        sampler = _samplers[key] = VllmSampler(params.engine)
    return sampler


@dataclass(frozen=True, slots=True)
class _Trouble:
    """The reason for a missing completion; `wrong` if its answer was false, `fatal` if asking again cannot help."""

    url: str
    reason: str
    wrong: bool = False
    fatal: bool = False

    def __str__(self) -> str:
        return f"vLLM at {self.url}: {self.reason}"


class VllmSampler:
    """vLLM servers that sample for the policies of a process; weights go over before the first completion of each."""

    name = "vLLM"

    def __init__(self, params: VllmEngine) -> None:
        self._params = params
        self._key = read_key(params.api_key_env)
        if params.launch is not None:
            interpreter(params.launch)
        self._base_label = seeds.digest(("base", time.time_ns(), id(self)))
        self._servers = [self._server(url) for url in params.urls]
        self.launched: LaunchedServer | None = None
        self._launches = 0
        self._folders: WeightsFolders | None = None

    def generate(
        self,
        policy: "CausalPolicy",
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
    ) -> list[list[Completion]]:
        """Sample `num_generations` completions per prompt, each with a seed of its own.

        A request that fails for a while is sent again, also to another server; a launched server that died is launched
        again. Raises `NodeFailed` where completions are missing in the end, or an answer is false.
        """
        if sampling.truncates:
            raise ParamError(
                f"policy {policy.name!r}: its engine samples the whole distribution only; unset top_k, "
                "top_p and min_p, or leave params.engine out"
            )
        copies = num_generations if sampling.temperature > 0 else 1  # greedy completions are all the same
        rngs = [rng] * len(prompts) if isinstance(rng, np.random.Generator) else rng
        drawn = [one.integers(2**31, size=copies).tolist() for one in rngs]
        asked = [Asked(p, seed, sampling) for p, row in zip(prompts, drawn, strict=True) for seed in row]
        answered = self._answered(policy, asked, _vocabulary(policy)) if asked else []
        urls = [server.url for server in self._servers]
        verify(policy, asked, answered, self._params, urls=urls)
        check_seeds(policy, asked, answered, copies=copies, urls=urls)
        texts = policy.tokens.texts([row.ids.tolist() for row in answered], ends=policy.end_ids)
        rows = [
            Completion(row.ids, row.logprobs, text, row.finish_reason, weight_version=policy.version)
            for row, text in zip(answered, texts, strict=True)
        ]
        by_prompt = [rows[at : at + copies] for at in range(0, len(rows), copies)]
        return [part * (num_generations // copies) for part in by_prompt]

    def _answered(self, policy: "CausalPolicy", asked: Sequence[Asked], vocabulary: Vocabulary) -> list[Answered]:
        """Ask for completions until all are there, or the tries are used up."""
        done: dict[int, Answered] = {}
        for server in self._servers:
            server.failed = server.hangs
        for attempt in range(self._params.retries + 1):
            if attempt:
                time.sleep(min(self._params.retry_wait_s * 2 ** (attempt - 1), MAX_WAIT_S))
            weights = self._weights_of(policy)
            self._launch(policy)
            missing = {at: one for at, one in enumerate(asked) if at not in done}
            keywords = {"policy": policy, "weights": weights, "asked": missing, "vocabulary": vocabulary}
            answers, troubles = cast(tuple[dict[int, Answered], list[_Trouble]], call_here(self._ask, keywords))
            done |= answers
            if len(done) == len(asked):
                return [done[at] for at in range(len(asked))]
            self._judge(policy, troubles, last=attempt == self._params.retries)
        raise AssertionError("the last try returns or raises")

    def _judge(self, policy: "CausalPolicy", troubles: Sequence[_Trouble], *, last: bool) -> None:
        """Raise `NodeFailed` for a false answer and after the last try; tell of other troubles."""
        first = next((one for one in troubles if one.wrong), troubles[0])
        where = f"policy {policy.name!r} version {policy.version}: {first}"
        if first.wrong:
            raise NodeFailed(f"{where}; nothing of this round's answers was used")
        if last or first.fatal:
            tries = f" ({self._params.retries + 1} tries)" if last and self._params.retries else ""
            raise NodeFailed(f"{where}{tries}")
        for line in dict.fromkeys(str(one) for one in troubles):
            tell(f"{line}; it is asked again")
        if self.launched is not None and any(server.hangs for server in self._servers):
            self.launched.end()  # the next try launches another one

    async def _ask(
        self,
        policy: "CausalPolicy",
        weights: ServedWeights,
        asked: Mapping[int, Asked],
        vocabulary: Vocabulary,
    ) -> tuple[dict[int, Answered], list[_Trouble]]:
        """Give the servers the weights, and send each its share of the requests."""
        import httpx2

        troubles: list[_Trouble] = []
        async with httpx2.AsyncClient(**self._connections()) as client:
            ready = await self._ready(client, policy, weights, troubles)
            slots = {server: asyncio.Semaphore(self._params.concurrency) for server in ready}

            async def one(at: int, server: VllmServer) -> Answered | None:
                async with slots[server]:
                    try:
                        return await server.complete(client, asked[at], weights, vocabulary, adapts=policy.adapts)
                    except (ServerFailed, StaleAnswer, WrongAnswer) as error:
                        troubles.append(self._trouble(server, error, weights))
                        return None

            answers = await asyncio.gather(*(one(at, s) for at, s in _shares(asked, ready)))
        for server in ready:
            server.failed = any(trouble.url == server.url for trouble in troubles)
        done = {at: row for at, row in zip(asked, answers, strict=False) if row is not None}
        return ({} if any(one.wrong for one in troubles) else done), troubles

    def _connections(self) -> dict[str, Any]:
        import httpx2

        most = self._params.concurrency * len(self._servers)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key is not None else {}
        secure = any(server.url.startswith("https") for server in self._servers)
        return {
            "headers": headers,
            "limits": httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            "timeout": None,
            "trust_env": False,
            "verify": secure,  # reading the certificates of authorities takes time
        }

    async def _ready(
        self, client: "httpx2.AsyncClient", policy: "CausalPolicy", weights: ServedWeights, troubles: list[_Trouble]
    ) -> list[VllmServer]:
        """Return the servers that have the weights; those whose last call failed only where there is no other."""

        async def has(server: VllmServer) -> bool:
            try:
                await server.prepare(client, policy, weights)
            except (ServerFailed, StaleAnswer, WrongAnswer) as error:
                server.failed = True
                troubles.append(self._trouble(server, error, weights))
                return False
            return True

        for servers in [[s for s in self._servers if s.failed == failed] for failed in (False, True)]:
            ready = await asyncio.gather(*map(has, servers))
            if any(ready):
                return [server for server, took in zip(servers, ready, strict=True) if took]
        return []

    def _trouble(self, server: VllmServer, error: Exception, weights: ServedWeights) -> _Trouble:
        if isinstance(error, StaleAnswer):
            return _Trouble(server.url, f"it samples with {error}, not with {weights.what}")
        if isinstance(error, WrongAnswer):
            return _Trouble(server.url, f"it answers {error}", wrong=True)
        fatal = isinstance(error, ServerFailed) and not error.retryable
        return _Trouble(server.url, str(error), fatal=fatal)

    def _weights_of(self, policy: "CausalPolicy") -> ServedWeights:
        if self._folders is None:
            self._folders = WeightsFolders(self._params.weights_folder, self._params.dtype)
        return self._folders.of(policy)

    def _launch(self, policy: "CausalPolicy") -> None:
        """Launch the server, if the run is to have one of its own and it does not run.

        Raises `NodeFailed` if it does not start, or has died more than `restarts` times.
        """
        launch, folders = self._params.launch, self._folders
        if launch is None or folders is None or (self.launched is not None and self.launched.alive):
            return
        if self.launched is not None:
            if self._launches > launch.restarts:
                raise NodeFailed(
                    f"vLLM has died {self._launches} times (engine.launch.restarts {launch.restarts}): "
                    f"{self.launched.last}"
                )
            tell(f"vLLM has died: {self.launched.last}; it is launched again")
        self._launches += 1
        with long_work("starting vLLM"):
            self.launched = LaunchedServer(launch, server_arguments(policy, self._params, folders.model_of(policy)))
            self.launched.wait()
        self._servers = [self._server(self.launched.url)]

    def _server(self, url: str) -> VllmServer:
        return VllmServer(url, self._params.timeout_s, self._params.sync_timeout_s, self._base_label)


def _vocabulary(policy: "CausalPolicy") -> Vocabulary:
    if len(policy.unknown_ids) > MOST_UNKNOWN:
        raise ParamError(
            f"policy {policy.name!r}: its tokenizer does not know {len(policy.unknown_ids)} ids of the model, and an "
            f"engine can leave out at most {MOST_UNKNOWN}; leave params.engine out"
        )
    ends = policy.end_ids
    return Vocabulary(policy.vocab_size, policy.unknown_ids, ends, policy.tokens.silent(ends), policy.decode)


def _shares(asked: Iterable[int], servers: Sequence[VllmServer]) -> list[tuple[int, VllmServer]]:
    """Spread requests over servers: each gets neighbours, which often share a prompt."""
    places = list(asked) if servers else []
    return [(at, servers[number * len(servers) // len(places)]) for number, at in enumerate(places)]
