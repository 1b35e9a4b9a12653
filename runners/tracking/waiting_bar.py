"""A display for long work: a bar on a terminal, a line elsewhere, and nothing for work under two seconds."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

SHOWN_AFTER_S = 2.0


class WaitingBar:
    """Shows work that takes longer than `after_s`; of nested work the innermost.

    On a terminal a bar moves until the work is done, then a line gives its seconds; elsewhere a line names the work.
    """

    def __init__(self, console: Console, *, after_s: float = SHOWN_AFTER_S) -> None:
        self._console, self._after_s = console, after_s
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    @contextmanager
    def show(self, what: str) -> Iterator[None]:
        """Show `what` until the block ends; nested work hides it."""
        started, outer = time.monotonic(), self._bar.task_ids[-1:]
        for task in outer:
            self._bar.update(task, visible=False)
        task = self._bar.add_task(what, total=None)
        timer = threading.Timer(self._after_s, self._appear, (what,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self._bar.remove_task(task)
            if not outer and self._bar.live.is_started:
                self._bar.stop()
            for task in outer:
                self._bar.update(task, visible=True)
        seconds = time.monotonic() - started
        if self._console.is_interactive and seconds >= self._after_s:
            self._console.print(f"{what}: {seconds:.0f} s", markup=False, soft_wrap=True)

    def _appear(self, what: str) -> None:
        if self._console.is_interactive:
            self._bar.start()
        else:
            self._console.print(what, markup=False, soft_wrap=True)
