"""A run folder: what makes it one, its lock, and the graph and versions that ran."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrl_graph.durable import failed, sync_folder, write_file
from genrl_graph.errors import StoreError

GRAPH = "graph.yaml"
JOURNAL = "journal"
ROLLOUTS = "rollouts.zarr"
CHECKPOINTS = "checkpoints"
LOCK = "writer.lock"
VERSIONS = "# versions: "
SKELETON = frozenset({JOURNAL, ROLLOUTS, f"{ROLLOUTS}/zarr.json", CHECKPOINTS, LOCK, GRAPH})


class WriterLock:
    """Holds a run folder for one writing process; the system lets go of it when the process ends, however it ends.

    Raises `StoreError` with the process id of the writer that has it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise StoreError(f"{folder}: process {holder} is writing this run; wait for it or stop it") from error
        except OSError as error:
            os.close(self._handle)
            raise failed(path, "lock", error) from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next writer in."""
        os.ftruncate(self._handle, 0)
        os.close(self._handle)


def refuse_taken(folder: Path) -> None:
    """Raise `StoreError` where a folder holds a run or anything else but a run whose creation was cut."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name another folder")
    if (folder / GRAPH).exists():
        raise StoreError(f"{folder}: holds a run already; name another folder with -o, or remove it")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().removesuffix(".partial")
        if name not in SKELETON:
            raise StoreError(f"{folder}: holds {name!r} but no {GRAPH}; name another folder")


def write_graph(folder: Path, graph_yaml: str, versions: Mapping[str, Any]) -> None:
    """Write graph.yaml: the versions as comments, then the graph; from then on the folder is a run."""
    head = f"# The graph of this run, and the versions of what ran it.\n{VERSIONS}{json.dumps(dict(versions))}\n"
    write_file(folder / GRAPH, (head + graph_yaml).encode())
    sync_folder(folder)


def read_graph(folder: Path) -> tuple[str, dict[str, Any]]:
    """The graph as it was given to `write_graph`, and the versions; raises `StoreError` where there is no run."""
    path = folder / GRAPH
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        state = "its creation was cut; start it again" if folder.is_dir() else "there is no such folder"
        raise StoreError(f"{folder}: no run here, {GRAPH} is missing: {state}") from error
    except OSError as error:
        raise failed(path, "read", error) from error
    _, _, rest = text.partition("\n")
    line, _, graph = rest.partition("\n")
    if not line.startswith(VERSIONS):
        raise StoreError(f"{path}: line 2 does not start with {VERSIONS!r}; restore the file as the run wrote it")
    versions: dict[str, Any] = json.loads(line.removeprefix(VERSIONS))
    return graph, versions
