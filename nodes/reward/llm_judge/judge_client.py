"""Asks an OpenAI-compatible endpoint for chat completions: many at a time, each bounded in time, bytes and tries."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator

from genrl_graph.errors import ParamError
from genrl_graph.nodes.reward.llm_judge.judge_replies import Reply
from genrl_graph.nodes.reward.scoring.callables import call_here
from genrl_graph.nodes.reward.worker.worker import Failure

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES = 2**20
LONGEST_WAIT_S = 60.0
SHOWN_CHARACTERS = 200
_AGAIN = (408, 409, 429)
_MAY_SAY_WHEN = (429, 503)


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("no base URL of an API; write one such as https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL that holds a password; name the environment variable of the key in api_key_env")
    return url.rstrip("/")


def read_key(variable: str | None) -> str | None:
    """The key that an environment variable holds, None where none is named; raises `ParamError` where it holds none."""
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


BaseUrl = Annotated[str, AfterValidator(_base_url)]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A try that gave no reply, why, whether another one may help, and in how many seconds the server wants it."""

    reason: str
    again: bool = True
    wait_s: float | None = None


@dataclass(slots=True)
class Endpoint:
    """An API at `url`; counts the `requests` that it was sent, and the `retries` among them.

    A try ends after `timeout_s` seconds in all. One that timed out, met a connection error, garbage, 408, 409, 429 or
    5xx is repeated up to `max_retries` times, after `retry_wait_s` seconds doubled each time, or when Retry-After says
    so; never later than `LONGEST_WAIT_S`. Redirects are not followed: the key would leave with them.
    """

    url: str
    key: str | None = field(repr=False)
    timeout_s: float
    max_retries: int
    retry_wait_s: float
    concurrency: int
    requests: int = 0
    retries: int = 0

    def ask(
        self, bodies: Mapping[str, Mapping[str, Any]], *, keep: Callable[[str, Reply], None]
    ) -> dict[str, Reply | Failure]:
        """The reply to each request body, by its key; `keep` is given every reply as it comes.

        At most `concurrency` are asked at a time, in the order given. Works under a running event loop too.
        """
        if not bodies:
            return {}
        return cast(dict[str, Reply | Failure], call_here(self._ask, {"bodies": bodies, "keep": keep}))

    async def _ask(
        self, bodies: Mapping[str, Mapping[str, Any]], keep: Callable[[str, Reply], None]
    ) -> dict[str, Reply | Failure]:
        import httpx2

        slots = asyncio.Semaphore(self.concurrency)
        limits = httpx2.Limits(max_connections=self.concurrency)

        async def one(key: str, body: Mapping[str, Any]) -> Reply | Failure:
            async with slots:  # held while it waits too: an endpoint that is short of breath gets fewer requests
                reply = await self._persist(client, body)
            if isinstance(reply, Reply):
                keep(key, reply)
            return reply

        async with httpx2.AsyncClient(headers=self._headers(), limits=limits, timeout=None) as client:
            replies = await asyncio.gather(*(one(key, body) for key, body in bodies.items()))
        return dict(zip(bodies, replies, strict=True))

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}

    async def _persist(self, client: "httpx2.AsyncClient", body: Mapping[str, Any]) -> Reply | Failure:
        attempt = 0
        while True:
            self.requests += 1
            reply = await self._try(client, body)
            if isinstance(reply, Reply):
                return reply
            if not reply.again or attempt == self.max_retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                return Failure(f"the judge at {self.url} did not answer: {self._without_key(reply.reason)}{tries}")
            wait_s = self.retry_wait_s * 2**attempt if reply.wait_s is None else reply.wait_s
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))
            attempt += 1
            self.retries += 1

    async def _try(self, client: "httpx2.AsyncClient", body: Mapping[str, Any]) -> Reply | _Refused:
        import httpx2

        try:
            async with (
                asyncio.timeout(self.timeout_s),
                client.stream("POST", f"{self.url}/chat/completions", json=body) as response,
            ):
                content = await _bounded(response)
        except TimeoutError:
            return _Refused(f"no answer within {self.timeout_s:g} s")
        except httpx2.HTTPError as error:
            return _Refused(f"{type(error).__name__}: {error}".removesuffix(": "))
        if content is None:
            return _Refused(f"an answer of more than {MAX_BODY_BYTES} bytes")
        if response.status_code != 200:
            return _status(response, content)
        return read_reply(content) or _Refused(f"no chat completion: {_start(content)}")

    def _without_key(self, reason: str) -> str:
        return reason.replace(self.key, "***") if self.key else reason


async def _bounded(response: "httpx2.Response") -> bytes | None:
    """The body, None where it is larger than `MAX_BODY_BYTES`."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            return None
    return bytes(content)


def _status(response: "httpx2.Response", content: bytes) -> _Refused:
    status = response.status_code
    told = f"{status} {response.reason_phrase}".strip()
    if 300 <= status < 400:
        return _Refused(f"{told}: it redirects, which is not followed; write the final URL", again=False)
    advice = "; check the key that api_key_env names" if status in (401, 403) else ""
    wait_s = retry_after(response.headers.get("retry-after", "")) if status in _MAY_SAY_WHEN else None
    return _Refused(f"{told}: {_start(content)}{advice}", again=status >= 500 or status in _AGAIN, wait_s=wait_s)


def retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110: seconds or a date); None where it says neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def read_reply(content: bytes) -> Reply | None:
    """The first choice of a chat completion, None where the body is none."""
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return None
    match given:
        case {"choices": [{"message": {"content": str(text)}, **rest}, *_]}:
            whole = text.encode(errors="replace").decode()  # half a surrogate pair is no text
            return Reply(whole, cut=rest.get("finish_reason") == "length")
    return None


def _start(content: bytes) -> str:
    text = " ".join(content[: 8 * SHOWN_CHARACTERS].decode(errors="replace").split())
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")
