"""An asyncio event loop in its own thread: plain asyncio, since uvloop breaks hivemind's pipes."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
END_S = 5.0  # wait for cancelled tasks; one that never ends must not keep the process alive


class LoopThread:
    """An event loop in its own thread, which runs coroutines for other threads until it is closed."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.loop.set_exception_handler(_tell)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it."""
        if self.loop.is_closed():
            coroutine.close()
            raise RuntimeError("the loop is closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; interrupting the wait cancels it."""
        assert threading.current_thread() is not self._thread, "the loop would wait for itself"
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel the running tasks and end the thread."""
        if self.loop.is_closed():
            return
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task takes, unless it is that of a stream that ended before its first message.

    hivemind reads that message in a callback of the server, where the end of a stream is an error of nobody.
    """
    ended = isinstance(context.get("exception"), asyncio.IncompleteReadError | ConnectionError)
    if not (ended and "transport" in context):
        loop.default_exception_handler(context)
