"""Pass on what worker processes write to stderr: escaped, and no more than a reader can use."""

import codecs
import sys
import time

from genrl_graph.messages import escaped

BURST_BYTES = 2**20
"""Bytes of stderr that a worker may write at once."""
BYTES_PER_S = 2**16
"""Bytes of stderr that a worker may write per second from then on."""


class EchoedOutput:
    """The stderr of a worker and its successors, written to that of this process.

    Control characters are escaped, so that output cannot act on the terminal. A worker that writes more than
    `BURST_BYTES` has `BYTES_PER_S` bytes a second left; the rest is dropped, and one line says so.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._left, self._since = float(BURST_BYTES), time.monotonic()
        self._is_dropping = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, chunk: bytes) -> None:
        """Pass on as much of a chunk as the worker may still write."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._since) * BYTES_PER_S, BURST_BYTES)
        self._since = now
        passed = chunk[: int(self._left)]
        self._left -= len(passed)
        if sys.stderr is None:
            return
        sys.stderr.write(escaped(self._decoder.decode(passed)))
        if len(passed) < len(chunk) and not self._is_dropping:
            text = (
                f"\n{self._worker}: writes too much to stderr; what exceeds {BYTES_PER_S} bytes a second is left out\n"
            )
            sys.stderr.write(text)
        self._is_dropping = len(passed) < len(chunk)
