"""Client for an OpenAI-compatible endpoint: concurrent chat completions with limits of time, bytes and tries."""

import asyncio
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from genrl_graph.errors import ParamError
from genrl_graph.nodes.endpoint.http import FailedTry, preview, send
from genrl_graph.nodes.functions.callables import call_here
from genrl_graph.nodes.worker.worker import Failure, OutOfTime
from genrl_graph.store.strict_json import bounded_json

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES = 2**20
MAX_WAIT_S = 60.0


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("no base URL of an API; write one such as https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL that holds a password; name the environment variable of the key in api_key_env")
    return url.rstrip("/")


def read_key(variable: str | None) -> str | None:
    """Read the API key from an environment variable (None: no key); raises `ParamError` if it holds no valid key."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ParamError(f"api_key_env: the environment variable {variable} is not set; export it, or leave it out")
    if not (key.isascii() and key.isprintable()):
        raise ParamError(
            f"api_key_env: what the environment variable {variable} holds is no key; it is not plain ASCII"
        )
    return key


def key_variable(prefix: str) -> Callable[[str | None], str | None]:
    """Return a validator of `api_key_env`: the name of a variable that begins with the prefix, or None."""

    def check(name: str | None) -> str | None:
        if name is not None and not re.fullmatch(rf"{prefix}[A-Za-z0-9_]+", name):
            reason = "so that a graph file cannot send your other secrets to its endpoint"
            raise ValueError(f"{name!r} does not begin with {prefix}, {reason}; export the key under such a name")
        return name

    return check


BaseUrl = Annotated[str, AfterValidator(_base_url)]
TrySeconds = Annotated[float, Field(gt=0, description="seconds for a try of a request")]
Retries = Annotated[
    int,
    Field(
        ge=0,
        description="further tries of a request that fails for a while (timeout, connection, status 408, "
        "409, 429, 5xx)",
    ),
]
RetryWait = Annotated[float, Field(ge=0, description="seconds before a further try, doubled each time; at most 60")]
Concurrency = Annotated[int, Field(ge=1, description="requests that run at the same time")]


class RequestParams(Protocol):
    """Params of a declared part that sends requests to an endpoint."""

    @property
    def api_key_env(self) -> str | None:
        """The environment variable of the API key."""

    @property
    def timeout_s(self) -> float:
        """The seconds for a try."""

    @property
    def retries(self) -> int:
        """The number of further tries."""

    @property
    def retry_wait_s(self) -> float:
        """The seconds before a further try."""

    @property
    def concurrency(self) -> int:
        """The number of requests at the same time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a model; `truncated` if it reached its token limit."""

    text: str
    truncated: bool = False


async def _by(until: float, reply: Awaitable[Reply | Failure]) -> Reply | Failure:
    """Await a reply, at most until a monotonic time."""
    try:
        async with asyncio.timeout(None if math.isinf(until) else until - time.monotonic()):
            return await reply
    except TimeoutError:
        return OutOfTime()


@dataclass(slots=True)
class Endpoint:
    """An API at `url`; counts the `requests` sent to it and the `retries` among them.

    A try ends after `timeout_s` seconds. After a timeout, a connection error, an unreadable reply or status 408, 409,
    429 or 5xx it is repeated up to `max_retries` times, after `retry_wait_s` seconds, doubled each time, or after the
    server's Retry-After; a wait is at most `MAX_WAIT_S`. Redirects are not followed: the key would go with them.
    """

    url: str
    key: str | None = field(repr=False)
    timeout_s: float
    max_retries: int
    retry_wait_s: float
    concurrency: int
    who: str = "the endpoint"
    requests: int = 0
    retries: int = 0

    @classmethod
    def of(cls, url: str, params: RequestParams, *, who: str) -> Self:
        """Return the API at `url` with its key from the environment; raises `ParamError` without a valid key."""
        key, wait_s = read_key(params.api_key_env), params.retry_wait_s
        return cls(url, key, params.timeout_s, params.retries, wait_s, params.concurrency, who)

    def ask(
        self,
        bodies: Mapping[str, Mapping[str, Any]],
        *,
        keep: Callable[[str, Reply], None],
        until: float = math.inf,
    ) -> dict[str, Reply | Failure]:
        """Return the reply to each request body, by key; calls `keep` with every reply as soon as it arrives.

        At most `concurrency` requests run at a time, started in order. Also works inside a running event loop. At the
        monotonic time `until` the remaining requests are cancelled and get `OutOfTime`.
        """
        if not bodies:
            return {}
        return cast(dict[str, Reply | Failure], call_here(self._ask, {"bodies": bodies, "keep": keep, "until": until}))

    async def _ask(
        self, bodies: Mapping[str, Mapping[str, Any]], keep: Callable[[str, Reply], None], until: float
    ) -> dict[str, Reply | Failure]:
        import httpx2

        slots = asyncio.Semaphore(self.concurrency)
        limits = httpx2.Limits(max_connections=self.concurrency)

        async def one(key: str, body: Mapping[str, Any]) -> Reply | Failure:
            async with slots:  # also during the waits between tries, so an overloaded endpoint gets fewer requests
                reply = await self._ask_with_retries(client, body)
            if isinstance(reply, Reply):
                keep(key, reply)
            return reply

        async with httpx2.AsyncClient(headers=self._headers(), limits=limits, timeout=None) as client:
            replies = await asyncio.gather(*(_by(until, one(key, body)) for key, body in bodies.items()))
        return dict(zip(bodies, replies, strict=True))

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}

    async def _ask_with_retries(self, client: "httpx2.AsyncClient", body: Mapping[str, Any]) -> Reply | Failure:
        attempt = 0
        while True:
            self.requests += 1
            reply = await self._try(client, body)
            if isinstance(reply, Reply):
                return reply
            if not reply.retryable or attempt == self.max_retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                return Failure(f"{self.who} at {self.url} did not answer: {self._without_key(reply.reason)}{tries}")
            wait_s = self.retry_wait_s * 2**attempt if reply.wait_s is None else reply.wait_s
            await asyncio.sleep(min(wait_s, MAX_WAIT_S))
            attempt += 1
            self.retries += 1

    async def _try(self, client: "httpx2.AsyncClient", body: Mapping[str, Any]) -> Reply | FailedTry:
        content = await send(
            client,
            "POST",
            f"{self.url}/chat/completions",
            body=body,
            timeout_s=self.timeout_s,
            max_bytes=MAX_BODY_BYTES,
        )
        if isinstance(content, FailedTry):
            return content
        return read_reply(content) or FailedTry(f"no chat completion: {preview(content)}")

    def _without_key(self, reason: str) -> str:
        return reason.replace(self.key, "***") if self.key else reason


def read_reply(content: bytes) -> Reply | None:
    """Parse the first choice of a chat completion; None if the body is not a chat completion."""
    try:
        body = bounded_json(content)
    except ValueError:
        return None
    match body:
        case {"choices": [{"message": {"content": str(text)}, **rest}, *_]}:
            valid = text.encode(errors="replace").decode()  # a lone surrogate cannot be encoded as UTF-8
            return Reply(valid, truncated=rest.get("finish_reason") == "length")
    return None
