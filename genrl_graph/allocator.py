"""Return memory that the C library's allocator has freed but kept to the operating system."""

import ctypes
import sys
import time
from typing import Any

SELDOM_S = 1.0
"""Shortest time in seconds between two trims with `seldom`: a trim takes milliseconds."""


def of_libc(name: str) -> Any:
    """Return a function of the C library, or None if the library lacks it (only Linux is looked at)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


_TRIM = of_libc("malloc_trim")
_last = 0.0


def release_memory(*, seldom: bool = False) -> None:
    """Return the free memory of the heap to the operating system with malloc_trim(3), if the C library has it.

    A trim takes milliseconds. It also returns the holes of a fragmented heap, into which later allocations may not
    fit. With `seldom`, skip the trim if the last one was less than a second ago.
    """
    global _last
    if _TRIM is not None and not (seldom and time.monotonic() < _last + SELDOM_S):
        _TRIM(0)
        _last = time.monotonic()
