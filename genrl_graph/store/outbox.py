"""The outbox of a run: what its steps submit to a coordinator, and what became of it; a journal of its own.

A submission is committed with the step that made it, as a fact of its record. The outbox takes it from there, so a
crash between the two loses nothing: the next session takes what is missing. Each change is on disk before anything
depends on it: a signed transaction before it is sent, a result before it is forgotten.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrl_graph.errors import StoreError
from genrl_graph.store.journal import Journal, Record, entries
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import RESTORE

OUTBOX = "outbox"
SUBMISSIONS = "submissions"
"""The fact of a step with what it submits: a list of JSON objects, each with a `call`."""

State = Literal["pending", "sent", "done", "dropped"]
_STATES = ("pending", "sent", "done", "dropped")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed transaction, as hexadecimal text: it can be sent again, and is counted once by its nonce."""

    nonce: int
    hash: str
    raw: str
    tip: int


@dataclass(slots=True)
class Entry:
    """A submission of a step: of which round, node and holder, its number there, its state and the reason for it."""

    round: int
    node: str
    holder: str
    number: int
    submission: Mapping[str, Any]
    state: State = "pending"
    reason: str = ""
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The key under which the entry is queued once."""
        return f"{self.holder}/{self.round}/{self.node}/{self.number}"

    @property
    def call(self) -> str:
        """The name of what is submitted."""
        return str(self.submission.get("call", ""))

    @property
    def is_open(self) -> bool:
        """True where something is left to do."""
        return self.state in ("pending", "sent")


@dataclass(slots=True)
class OutboxState:
    """All entries in order, the chain and contract that they are for (empty before the first), and the last trouble."""

    entries: dict[str, Entry] = field(default_factory=dict)
    bound: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""

    def open_entries(self) -> list[Entry]:
        """Return the entries with something left to do, in the order in which they were queued."""
        return [entry for entry in self.entries.values() if entry.is_open]

    def take(self, record: Record, where: object) -> None:
        """Apply a record of the journal; raises `StoreError` for one that no outbox writes."""
        facts = record.facts
        try:
            if "bound" in facts:
                self.bound = dict(facts["bound"])
            elif "trouble" in facts:
                self.trouble = str(facts["trouble"])
            elif "submission" in facts:
                number, submission = int(facts["number"]), dict(facts["submission"])
                entry = Entry(record.round, record.node, record.holder, number, submission)
                self.entries[entry.key] = entry
            else:
                self._change(self.entries[facts["key"]], facts)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where}: is no record of an outbox ({error!r}); {RESTORE}") from error

    def _change(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        state = facts["state"]
        if state not in _STATES:
            raise ValueError(state)
        entry.state, entry.reason = state, str(facts["reason"])
        if "attempts" in facts:
            entry.attempts = [Attempt(int(n), str(h), str(raw), int(tip)) for n, h, raw, tip in facts["attempts"]]


class Outbox:
    """An outbox that is open for writing, by the process that writes the run; thread-safe."""

    def __init__(self, folder: Path) -> None:
        path = RunPath(folder) / OUTBOX
        path.make_folder()
        self.state = read_outbox(folder)
        self._journal, self._lock = Journal(path), threading.RLock()

    def bind(self, bound: Mapping[str, Any]) -> None:
        """Note the chain and contract that the entries are for; raises `StoreError` where they are for another one."""
        with self._lock:
            if self.state.bound and self.state.bound != dict(bound):
                what = f"{self._journal.folder}: holds submissions for {_shown(self.state.bound)}"
                raise StoreError(f"{what}, not for {_shown(bound)}; name that one, or start a new run")
            if not self.state.bound:
                self._write(Record(0, OUTBOX, OUTBOX, {"bound": dict(bound)}))

    def queue(self, round: int, node: str, holder: str, submissions: Iterable[Mapping[str, Any]]) -> int:
        """Queue what a step submits, unless it is queued already; returns how many were new."""
        with self._lock:
            records = []
            for number, submission in enumerate(submissions):
                if Entry(round, node, holder, number, submission).key not in self.state.entries:
                    facts = {"number": number, "submission": dict(submission)}
                    records.append(Record(round, node, holder, facts))
            if records:
                self._write(*records)
            return len(records)

    def change(self, entry: Entry, state: State, reason: str, attempts: list[Attempt] | None = None) -> None:
        """Change the state of an entry; without `attempts` it keeps those that it has."""
        with self._lock:
            if (entry.state, entry.reason) == (state, reason) and attempts is None:
                return
            facts: dict[str, Any] = {"key": entry.key, "state": state, "reason": reason}
            if attempts is not None:
                facts["attempts"] = [[each.nonce, each.hash, each.raw, each.tip] for each in attempts]
            self._write(Record(entry.round, entry.node, entry.holder, facts))

    def note(self, trouble: str) -> None:
        """Note why nothing can be sent at the moment; "" where it can."""
        with self._lock:
            if self.state.trouble != trouble:
                self._write(Record(0, OUTBOX, OUTBOX, {"trouble": trouble}))

    def open_entries(self) -> list[Entry]:
        """Return the entries with something left to do."""
        with self._lock:
            return self.state.open_entries()

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self._journal.close()

    def _write(self, *records: Record) -> None:
        self._journal.append_many(records)
        for record in records:
            self.state.take(record, self._journal.folder)


def read_outbox(folder: Path) -> OutboxState:
    """Read the outbox of a run folder, also while it is written; an empty one where the run has none."""
    state, path = OutboxState(), RunPath(folder) / OUTBOX
    for entry in entries(path):
        state.take(entry.record, f"{path}: record {entry.position}")
    return state


def submissions_of(facts: Mapping[str, Any], where: object) -> list[Mapping[str, Any]]:
    """Return what a step submits, from its facts; raises `StoreError` for facts that no step writes."""
    values = facts.get(SUBMISSIONS, [])
    if not (isinstance(values, list) and all(isinstance(value, dict) for value in values)):
        raise StoreError(f"{where}: {SUBMISSIONS} is no list of JSON objects; {RESTORE}")
    return values


def pending_line(states: Iterable[OutboxState]) -> str:
    """Return one line on what is not done yet, by reason, and on what was dropped; "" where there is neither."""
    states = list(states)
    return "; ".join(_counts(states))


def _counts(states: list[OutboxState]) -> Iterator[str]:
    for name, chosen in (("pending", ("pending", "sent")), ("dropped", ("dropped",))):
        reasons: dict[str, int] = {}
        for state in states:
            for entry in state.entries.values():
                if entry.state in chosen:
                    reason = entry.reason or (state.trouble if name == "pending" else "") or "not sent yet"
                    reasons[reason] = reasons.get(reason, 0) + 1
        if reasons:
            parts = ", ".join(f"{count}: {reason}" for reason, count in reasons.items())
            yield f"{sum(reasons.values())} {name} ({parts})"


def _shown(bound: Mapping[str, Any]) -> str:
    rounds = f" with game_rounds {bound['game_rounds']}" if "game_rounds" in bound else ""
    return f"contract {bound.get('contract')} on chain {bound.get('chain_id')}{rounds}"
