"""One run as the page shows it: opened once, then read by what it gains."""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genrl_graph.comparison.history import is_outcome
from genrl_graph.errors import GenrlGraphError, StoreError
from genrl_graph.records.stored_run import StoredRun, open_run, writer_of
from genrl_graph.store.journal_tail import CommittedStep, JournalTail
from genrl_graph.store.metrics_file import METRICS
from genrl_graph.store.notes_file import FAILED, NOTES, Note, Waiting, read_notes, waiting_of
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.store.run_folder import GRAPH, JOURNAL, LOCK, inner_folders
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.strict_json import parse_object
from genrl_graph.view.progress import Order, Progress
from genrl_graph.view.run_metrics import RunMetrics

MOST_NOTES = 200
"""The newest notes of a run that the page shows."""
WATCHED_FILES = (METRICS, NOTES, GRAPH, LOCK)
LOOK_EVERY_S = 2.0
"""Seconds after which a run is read although none of its files has changed."""
FOLDERS_EVERY_S = 5.0
"""Seconds between looks for peers that joined, each in a folder of its own."""

Stamps = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RunName:
    """The names of a run on the page: its folder, the setting that it belongs to, and its seed."""

    folder: Path
    setting: str
    seed: int


class WatchedRun:
    """A run that is read as it grows; each call of `refresh` reads what is new, and no call reads all of it.

    Calls from several threads wait for each other. Raises `StoreError` where the folder holds no run.
    """

    def __init__(self, name: RunName) -> None:
        self.names = name
        self.lock = threading.RLock()
        self.stored: StoredRun = open_run(name.folder)
        self.metrics = RunMetrics(self.stored.folders)
        self.order = Order.of(self.stored.graph, self.stored.problems)
        self.progress = Progress()
        self.problem = ""  # why the run could not be read further
        self.version = 0
        self.loading = True
        self._tails: dict[Path, JournalTail] = {}
        self._notes: dict[Path, tuple[tuple[int, int], list[Note]]] = {}
        self._free: dict[Path, tuple[int, int]] = {}  # the lock files that no process held, as they were then
        self._status: tuple[str, list[int]] = ("", [])
        self._written_now: set[Path] = set()  # the folders that a process writes
        self._looked = time.monotonic()
        self._graph = _stamp(self.stored.folders[0], GRAPH)
        self._stamps: list[Stamps] = []
        self._read_at = 0.0
        self._state: tuple[int, dict[str, Any]] = (-1, {})
        self._first: tuple[int, list[str]] = (-1, [])  # the metrics that are shown first, and of how many

    @cached_property
    def title(self) -> str:
        """The name of the folder, and that of its sweep if it is in one."""
        return self.stored.name

    @property
    def latest_round(self) -> int:
        """The last round of which a step is known."""
        return max((peer.round for peer in self.progress.peers.values()), default=0)

    @property
    def rests(self) -> bool:
        """Tell that nobody writes the run, and all of it is read."""
        return not self.loading and self._status[0] not in ("", "running")

    def refresh(self) -> bool:
        """Read what the run has gained, a bounded part of it; returns whether anything changed.

        Where no file has changed, nothing is read; but a writer may have been killed, so now and then all is looked at.
        """
        with self.lock:
            stamps = [self._stamps_of(folder) for folder in self.stored.folders]
            if stamps == self._stamps and not self.loading and time.monotonic() - self._read_at < LOOK_EVERY_S:
                return False
            self._stamps, self._read_at = stamps, time.monotonic()
            try:
                changed, problem = self._read(), ""
            except GenrlGraphError as error:  # a damaged run stays on the page, with the reason
                changed, problem, self.loading = False, str(error), False
            changed |= problem != self.problem
            self.problem = problem
            self.version += changed
            return changed

    def read_all(self) -> None:
        """Read all that the run has; raises `StoreError` where it cannot be read."""
        self.refresh()
        while self.loading:
            self.refresh()
        if self.problem:
            raise StoreError(self.problem)

    def state(self) -> dict[str, Any]:
        """Return the state of the run as it was last read, as plain values, which are shared: change none."""
        with self.lock:
            if self._state[0] != self.version:
                self._state = (self.version, self._new_state())
            return self._state[1]

    def _new_state(self) -> dict[str, Any]:
        (state, writers), notes, config = self._status, self.notes(), self.stored.graph.run
        failed = self._failed_node(notes) if state == "failed" else ""
        waiting = _latest_waiting(notes, self.progress.latest) if state == "running" else None
        running = self._running()
        nodes = self.progress.nodes(self.order, running=running, failed=failed, waiting=waiting)
        for name, shown in nodes.items():
            shown["numbers"] = self.metrics.of_node(name)
        return {
            "state": state,
            "writers": writers,
            "problem": self.problem,
            "loading": self.loading,
            "rounds": 0 if config.mode == "evaluate" else config.rounds,
            "played": self._played,
            "changed": max((_written(folder) for folder in self.stored.folders), default=0.0),
            "nodes": nodes,
            "peers": self._peers(running),
            "accounts": self.metrics.accounts(),
            "shares": self.metrics.shares(),
            "outcomes": self._outcomes(),
            "metrics": len(self.metrics.curves),
            "notes": [{"time": note.time, "text": note.text} for note in notes],
        }

    def notes(self) -> list[Note]:
        """Return the newest notes of all folders, oldest first."""
        notes = [note for _, known in self._notes.values() for note in known]
        if self.metrics.curves.dropped:
            notes.append(Note(0.0, "the run has more metrics than this page keeps; the others are left out"))
        return sorted(notes, key=lambda note: note.time)[-MOST_NOTES:]

    def _read(self) -> bool:
        changed = self._look_again()
        lines, self.loading = self.metrics.read()
        for folder in self.stored.folders:
            changed |= self._follow(folder)
            changed |= self._read_notes(folder)
        self.progress.reported(self.metrics.rounds, self.order)
        before = self._status, self._written_now
        self._status = self._status_now()
        return changed or lines > 0 or before != (self._status, self._written_now)

    def _follow(self, folder: Path) -> bool:
        """Read the steps that a folder gained; the first time, the last ones that it has, wherever they are."""
        journal = RunPath(folder) / JOURNAL
        if (tail := self._tails.get(folder)) is None:
            tail = self._tails[folder] = JournalTail(journal)
            tail.steps()
            return self.progress.take(_last_steps(folder, 2 * len(self.order.nodes) * 8), _written(folder))
        return self.progress.take(tail.steps())

    def _read_notes(self, folder: Path) -> bool:
        stamp = _stamp(folder, NOTES)
        if stamp == self._notes.get(folder, ((0, 0), []))[0]:
            return False
        self._notes[folder] = (stamp, read_notes(folder)[-MOST_NOTES:])
        return True

    def _look_again(self) -> bool:
        """Open the run again where it was resumed with other options, or where the folder of a peer has appeared."""
        if (stamp := _stamp(self.stored.folders[0], GRAPH)) == self._graph and not self._has_more_peers():
            return False
        self._graph = stamp
        self.stored = open_run(self.names.folder)
        self.metrics.folders = self.stored.folders
        return True

    def _has_more_peers(self) -> bool:
        now, known = time.monotonic(), self.stored.folders
        if known == [self.names.folder] or now - self._looked < FOLDERS_EVERY_S:
            return False
        self._looked = now
        return len(inner_folders(self.names.folder)) != len(known) and run_folders(self.names.folder) != known

    @property
    def _played(self) -> int:
        """The number of rounds that metrics report."""
        return max(self.metrics.rounds.values(), default=-1) + 1

    def _status_now(self) -> tuple[str, list[int]]:
        """Return running, finished, failed or stopped, and the ids of the processes that write."""
        written = {folder: pid for folder in self.stored.folders if (pid := self._writer(folder)) is not None}
        self._written_now = set(written)
        if written:
            return "running", list(dict.fromkeys(written.values()))
        config = self.stored.graph.run
        if self._played >= (0 if config.mode == "evaluate" else config.rounds):
            return "finished", []
        notes = self.notes()
        return ("failed" if notes and notes[-1].text.startswith(FAILED) else "stopped"), []

    def _stamps_of(self, folder: Path) -> "Stamps":
        try:
            tail = self._tails.get(folder)
            return RunPath(folder).stamps(WATCHED_FILES) + (tail.stamps() if tail is not None else ())
        except (OSError, StoreError):
            return ()  # `_read` tells why

    def _writer(self, folder: Path) -> int | None:
        """Return the process that writes a folder.

        To ask takes the lock for a moment where no process has it, so a free lock is asked again once its file changes.
        """
        stamp = _stamp(folder, LOCK)
        if self._free.get(folder) == stamp:
            return None
        if (pid := writer_of(folder)) is None:
            self._free[folder] = stamp
        return pid

    def _failed_node(self, notes: Sequence[Note]) -> str:
        words = notes[-1].text.removeprefix(FAILED).split(maxsplit=1)[0] if notes else ""
        name = words.strip(":(").removeprefix("nodes.")
        return name if name in self.order.nodes else ""

    def _outcomes(self) -> list[str]:
        """List the metrics that the page shows first: results of stages and evaluations."""
        if self._first[0] != len(curves := self.metrics.curves):
            nodes = self.stored.graph.nodes.items()
            rewards = {name for name, part in nodes if part.type_name.startswith("reward.")}
            self._first = len(curves), sorted(name for name in curves if is_outcome(name, rewards))
        return self._first[1]

    def _running(self) -> set[str]:
        """Return the peers that a process plays; where each peer has a folder of its own, some may be dead."""
        if len(self.stored.folders) == 1:
            return set(self.progress.peers) if self._written_now else set()
        return {folder.name for folder in self._written_now}

    def _peers(self, running: Collection[str]) -> list[dict[str, Any]]:
        peers = []
        for name, progress in sorted(self.progress.peers.items()):
            current = progress.current(self.order) if name in running else []
            doing = progress.evaluating or ", ".join(current) if name in running else "stopped" if running else ""
            peers.append(
                {"name": name, "round": progress.round, "doing": doing, "since": progress.since}
                | {"done": len(progress.done), "of": len(self.order.nodes), "missing": dict(progress.missing)}
            )
        return peers


def _last_steps(folder: Path, count: int) -> list[CommittedStep]:
    table = RunStore.open(folder).last_steps(max(count, 64))
    columns: Mapping[str, list[Any]] = table.select(["round", "node", "holder", "facts"]).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [CommittedStep(round, node, holder, parse_object(facts, folder)) for round, node, holder, facts in rows]


def _latest_waiting(notes: Sequence[Note], committed: float) -> tuple[Waiting, float] | None:
    """Return the last note if it is of waiting and no step was committed later, and when the waiting began."""
    if not notes or notes[-1].time < committed or (waiting := waiting_of(notes[-1].text)) is None:
        return None
    return waiting, notes[-1].time - waiting.spent_s


def _stamp(folder: Path, name: str) -> tuple[int, int]:
    try:
        status = (RunPath(folder) / name).status()
    except (FileNotFoundError, StoreError):
        return (0, 0)
    return status.st_size, status.st_mtime_ns


def _written(folder: Path) -> float:
    """Return when a run folder was last written, in seconds since 1970."""
    journal, root = RunPath(folder) / JOURNAL, RunPath(folder)
    paths = [root / METRICS, root / GRAPH]
    if journal.is_folder():
        paths += [journal / name for name in journal.listing()[-2:]]
    times = []
    for path in paths:
        try:
            times.append(path.status().st_mtime)
        except (FileNotFoundError, NotADirectoryError, OSError):
            continue
    return max(times, default=0.0)
