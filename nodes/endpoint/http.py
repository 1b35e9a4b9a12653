"""One request to a server, within limits of seconds and bytes, and why it failed."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import httpx2

SHOWN_CHARACTERS = 200
_RETRYABLE = (408, 409, 429)
_MAY_SET_RETRY_AFTER = (429, 503)


@dataclass(frozen=True, slots=True)
class FailedTry:
    """A request without a usable answer; `wait_s` is the Retry-After of the server, `status` the code that it sent.

    `late` if no answer came in time.
    """

    reason: str
    retryable: bool = True
    wait_s: float | None = None
    status: int | None = None
    late: bool = False


async def send(
    client: "httpx2.AsyncClient",
    method: Literal["GET", "POST"],
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    timeout_s: float,
    max_bytes: int,
) -> bytes | FailedTry:
    """Return the body of the answer with status 200, or why there is none; redirects are not followed."""
    import httpx2

    try:
        async with asyncio.timeout(timeout_s), client.stream(method, url, json=body) as response:
            content = await _read_body(response, max_bytes)
    except TimeoutError:
        return FailedTry(f"no answer within {timeout_s:g} s", late=True)
    except httpx2.HTTPError as error:
        return FailedTry(f"{type(error).__name__}: {error}".removesuffix(": "))
    if content is None:
        return FailedTry(f"an answer of more than {max_bytes} bytes")
    if response.status_code != 200:
        return _failed_status(response, content)
    return content


async def _read_body(response: "httpx2.Response", max_bytes: int) -> bytes | None:
    """Read the body; None if it is larger than `max_bytes`."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > max_bytes:
            return None
    return bytes(content)


def _failed_status(response: "httpx2.Response", content: bytes) -> FailedTry:
    status = response.status_code
    shown = f"{status} {response.reason_phrase}".strip()
    if 300 <= status < 400:
        reason = f"{shown}: it redirects, which is not followed; write the final URL"
        return FailedTry(reason, retryable=False, status=status)
    advice = "; check the key that api_key_env names" if status in (401, 403) else ""
    wait_s = retry_after(response.headers.get("retry-after", "")) if status in _MAY_SET_RETRY_AFTER else None
    retryable = status >= 500 or status in _RETRYABLE
    return FailedTry(f"{shown}: {preview(content)}{advice}", retryable=retryable, wait_s=wait_s, status=status)


def retry_after(value: str) -> float | None:
    """Parse a Retry-After header into seconds (RFC 9110: seconds or a date); None if it is neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number := value.strip()):
        return float(number)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def preview(content: bytes) -> str:
    """Return the beginning of an answer in one line, quoted."""
    text = " ".join(content[: 8 * SHOWN_CHARACTERS].decode(errors="replace").split())
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")
