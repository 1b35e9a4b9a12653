"""Server-sent events: tell open pages that runs have changed; without an open page nothing is read."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from genrl_graph.errors import ParamError
from genrl_graph.view.watched import REFRESH_S, Watched

MOST_PAGES = 32
ALIVE_S = 15.0
"""Seconds without news after which a comment keeps the connection open."""
CATCHING_UP_S = 0.02


class Events:
    """Reads the runs while at least one page is open, and wakes all pages when something has changed."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._pages: set[asyncio.Event] = set()
        self._reader: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raise `ParamError` where too many pages are open."""
        if len(self._pages) >= MOST_PAGES:
            raise ParamError(f"{MOST_PAGES} pages are open already; close some")

    async def stream(self) -> AsyncIterator[str]:
        """Yield an event with the versions of all runs: at once, then whenever they change."""
        news = asyncio.Event()
        news.set()
        self._pages.add(news)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        try:
            while True:
                try:
                    await asyncio.wait_for(news.wait(), ALIVE_S)
                except TimeoutError:
                    yield ": alive\n\n"
                    continue
                news.clear()
                yield f"data: {json.dumps(self._news())}\n\n"
        finally:
            self._pages.discard(news)

    def _news(self) -> dict[str, object]:
        return {"versions": [run.version for run in self._watched.runs], "loading": self._watched.loading}

    async def _read(self) -> None:
        """Read until no page is open."""
        while self._pages:
            if await run_in_threadpool(self._watched.refresh):
                for page in self._pages:
                    page.set()
            await asyncio.sleep(CATCHING_UP_S if self._watched.loading else REFRESH_S)
