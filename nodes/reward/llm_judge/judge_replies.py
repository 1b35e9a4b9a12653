"""What a judge wrote: how the verdict is read from it, and how it is kept so that no question is asked twice."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator, ValidationInfo

from genrl_graph.errors import StoreError
from genrl_graph.nodes.reward.scoring.answers import extract_answer
from genrl_graph.nodes.reward.scoring.rows import extract_answers
from genrl_graph.nodes.reward.worker.worker import Failure

PATTERN = (
    r"(?i)\bscore[\s*_`\"]{0,8}[:=][\s*_`\"<\[(]{0,8}"
    r"([-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{1,3})?)(?!\w|[.,][0-9])"
)
"""Finds "Score: 7", "**Score:** 7/10" and the like."""

PATTERN_S = 10.0
SHOWN_CHARACTERS = 80
MEMORY_CHARACTERS = 64 * 2**20
APPLICATION_ID = 0x67676A72  # "ggjr"
SUFFIXES = (".sqlite", ".db")
LOCK_S = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge wrote; `cut` says that it had reached the limit of its tokens."""

    text: str
    cut: bool = False


def read_scores(
    replies: Sequence[Reply], *, pattern: str, scale: tuple[float, float], node: str
) -> list[float | Failure]:
    """The verdict of each reply, mapped linearly from the scale to 0..1; `Failure` where there is none.

    It is group 1 of the last match of `pattern`. Another pattern than `PATTERN` is searched in a worker process,
    since it might backtrack without end.
    """
    texts = {at: reply.text for at, reply in enumerate(replies)}
    if pattern == PATTERN:
        found: dict[int, str | Failure | None] = {at: extract_answer(text, pattern) for at, text in texts.items()}
    else:
        found = extract_answers(texts, pattern, timeout_s=PATTERN_S, node=node)
    return [_score(reply, found[at], scale) for at, reply in enumerate(replies)]


def _score(reply: Reply, written: str | Failure | None, scale: tuple[float, float]) -> float | Failure:
    low, high = scale
    if isinstance(written, Failure):
        return written
    if written is None:
        return Failure(f"no verdict in {_start(reply.text)}")
    try:
        number = float(written)
    except ValueError:
        return Failure(f"the verdict {_start(written)} is no number: {_start(reply.text)}")
    if not low <= number <= high:
        return Failure(f"the verdict {number:g} is not in {low:g} to {high:g}: {_start(reply.text)}")
    if reply.cut and not _is_whole(written, number, reply.text, scale):
        return Failure(f"max_new_tokens cut the judge before its verdict: {_start(reply.text)}")
    return (number - low) / (high - low)


def _is_whole(written: str, number: float, text: str, scale: tuple[float, float]) -> bool:
    """Whether a reply that was cut ends with its verdict: else the judge may only have quoted one by then.

    Nor may a further digit give another number on the scale: "1" may have been going to be "10".
    """
    longer = written.lstrip("+-").isdecimal() and number != 0 and scale[0] <= 10 * number <= scale[1]
    return text.endswith(written) and not longer


def _start(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}...")


class Replies(Protocol):
    """Replies by the key of their request."""

    def get(self, key: str) -> Reply | None: ...

    def put(self, key: str, reply: Reply) -> None: ...


class MemoryReplies:
    """Replies of a run; beyond `characters` in all, the oldest are forgotten."""

    def __init__(self, *, characters: int = MEMORY_CHARACTERS) -> None:
        self._limit, self._held = characters, 0
        self._known: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """The reply, None for one that is not known."""
        return self._known.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        if key in self._known:
            return
        self._known[key] = reply
        self._held += len(key) + len(reply.text)
        while self._held > self._limit:
            oldest = next(iter(self._known))
            self._held -= len(oldest) + len(self._known.pop(oldest).text)


class FileReplies:
    """Replies in a sqlite file, which several processes may share."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def get(self, key: str) -> Reply | None:
        """The reply, None for one that is not known."""
        with _told(self._path):
            row = self._connection.execute("SELECT text, cut FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(row[0], bool(row[1])) if row else None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, on disk at once: it may have cost money."""
        with _told(self._path):
            values = (key, reply.text, reply.cut)
            self._connection.execute("INSERT OR REPLACE INTO replies (key, text, cut) VALUES (?, ?, ?)", values)


@contextmanager
def replies_in(path: Path) -> Iterator[FileReplies]:
    """The replies of a file, made where there is none; raises `StoreError` where it cannot be used."""
    with _told(path):
        # one thread at a time uses it: the node's own, and while that waits the one of the requests
        connection = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    with closing(connection):
        with _told(path):
            _refuse_another(connection, path)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, cut INTEGER NOT NULL)"
            )
        yield FileReplies(connection, path)


def _refuse_another(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` for a data base that is somebody else's: nothing is written into it."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if kind != APPLICATION_ID and (kind or tables):
        raise StoreError(f"{path}: no cache of replies, but another data base; name a file of its own")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: no cache of replies: {error}; name another file, or remove it") from error


def _beside_graph(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder") or Path.cwd()
    if Path(value).suffix not in SUFFIXES:
        raise ValueError(f"{value!r} does not end in {' or '.join(SUFFIXES)}")
    return str((folder / Path(value).expanduser()).resolve())


CachePath = Annotated[str, AfterValidator(_beside_graph)]
"""A file that is made where there is none; relative to the graph file, in Python to the working folder."""
