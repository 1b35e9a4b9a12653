"""Back-off: peers that sent refused payloads, came late or took all of their time are left out for some rounds."""

from dataclasses import dataclass

MOST_LEVEL = 7  # 64 rounds out
MOST_PEERS = 4096
PROBATION = 16  # rounds in a row without an offence, after which a peer is waited for again


@dataclass(slots=True)
class _Record:
    """The state of one peer.

    `round` is the last one judged, `offended` whether it offended in it, `before` its level before that round, `until`
    the first round in which it is heard again, and `served` the rounds served since its last offence.
    """

    round: int = -1
    offended: bool = False
    before: int = 0
    until: int = 0
    served: int = 0

    @property
    def level(self) -> int:
        return min(self.before + 1, MOST_LEVEL) if self.offended else max(self.before - 1, 0)

    def judge(self, round: int) -> bool:
        """Begin a later round; returns whether this is the first event of the round."""
        is_new = self.round < round
        if is_new:
            self.before, self.round, self.offended = self.level, round, False
        return is_new


class Backoff:
    """Exponential back-off of peers: 1, 2, 4 ... 64 rounds after each round with an offence, lateness included.

    Each round in which a peer delivers good rows in time lowers the level by one; nothing else does. A peer that has
    offended is not waited for until it has served `PROBATION` rounds in a row. Only rounds count, not time, so peers
    that received the same packets decide alike. The 4096 peers that offended most recently are remembered, by key.
    """

    def __init__(self) -> None:
        self.offences: dict[str, int] = {}
        self._records: dict[str, _Record] = {}

    def offend(self, peer: str, *, round: int) -> None:
        """Record an offence; of several in a round, one counts."""
        record = self._records.pop(peer, None) or _Record()
        self._records[peer] = record
        record.judge(round)
        if record.offended:
            return
        record.offended, record.served = True, 0
        record.until = round + 1 + 2 ** (record.level - 1)
        self.offences[peer] = self.offences.get(peer, 0) + 1
        while len(self._records) > MOST_PEERS:
            forgotten = next(iter(self._records))
            del self._records[forgotten]
            self.offences.pop(forgotten, None)

    def serve(self, peer: str, *, round: int) -> None:
        """Record that a peer delivered good rows in time."""
        record = self._records.get(peer)
        if record is not None and record.judge(round):
            record.served += 1
            if record.served >= PROBATION and record.level == 0:
                del self._records[peer]

    def is_out(self, peer: str, *, round: int) -> bool:
        """Return whether the peer is ignored in this round."""
        return round < self.until(peer)

    def is_awaited(self, peer: str) -> bool:
        """Return whether an exchange waits for the peer; without that, its rows are taken if they come meanwhile."""
        return peer not in self._records

    def until(self, peer: str) -> int:
        """Return the first round in which the peer is heard again; 0 if it was never ignored."""
        record = self._records.get(peer)
        return 0 if record is None else record.until
