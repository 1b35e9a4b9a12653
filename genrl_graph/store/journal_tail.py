"""Follow the journal of a run by the headers of its records: which steps were committed, without reading their rows."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed
from genrl_graph.store.journal import check_origin, segment_path, segments
from genrl_graph.store.journal_format import HEAD_BYTES, claimed_span, refuse_newer
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import parse_object

MAX_HEADER_BYTES = 4 * 2**20
MOST_RECORDS = 10_000
"""The most records of one call; the next call goes on after them."""


@dataclass(frozen=True, slots=True)
class CommittedStep:
    """A committed step: its round, node and holder, and the facts that it journaled."""

    round: int
    node: str
    holder: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class JournalTail:
    """Reads the headers of the records that a journal gains, from where the last call stopped.

    Rows are skipped and their hashes are not checked: this tells where a run stands, `entries` reads what it stored.
    """

    def __init__(self, folder: RunPath) -> None:
        self._folder = folder
        self._segment, self._offset = -1, 0

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Return what changes with every commit: size and time of the folder, and of the segment that was read last."""
        folder = self._folder.parent.stamps([self._folder.name])
        if self._segment < 0 or folder == ((0, 0),):
            return folder
        return (*folder, *self._folder.stamps([segment_path(self._folder, self._segment).name]))

    def steps(self) -> list[CommittedStep]:
        """Return the steps of the commits that are whole and new; raises `StoreError` for what no run writes."""
        steps: list[CommittedStep] = []
        try:
            for first in segments(self._folder):
                if first < self._segment:
                    continue
                if first > self._segment:
                    self._segment, self._offset = first, 0
                steps += self._steps_of(segment_path(self._folder, first), MOST_RECORDS - len(steps))
        except FileNotFoundError:  # the writer has moved a segment to the arrays meanwhile
            pass
        except OSError as error:
            raise failed(self._folder.path, "read", error) from error
        return steps

    def _steps_of(self, path: RunPath, limit: int) -> Iterator[CommittedStep]:
        """Yield the steps of a segment's whole commits after the offset, which moves behind them."""
        with os.fdopen(path.open(os.O_RDONLY), "rb") as file:
            size, at, commit = os.fstat(file.fileno()).st_size, self._offset, list[CommittedStep]()
            while limit > 0:
                file.seek(at)
                head = file.read(HEAD_BYTES)
                refuse_newer(head, path)
                span = claimed_span(head, at)
                if span is None or span.end > size:
                    return  # not whole yet, or torn: a resumed run removes it
                header_bytes = min(span.body - span.header, MAX_HEADER_BYTES + 1)
                commit.append(_step(file.read(header_bytes), f"{path}: byte {at}"))
                at = span.end
                if span.index + 1 == span.count:
                    yield from commit
                    self._offset, limit, commit = at, limit - span.count, []


def _step(header: bytes, where: str) -> CommittedStep:
    if len(header) > MAX_HEADER_BYTES:
        raise StoreError(f"{where}: a header of more than {MAX_HEADER_BYTES} bytes; restore the file from a copy")
    values = parse_object(header, where)
    check_origin(values.get("round"), values.get("node"), values.get("holder"), where)
    facts = values.get("facts")
    return CommittedStep(values["round"], values["node"], values["holder"], facts if isinstance(facts, dict) else {})
