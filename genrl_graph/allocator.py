"""What the C library's allocator keeps of freed memory, and how it goes back to the system."""

import ctypes
import sys
import time
from typing import Any

SELDOM_S = 1.0
"""Seconds after which what was freed is worth the milliseconds in which it goes back."""


def of_libc(name: str) -> Any:
    """A function of the C library; None where it is another one that has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


_TRIM = of_libc("malloc_trim")
_last = 0.0


def release_memory(*, seldom: bool = False) -> None:
    """Give what the heap has free back to the system, for milliseconds, where the C library can (malloc_trim(3)).

    What is allocated next need not fit into the holes that were left. With `seldom` nothing happens within a second
    of the last time.
    """
    global _last
    if _TRIM is not None and not (seldom and time.monotonic() < _last + SELDOM_S):
        _TRIM(0)
        _last = time.monotonic()
