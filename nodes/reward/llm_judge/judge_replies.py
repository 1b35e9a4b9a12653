"""Replies of a judge: read the score in them, and cache them so that no question is asked twice."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator, ValidationInfo

from genrl_graph.errors import StoreError
from genrl_graph.nodes.endpoint.client import Reply
from genrl_graph.nodes.reward.scoring.answers import extract_answer
from genrl_graph.nodes.reward.scoring.rows import extract_answers
from genrl_graph.nodes.worker.worker import Failure

PATTERN = (
    r"(?i)\bscore[\s*_`\"]{0,8}[:=][\s*_`\"<\[(]{0,8}"
    r"([-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{1,3})?)(?!\w|[.,][0-9])"
)
"""Matches "Score: 7", "**Score:** 7/10" and the like."""

PATTERN_S = 10.0
SHOWN_CHARACTERS = 80
MEMORY_CHARACTERS = 64 * 2**20
APPLICATION_ID = 0x67676A72  # "ggjr"
SUFFIXES = (".sqlite", ".db")
LOCK_S = 60.0


def read_scores(
    replies: Sequence[Reply], *, pattern: str, scale: tuple[float, float], node: str
) -> list[float | Failure]:
    """Read the score of each reply, mapped linearly from the scale to 0..1; `Failure` if there is none.

    The score is group 1 of the last match of `pattern`. Any pattern other than `PATTERN` runs in a worker process,
    because it may backtrack without end.
    """
    texts = {at: reply.text for at, reply in enumerate(replies)}
    if pattern == PATTERN:
        matches: dict[int, str | Failure | None] = {at: extract_answer(text, pattern) for at, text in texts.items()}
    else:
        matches = extract_answers(texts, pattern, timeout_s=PATTERN_S, node=node)
    return [_score(reply, matches[at], scale) for at, reply in enumerate(replies)]


def _score(reply: Reply, written: str | Failure | None, scale: tuple[float, float]) -> float | Failure:
    low, high = scale
    if isinstance(written, Failure):
        return written
    if written is None:
        return Failure(f"no verdict in {_preview(reply.text)}")
    try:
        number = float(written)
    except ValueError:
        return Failure(f"the verdict {_preview(written)} is no number: {_preview(reply.text)}")
    if not low <= number <= high:
        return Failure(f"the verdict {number:g} is not in {low:g} to {high:g}: {_preview(reply.text)}")
    if reply.truncated and not _is_complete(written, number, reply.text, scale):
        return Failure(f"max_new_tokens cut the judge before its verdict: {_preview(reply.text)}")
    return (number - low) / (high - low)


def _is_complete(written: str, number: float, text: str, scale: tuple[float, float]) -> bool:
    """Return True if a truncated reply ends with a complete score.

    A score further up may be a quotation, and a last digit may be incomplete: "1" may be the beginning of "10".
    """
    may_continue = written.lstrip("+-").isdecimal() and number != 0 and scale[0] <= 10 * number <= scale[1]
    return text.endswith(written) and not may_continue


def _preview(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}...")


class Replies(Protocol):
    """A cache of replies by the key of their request."""

    def get(self, key: str) -> Reply | None:
        """Return the cached reply, None if there is none."""
        ...

    def put(self, key: str, reply: Reply) -> None:
        """Cache a reply."""
        ...


class MemoryReplies:
    """An in-memory cache for one run; drops the oldest replies beyond a total of `characters`."""

    def __init__(self, *, characters: int = MEMORY_CHARACTERS) -> None:
        self._limit, self._characters = characters, 0
        self._replies: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """Return the cached reply, None if there is none."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Cache a reply; drop the oldest ones beyond the limit."""
        if key in self._replies:
            return
        self._replies[key] = reply
        self._characters += len(key) + len(reply.text)
        while self._characters > self._limit:
            oldest = next(iter(self._replies))
            self._characters -= len(oldest) + len(self._replies.pop(oldest).text)


class FileReplies:
    """A cache in a sqlite file, which several processes may share."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def get(self, key: str) -> Reply | None:
        """Return the cached reply, None if there is none."""
        with _cache_errors(self._path):
            row = self._connection.execute("SELECT text, cut FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(row[0], bool(row[1])) if row else None

    def put(self, key: str, reply: Reply) -> None:
        """Write a reply to disk at once: it may have cost money."""
        with _cache_errors(self._path):
            values = (key, reply.text, reply.truncated)
            self._connection.execute("INSERT OR REPLACE INTO replies (key, text, cut) VALUES (?, ?, ?)", values)


@contextmanager
def replies_in(path: Path) -> Iterator[FileReplies]:
    """Open the cache in a file, creating it if missing; raises `StoreError` if the file cannot be used."""
    with _cache_errors(path):
        # two threads use it, never at the same time: the node's own waits for the one of the requests
        connection = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    with closing(connection):
        with _cache_errors(path):
            _require_own_database(connection, path)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, cut INTEGER NOT NULL)"
            )
        yield FileReplies(connection, path)


def _require_own_database(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` for a database of another application, before anything is written into it."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if kind != APPLICATION_ID and (kind or tables):
        raise StoreError(f"{path}: no cache of replies, but another data base; name a file of its own")


@contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
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
"""A file that is created if missing; relative to the graph file, in Python to the working folder."""
