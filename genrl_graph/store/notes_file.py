"""The notes of a run, notes.jsonl: lines of trouble that it told while it played, each with its time.

They are for people who look at the run: nothing is computed from them, and a disk that refuses them ends no run.
"""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import write_all
from genrl_graph.store.run_folder import GRAPH
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import parse_json

NOTES = "notes.jsonl"
MAX_FILE_BYTES = 4 * 2**20
"""The size from which on a run adds no more notes, and readers read none."""
MAX_TEXT = 2000
FAILED = "failed: "
"""The opening of the note with which a run ends that failed."""
_WAITING = re.compile(r"([^:]{1,240}): waiting for (.*) \(([0-9]{1,9}) of ([0-9.e+]{1,12}) s\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Note:
    """A line that a run told, and when, in seconds since 1970."""

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom an exchange waits for, and since how many of its seconds."""

    node: str
    whom: str
    spent_s: float
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.node}: waiting for {self.whom} ({self.spent_s:.0f} of {self.timeout_s:g} s)"


def waiting_of(text: str) -> Waiting | None:
    """Return what a note says of waiting, None for any other note."""
    match = _WAITING.fullmatch(text)
    return None if match is None else Waiting(match[1], match[2], float(match[3]), float(match[4]))


def add_note(folder: Path, text: str) -> None:
    """Append a note to a run that has a graph.yaml; do nothing where that is not possible."""
    root = RunPath(folder)
    with suppress(OSError, StoreError):
        if not (root / GRAPH).exists():
            return
        handle = (root / NOTES).open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if os.fstat(handle).st_size < MAX_FILE_BYTES:
                write_all(handle, json.dumps({"time": time.time(), "text": text[:MAX_TEXT]}).encode() + b"\n")
        finally:
            os.close(handle)


def read_notes(folder: Path) -> list[Note]:
    """Return the notes of a run folder, oldest first; lines that no run writes are left out."""
    try:
        data = (RunPath(folder) / NOTES).read(MAX_FILE_BYTES + 4 * MAX_TEXT)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder / NOTES}: {error.strerror or error}; it cannot be read") from error
    notes = []
    for line in data.splitlines():
        with suppress(StoreError):
            value = parse_json(line, NOTES)
            if isinstance(value, dict) and isinstance(value.get("text"), str) and _is_time(value.get("time")):
                notes.append(Note(float(value["time"]), value["text"][:MAX_TEXT]))
    return notes


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**40
