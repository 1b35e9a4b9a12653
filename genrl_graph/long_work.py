"""Announcements of work that may take seconds, such as loading a model; the runner displays them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Show = Callable[[str], AbstractContextManager[None]]
"""A function that displays a description of work while the returned context is open."""

_show: ContextVar[Show] = ContextVar("show", default=lambda description: nullcontext())


def long_work(description: str) -> AbstractContextManager[None]:
    """Announce work, such as "loading policy", while the context is open; without a display nothing is shown."""
    return _show.get()(description)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Display the long work that this thread announces while the context is open with `show`."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)
