"""Which peers are not heard for a while because of what they sent."""

from dataclasses import dataclass

MOST_LEVEL = 7  # 64 rounds out
MOST_PEERS = 4096


@dataclass(slots=True)
class _Record:
    """How a peer stands: the round judged last, whether it offended in it, its level before and the end of its time."""

    round: int = -1
    offended: bool = False
    before: int = 0
    until: int = 0

    @property
    def level(self) -> int:
        return min(self.before + 1, MOST_LEVEL) if self.offended else max(self.before - 1, 0)


class Backoff:
    """Leaves a peer out for 1, 2, 4 ... 64 rounds after each round in which it misbehaved.

    Every round in which it is heard and does not takes one step back. Only rounds count, no clock, so peers that saw
    the same judge alike. The peers that were judged last are remembered, 4096 of them.
    """

    def __init__(self) -> None:
        self.offences: dict[str, int] = {}
        self._records: dict[str, _Record] = {}

    def note(self, peer: str, *, round: int, misbehaved: bool) -> None:
        """What came of one packet; of several in a round the worst counts."""
        record = self._records.pop(peer, None) or _Record()
        self._records[peer] = record
        if record.round < round:
            record.before, record.round, record.offended = record.level, round, False
        if misbehaved and not record.offended:
            record.offended = True
            record.until = round + 1 + 2 ** (record.level - 1)
            self.offences[peer] = self.offences.get(peer, 0) + 1
        while len(self._records) > MOST_PEERS:
            forgotten = next(iter(self._records))
            del self._records[forgotten]
            self.offences.pop(forgotten, None)

    def is_out(self, peer: str, *, round: int) -> bool:
        """Whether the peer is not heard in this round."""
        return round < self.until(peer)

    def until(self, peer: str) -> int:
        """The first round in which the peer is heard again; 0 for one that never was left out."""
        record = self._records.get(peer)
        return 0 if record is None else record.until
