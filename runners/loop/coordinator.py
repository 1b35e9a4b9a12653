"""The coordinator as a run sees it: it knows the swarm's round, and takes what coordinate nodes submit. Here: none."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from genrl_graph.store.journal import Record
from genrl_graph.store.outbox import SUBMISSIONS
from genrl_graph.store.run_store import RunStore

PeerIds = Callable[[str], str | None]
"""Returns the id under which the runner knows a peer, by its name; None where it gives peers no ids."""


class Coordinator(Protocol):
    """A service outside the run. Training never waits for it: what is submitted is sent in the background."""

    def bootnodes(self) -> Sequence[str]:
        """Return the addresses at which the swarm can be joined."""

    def open(self, store: RunStore, home: Path, *, names: Sequence[str], peer_ids: PeerIds) -> None:
        """Begin to send what the peers `names` of this process submit, and what a previous run left to send."""

    def begin(self, round: int) -> None:
        """Raise `PeerBehind` where a new run should start at a later round than this one."""

    def committed(self, records: Sequence[Record]) -> None:
        """Take the submissions of records that are on the disk; returns at once."""

    def metrics(self) -> Mapping[str, float]:
        """Return metrics for the round that ended."""

    def close(self, *, failed: bool) -> None:
        """Send what is pending, for a limited time unless the run `failed`, and say what stays pending."""


class NoCoordinator:
    """Takes nothing, and says so once if a node submits something."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = False

    def bootnodes(self) -> Sequence[str]:
        """Return no address."""
        return ()

    def open(self, store: RunStore, home: Path, *, names: Sequence[str], peer_ids: PeerIds) -> None:
        """Do nothing."""

    def begin(self, round: int) -> None:
        """Do nothing."""

    def committed(self, records: Sequence[Record]) -> None:
        """Say once that what nodes submit goes nowhere."""
        nodes = dict.fromkeys(record.node for record in records if SUBMISSIONS in record.facts)
        if nodes and not self._told:
            self._told = True
            self._tell(f"{', '.join(nodes)}: no coordinator, so nothing is submitted; name one with --coordinator")

    def metrics(self) -> Mapping[str, float]:
        """Return nothing."""
        return {}

    def close(self, *, failed: bool) -> None:
        """Do nothing."""
