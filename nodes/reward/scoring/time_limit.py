"""End a call in the main thread that takes too long, also where Python drops the exception of an alarm."""

import signal
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_AGAIN_S = 1.0


class TimedOut(Exception):
    """A call that reached its time limit."""


class _Alarm(BaseException):
    """Ends the call: sympy and math-verify catch every Exception."""


def call_within(limit_s: float | None, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call a function; raise `TimedOut` if it takes `limit_s` seconds (None is no limit).

    What the handler of a signal raises in a callback of the garbage collector is dropped, so SIGALRM comes again every
    second until the call has ended. Raises ValueError outside the main thread, where no handler can be set.
    """
    if limit_s is None:
        return function(*arguments, **keywords)
    is_called = True

    def interrupt(_signum: int, _frame: Any) -> None:
        signal.setitimer(
            signal.ITIMER_REAL, _AGAIN_S
        )  # from now on, so that the next one finds no exception on its way
        if is_called:
            raise _Alarm

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            return function(*arguments, **keywords)
        finally:
            is_called = False
    except _Alarm:
        is_called = False
        raise TimedOut from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
