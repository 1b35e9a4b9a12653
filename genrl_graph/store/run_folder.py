"""The run folder: its file names, its lock, and graph.yaml with the graph and versions that ran."""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, sync_folder, write_file

GRAPH = "graph.yaml"
JOURNAL = "journal"
ROLLOUTS = "rollouts.zarr"
CHECKPOINTS = "checkpoints"
LOCK = "writer.lock"
DRAFT = ".draft"  # a checkpoint being written or removed
REPLACED = ".replaced"  # a checkpoint whose name another one is about to take
VERSIONS = "# versions: "
CREATED_NAMES = frozenset({JOURNAL, ROLLOUTS, f"{ROLLOUTS}/zarr.json", CHECKPOINTS, LOCK, GRAPH})


class WriterLock:
    """Locks a run folder for one writing process; the system releases the lock when the process ends or is killed.

    A `shared` lock keeps writers out and writes nothing. Raises `StoreError`, with the process id of the writer, where
    another process has the lock, or where the folder cannot be locked.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        path, self._shared = folder / LOCK, shared
        access = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        try:
            # no link: the folder may come from a stranger, and the file that it leads to would be emptied
            self._handle = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise failed(path, "lock", error) from error
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not shared:
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.read(self._handle, 32).decode(errors="replace").strip()
            os.close(self._handle)
            doing = f"process {holder} is writing" if holder else "another process is verifying"
            raise StoreError(f"{folder}: {doing} this run; wait for it or stop it") from error
        except OSError as error:
            os.close(self._handle)
            raise failed(path, "lock", error) from error

    def release(self) -> None:
        """Release the lock, for the next writer."""
        try:
            if not self._shared:
                os.ftruncate(self._handle, 0)
        finally:
            os.close(self._handle)


def refuse_taken(folder: Path) -> None:
    """Raise `StoreError` where a folder holds anything; the remains of an interrupted creation are allowed."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name another folder")
    if (folder / GRAPH).exists():
        raise StoreError(f"{folder}: holds a run already; name another folder with -o, or remove it")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().removesuffix(".partial")
        if name not in CREATED_NAMES:
            raise StoreError(f"{folder}: holds {name!r} but no {GRAPH}; name another folder")


def partial_checkpoints(checkpoints: Path) -> list[Path]:
    """List the folders that crashes left of checkpoints that were being written, replaced or removed."""
    return sorted(path for path in checkpoints.glob(".*") if path.suffix in (DRAFT, REPLACED))


def tidy_checkpoints(checkpoints: Path) -> int:
    """Put back a checkpoint that was about to be replaced, remove other partial ones; returns how many there were."""
    partial = partial_checkpoints(checkpoints)
    for path in partial:
        name = checkpoints / path.stem.removeprefix(".")
        if path.suffix == REPLACED and not name.exists():
            path.rename(name)
        else:
            shutil.rmtree(path)
    if partial:
        sync_folder(checkpoints)
    return len(partial)


def write_graph(folder: Path, graph_yaml: str, versions: Mapping[str, Any]) -> None:
    """Write graph.yaml, which makes the folder a run: a comment line with the versions, then the graph."""
    head = f"# The graph of this run, and the versions of what ran it.\n{VERSIONS}{json.dumps(dict(versions))}\n"
    write_file(folder / GRAPH, (head + graph_yaml).encode())
    sync_folder(folder)


def read_graph(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read the graph and the versions that `write_graph` wrote; raises `StoreError` where there is no run."""
    path = folder / GRAPH
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: is not UTF-8 text ({error}); restore the file as the run wrote it") from error
    except FileNotFoundError as error:
        state = "its creation was interrupted; start it again" if folder.is_dir() else "there is no such folder"
        raise StoreError(f"{folder}: no run here, {GRAPH} is missing: {state}") from error
    except OSError as error:
        raise failed(path, "read", error) from error
    _, _, rest = text.partition("\n")
    line, _, graph = rest.partition("\n")
    if not line.startswith(VERSIONS):
        raise StoreError(f"{path}: line 2 does not start with {VERSIONS!r}; restore the file as the run wrote it")
    try:
        versions: dict[str, Any] = json.loads(line.removeprefix(VERSIONS))
    except ValueError as error:
        raise StoreError(f"{path}: line 2 is not JSON ({error}); restore the file as the run wrote it") from error
    return graph, versions
