"""Back-off: peers that sent refused payloads are ignored for a growing number of rounds."""

from dataclasses import dataclass

MOST_LEVEL = 7  # 64 rounds out
MOST_PEERS = 4096


@dataclass(slots=True)
class _Record:
    """The state of one peer.

    `round` is the last one judged, `offended` whether it misbehaved in it, `before` its level before that round, and
    `until` the first round in which it is heard again.
    """

    round: int = -1
    offended: bool = False
    before: int = 0
    until: int = 0

    @property
    def level(self) -> int:
        return min(self.before + 1, MOST_LEVEL) if self.offended else max(self.before - 1, 0)


class Backoff:
    """Exponential back-off of peers: 1, 2, 4 ... 64 rounds after each round in which one misbehaved.

    Each round in which it is heard and behaves lowers the level by one. Only rounds count, not time, so peers that
    received the same packets decide alike. The 4096 peers judged most recently are remembered.
    """

    def __init__(self) -> None:
        self.offences: dict[str, int] = {}
        self._records: dict[str, _Record] = {}

    def note(self, peer: str, *, round: int, misbehaved: bool) -> None:
        """Record whether a packet of a peer misbehaved; of several in a round, the worst counts."""
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
        """Return whether the peer is ignored in this round."""
        return round < self.until(peer)

    def until(self, peer: str) -> int:
        """Return the first round in which the peer is heard again; 0 if it was never ignored."""
        record = self._records.get(peer)
        return 0 if record is None else record.until
