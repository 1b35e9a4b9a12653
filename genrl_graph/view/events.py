"""Server-sent events: tell open pages what has changed; without an open page nothing is read."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from genrl_graph.errors import ParamError
from genrl_graph.view.page_news import PageNews
from genrl_graph.view.watched import REFRESH_S, Watched

MOST_PAGES = 32
PACE_S = 1.0
"""The least seconds between two events of a page; news after a pause come at once."""
ALIVE_S = 15.0
"""Seconds without news after which a comment keeps the connection open."""
CATCHING_UP_S = 0.02


class Events:
    """Reads the runs while at least one page is open, once for all pages, and wakes them when something has changed."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._pages: set[asyncio.Event] = set()
        self._reader: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raise `ParamError` where too many pages are open."""
        if len(self._pages) >= MOST_PAGES:
            raise ParamError(f"{MOST_PAGES} pages are open already; close some")

    async def stream(self, page: PageNews) -> AsyncIterator[str]:
        """Yield events with what is new for a page: all at once, then what changes."""
        news = asyncio.Event()
        news.set()
        await run_in_threadpool(self._watched.refresh)
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
                yield await run_in_threadpool(_event, page)
                await asyncio.sleep(PACE_S)
        finally:
            self._pages.discard(news)

    async def _read(self) -> None:
        """Read until no page is open."""
        while self._pages:
            if await run_in_threadpool(self._watched.refresh):
                for page in self._pages:
                    page.set()
            await asyncio.sleep(CATCHING_UP_S if self._watched.loading else REFRESH_S)


def _event(page: PageNews) -> str:
    return f"data: {json.dumps(page.next(), allow_nan=False, separators=(',', ':'))}\n\n"
