"""Optional coordination on a smart contract: a client of any deployed version, wallets, chains, the sender."""

import sys
from contextlib import suppress

# These raise the limit of recursion to 100,000 calls, once, when they are imported. Under it, input that is nested too
# deep ends a process by a segmentation fault instead of a `RecursionError`, which becomes one line.
_LIMIT = sys.getrecursionlimit()
with suppress(ImportError):  # what needs the extra says so itself
    import eth  # noqa: F401
    import py_ecc  # noqa: F401
sys.setrecursionlimit(_LIMIT)
