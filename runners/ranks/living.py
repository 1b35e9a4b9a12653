"""Ranks of a group that are there: each counts in the store of the job, so that the others can name one that died."""

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT_S = 0.25
SILENT_S = 2.0
"""Seconds without a count after which a rank is gone: torchrun ends the other ranks as soon as one dies, and those
have `signals.GRACE_S` to say who it was."""


class LivingRanks:
    """Counts on behalf of this rank in a thread of its own, and compares the counts of the others over some seconds."""

    def __init__(self, store: "Store", peer: str, *, first: int, count: int) -> None:
        self._store, self._peer, self._first, self._count = store, peer, first, count
        self._rank = int(os.environ["RANK"])
        store.set(f"at/{self._rank}", f"process {os.getpid()} on {socket.gethostname()}")
        store.set(f"beat/{self._rank}", "0")
        threading.Thread(target=self._beat, name="beats", daemon=True).start()

    def lost(self) -> str:
        """Name the ranks of the group that no longer count, as the start of an error."""
        try:
            before = self._beats()
            time.sleep(SILENT_S)
            gone = [rank for rank, count in self._beats().items() if count == before[rank] and rank != self._rank]
            named = [f"rank {rank} ({self._store.get(f'at/{rank}').decode()})" for rank in gone]
        except RuntimeError:  # the store is gone with the process that has it
            named = []
        who = ", ".join(named) or "a rank"
        return f"{self._peer}: {who} of its {self._count} ranks is gone"

    def _beats(self) -> dict[int, bytes]:
        ranks = range(self._first, self._first + self._count)
        return {rank: self._store.get(f"beat/{rank}") for rank in ranks}

    def _beat(self) -> None:
        count = 0
        while True:
            time.sleep(BEAT_S)
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
            except RuntimeError:  # the job has ended
                return
