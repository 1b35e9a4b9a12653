"""The rules of who may ask: one token in the path, one host, one origin, reading only; and what a page may do."""

import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MOST_PATH = 4096


class Guard:
    """Lets requests through that read, name a host of this server, come from its own page and know the token.

    A page of another site cannot read the token; the host is checked because its name may lead here (DNS rebinding).
    The path behind the token is what the inner application gets.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str]) -> None:
        self._app, self._token, self._hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a reason that tells nothing of the runs."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, reason = refusal
            await PlainTextResponse(f"{reason}\n", status)(scope, receive, send_guarded)
            return
        if scope["path"] == f"/{self._token}":  # without the slash the page's own addresses would lead elsewhere
            await RedirectResponse(f"/{self._token}/")(scope, receive, send_guarded)
            return
        path = scope["path"].removeprefix(f"/{self._token}") or "/"
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host not in self._hosts:
            return 421, "this is no host of the server; open the address that `genrl-graph view` printed"
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return 403, "requests of other origins are refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "requests of other sites are refused"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "the server only reads"
        first = scope["path"][1:MOST_PATH].partition("/")[0]
        if not secrets.compare_digest(first.encode(), self._token.encode()):
            return 403, "the token in the address is missing or wrong; open the address that `genrl-graph view` printed"
        return None
