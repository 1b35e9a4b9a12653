"""The server of the live page: on the loopback interface only, for those who have the token, reading only."""

import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from genrl_graph.errors import GenrlGraphError, ParamError, StoreError
from genrl_graph.view.access import Guard
from genrl_graph.view.assets import TYPES, asset, page
from genrl_graph.view.estimate import estimate_or_reason
from genrl_graph.view.events import Events
from genrl_graph.view.game import game_values
from genrl_graph.view.lineage import lineage
from genrl_graph.view.page_news import PageNews
from genrl_graph.view.rollouts import MOST_ROLLOUTS, RoundTexts, Wanted, newest_rollouts
from genrl_graph.view.shown_curves import MOST_CHOSEN
from genrl_graph.view.watched import Watched
from genrl_graph.view.watched_run import WatchedRun

LOOPBACK = "127.0.0.1"
MOST_REQUESTS = 128
Answer = Callable[[Request], Any]


class Json(JSONResponse):
    """A JSON response that is ASCII, so that no text of a run can be cut or misread on its way."""

    def render(self, content: Any) -> bytes:
        """Return content as JSON."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class View:
    """The answers of the server to its page."""

    def __init__(self, watched: Watched, imports: Sequence[str] = ()) -> None:
        self._watched, self._imports = watched, list(imports)
        self._events = Events(watched)
        self._games: dict[int, dict[str, Any]] = {}
        self._estimates: dict[int, dict[str, Any]] = {}

    def app(self) -> Starlette:
        """Return the application without its guard."""
        answers: dict[str, Answer] = {
            "overview": self._overview,
            "game": self._game,
            "rollouts": self._rollouts,
            "lineage": self._lineage,
            "estimate": self._estimate,
        }
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._static),
            Route("/events", self._stream),
            *(Route(f"/api/{name}", answering(answer)) for name, answer in answers.items()),
        ]
        return Starlette(routes=routes)

    async def _page(self, request: Request) -> Response:
        return Response(page(), media_type="text/html")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in TYPES:
            raise HTTPException(404)
        return Response(asset(name), media_type=TYPES[name])

    async def _stream(self, request: Request) -> Response:
        query = request.query_params
        chosen = None if query.get("outcomes") == "1" else query.getlist("metric")[:MOST_CHOSEN]
        try:
            self._events.check_room()
            page = PageNews(self._watched, self._run(request)[1], chosen)
        except GenrlGraphError as error:
            return Json({"problem": str(error)}, 400)
        return StreamingResponse(self._events.stream(page), media_type="text/event-stream")

    def _overview(self, request: Request) -> Any:
        self._watched.refresh()
        return self._watched.overview()

    def _game(self, request: Request) -> Any:
        number, run = self._run(request)
        with run.lock:
            if number not in self._games:
                self._games[number] = game_values(run)
            return self._games[number]

    def _rollouts(self, request: Request) -> Any:
        query = request.query_params
        wanted = Wanted(
            node=query.get("node", ""),
            before=_whole(query.get("before")),
            task=query.get("task", ""),
            peer=query.get("peer", ""),
            least=_number(query.get("least")),
            most=_number(query.get("most")),
            failed=query.get("failed") == "1",
            limit=min(MOST_ROLLOUTS, _whole(query.get("limit")) or 20),
        )
        run = self._run(request)[1]
        with run.lock, run.stored.pinned():
            return newest_rollouts(run.stored, wanted, latest=run.latest_round)

    def _lineage(self, request: Request) -> Any:
        query = request.query_params
        run, round = self._run(request)[1], _whole(query.get("round")) or 0
        with run.lock, run.stored.pinned():
            return lineage(
                RoundTexts(run.stored),
                id=query.get("id", ""),
                node=query.get("node", ""),
                round=round,
                latest=run.latest_round,
                everywhere=query.get("everywhere") == "1",
            )

    def _estimate(self, request: Request) -> Any:
        number, run = self._run(request)
        if number not in self._estimates:
            self._estimates[number] = estimate_or_reason(run.names.folder, self._imports)
        return self._estimates[number]

    def _run(self, request: Request) -> tuple[int, WatchedRun]:
        number = _whole(request.query_params.get("run", "0"))
        if number is None or number >= len(self._watched.runs):
            raise ParamError(f"run: {request.query_params.get('run', '')[:40]!r} is no number of a run of this page")
        return number, self._watched.runs[number]


def answering(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with JSON from a thread; errors of ours are `problem`, with status 400."""

    async def endpoint(request: Request) -> Response:
        try:
            return Json(await run_in_threadpool(answer, request))
        except GenrlGraphError as error:
            return Json({"problem": str(error)}, 400)

    return endpoint


def serve(watched: Watched, *, port: int, imports: Sequence[str], ready: Callable[[str], None]) -> None:
    """Serve the page until a signal; `ready` gets its address. Raises `StoreError` where the port is taken."""
    token = secrets.token_urlsafe(24)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise StoreError(f"--port {port}: {error.strerror}; name another port, or none") from error
        listening.listen()  # whoever is told the address may come at once
        port = listening.getsockname()[1]
        guarded = Guard(View(watched, imports).app(), token=token, hosts=[f"{LOOPBACK}:{port}", f"localhost:{port}"])
        config = uvicorn.Config(
            guarded,
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            limit_concurrency=MOST_REQUESTS,
            timeout_graceful_shutdown=1,
        )
        ready(f"http://{LOOPBACK}:{port}/{token}/")
        uvicorn.Server(config).run(sockets=[listening])


def _whole(text: str | None) -> int | None:
    if text is None or text == "":
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise ParamError(f"{text[:40]!r} is no whole number")
    return int(text)


def _number(text: str | None) -> float | None:
    if text is None or text == "":
        return None
    try:
        value = float(text[:40])
    except ValueError as error:
        raise ParamError(f"{text[:40]!r} is no number") from error
    return value if value == value else None
