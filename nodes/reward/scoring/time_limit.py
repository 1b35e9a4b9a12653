"""End work in the main thread that takes too long, also where Python drops an exception of an alarm."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AGAIN_S = 0.1


class TimedOut(Exception):
    """Work that reached its time limit."""


class _Alarm(BaseException):
    """Ends the work: sympy and math-verify catch every Exception."""


@contextmanager
def time_limit(limit_s: float | None) -> Iterator[None]:
    """Raise `TimedOut` if the block takes `limit_s` seconds; None is no limit.

    What the handler of a signal raises in a callback of the garbage collector is dropped, so SIGALRM comes again until
    the block is left. Raises ValueError outside the main thread, where no handler can be set.
    """
    if limit_s is None:
        yield
        return
    is_inside = True

    def interrupt(_signum: int, _frame: Any) -> None:
        if is_inside:
            raise _Alarm

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
        try:
            yield
        finally:
            is_inside = False
    except _Alarm:
        raise TimedOut from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
