"""Messages from nodes and policies to the user: single lines, and work that takes seconds, such as loading a model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Show = Callable[[str], AbstractContextManager[None]]
"""A function that displays a description of work while the returned context is open."""

Tell = Callable[[str], None]
"""A function that displays one line."""

_tell: ContextVar[Tell] = ContextVar("tell", default=lambda line: None)
_show: ContextVar[Show] = ContextVar("show", default=lambda description: nullcontext())


def long_work(description: str) -> AbstractContextManager[None]:
    """Announce work, such as "loading policy", while the context is open; without a display nothing is shown."""
    return _show.get()(description)


def tell(line: str) -> None:
    """Tell the user one line; without a display nothing is shown."""
    _tell.get()(line)


@contextmanager
def displaying(show: Show) -> Iterator[None]:
    """Display the long work of this thread while the context is open."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """Display the lines of this thread while the context is open."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)
