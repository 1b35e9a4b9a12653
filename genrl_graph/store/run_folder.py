"""The run folder: its file names, its lock, and graph.yaml with the graph and versions that ran."""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from genrl_graph.errors import StoreError
from genrl_graph.messages import did_you_mean
from genrl_graph.store.durable import failed
from genrl_graph.store.run_path import PARTIAL, RunPath, refused_by_name
from genrl_graph.store.strict_json import parse_json
from genrl_graph.store.versions import checked_versions

GRAPH = "graph.yaml"
JOURNAL = "journal"
ROLLOUTS = "rollouts.zarr"
CHECKPOINTS = "checkpoints"
LOCK = "writer.lock"
DRAFT = ".draft"  # a checkpoint being written or removed
REPLACED = ".replaced"  # a checkpoint whose name another one is about to take
VERSIONS = "# versions: "
MAX_GRAPH_BYTES = 16 * 2**20
CREATED_NAMES = frozenset({JOURNAL, ROLLOUTS, f"{ROLLOUTS}/zarr.json", CHECKPOINTS, LOCK, GRAPH})


class WriterLock:
    """Locks a run folder for one writing process; the system releases the lock when the process ends or is killed.

    A `shared` lock keeps writers out and writes nothing. Raises `StoreError`, with the process id of the writer, where
    another process has the lock, or where the folder cannot be locked.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        path, self._shared = RunPath(folder) / LOCK, shared
        with refused_by_name(path, "lock"):
            self._handle = path.open(os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT)
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
            raise failed(path.path, "lock", error) from error

    def release(self) -> None:
        """Release the lock, for the next writer; a process id that the disk keeps misleads nobody."""
        with suppress(OSError):
            if not self._shared:
                os.ftruncate(self._handle, 0)
        os.close(self._handle)


def refuse_taken(folder: Path, *, hint: str = "") -> None:
    """Raise `StoreError` where a folder holds anything; the remains of an interrupted creation are allowed.

    `hint` says what else to do where it holds a run.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name another folder")
    if (folder / GRAPH).exists():
        raise StoreError(f"{folder}: holds a run already; {hint}name another folder with -o, or remove it")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().removesuffix(PARTIAL)
        if name not in CREATED_NAMES:
            raise StoreError(f"{folder}: holds {name!r} but no {GRAPH}; name another folder")


def partial_checkpoints(checkpoints: RunPath) -> list[RunPath]:
    """List the folders that crashes left of checkpoints that were being written, replaced or removed."""
    names = [name for name in checkpoints.listing() if name.startswith(".") and name.endswith((DRAFT, REPLACED))]
    return [checkpoints / name for name in names]


def tidy_checkpoints(checkpoints: RunPath) -> int:
    """Put back a checkpoint that was about to be replaced, remove other partial ones; returns how many there were."""
    partial = partial_checkpoints(checkpoints)
    for path in partial:
        name = path.name.removeprefix(".").removesuffix(REPLACED)
        if path.name.endswith(REPLACED) and not (checkpoints / name).exists():
            path.rename(name)
        else:
            path.remove_folder()
    if partial:
        checkpoints.sync()
    return len(partial)


def checkpoint_rounds(checkpoints: RunPath) -> list[int]:
    """List after how many rounds there is a checkpoint, sorted; none where there is no folder of checkpoints."""
    if not checkpoints.exists():
        return []
    names = [name for name in checkpoints.listing() if name.isdecimal() and name.isascii() and len(name) <= 18]
    return sorted(int(name) for name in names if name == checkpoint_name(int(name)))


def checkpoint_name(rounds: int) -> str:
    """Return the name of the folder of the checkpoint after `rounds` rounds."""
    return f"{rounds:06d}"


def inner_folders(folder: Path) -> list[Path]:
    """List the sub-folders that hold a graph.yaml, sorted; they are the runs of a folder, or the peers of a run."""
    return [path for path in sub_folders(folder) if (path / GRAPH).exists()]


def missing_run(folder: Path) -> StoreError:
    """Return the error for a folder without a graph.yaml: what it is instead, or which folder may be meant."""
    what = f"{folder}: no run here, {GRAPH} is missing"
    if not folder.is_dir():
        hint = did_you_mean(folder.name, _run_names(folder.parent))
        return StoreError(f"{what}: there is no such folder{hint}")
    if names := _run_names(folder):
        return StoreError(f"{what}; it holds the runs {', '.join(names[:5])}: name one of them")
    if (folder / JOURNAL).is_dir() or (folder / ROLLOUTS).is_dir():
        return StoreError(f"{what}: its creation was interrupted; start it again")
    return StoreError(what)


def _run_names(folder: Path) -> list[str]:
    """List the sub-folders that hold a graph.yaml, themselves or one level below."""
    folders = inner_folders(folder)
    outer = [path for path in sub_folders(folder) if path not in folders and inner_folders(path)]
    return sorted(path.name for path in (*folders, *outer))


def sub_folders(folder: Path) -> list[Path]:
    """List the sub-folders, sorted; a link to a folder is none, since what it leads to belongs elsewhere."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise failed(folder, "read", error) from error
    return [folder / name for name in names]


def refuse_links(folder: Path) -> None:
    """Raise `StoreError` where a run folder holds a link or special file at its top, through which others are reached.

    Trackers and traces write files there that are no part of the store.
    """
    root = RunPath(folder)
    with refused_by_name(root, "read"):
        for name in root.listing():
            (root / name).is_file()


def write_graph(folder: Path, graph_yaml: str, versions: Mapping[str, Any]) -> None:
    """Write graph.yaml, which makes the folder a run: a comment line with the versions, then the graph."""
    head = f"# The graph of this run, and the versions of what ran it.\n{VERSIONS}{json.dumps(dict(versions))}\n"
    root = RunPath(folder)
    (root / GRAPH).write((head + graph_yaml).encode())
    root.sync()


def read_graph(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read the graph and the versions that `write_graph` wrote; raises `StoreError` where there is no run."""
    path = RunPath(folder) / GRAPH
    try:
        text = path.read(MAX_GRAPH_BYTES).decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: is not UTF-8 text ({error}); restore the file as the run wrote it") from error
    except FileNotFoundError as error:
        raise missing_run(folder) from error
    except OSError as error:
        raise failed(path.path, "read", error) from error
    _, _, rest = text.partition("\n")
    line, _, graph = rest.partition("\n")
    if not line.startswith(VERSIONS):
        raise StoreError(f"{path}: line 2 does not start with {VERSIONS!r}; restore the file as the run wrote it")
    return graph, checked_versions(parse_json(line.removeprefix(VERSIONS), f"{path}: line 2"), f"{path}: line 2")
