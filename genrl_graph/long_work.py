"""Work that may take seconds, such as loading a model: announced where it is done, shown by the runner."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Show = Callable[[str], AbstractContextManager[None]]
"""Shows a description of work for as long as its context is open."""

_show: ContextVar[Show] = ContextVar("show", default=lambda what: nullcontext())


def long_work(what: str) -> AbstractContextManager[None]:
    """Announce work, such as "loading policy", for as long as the context is open; nobody need listen."""
    return _show.get()(what)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Let `show` show the long work that this thread does while the context is open."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)
