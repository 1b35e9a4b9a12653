"""Tell which folders make up a run: one, or one per peer where each peer was a process of its own."""

from pathlib import Path

from genrl_graph.errors import StoreError
from genrl_graph.store.run_folder import GRAPH, ROLLOUTS, inner_folders, missing_run
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore


def run_folders(folder: Path) -> list[Path]:
    """List the folders of a run: itself, or one per peer where each peer was a process; none where this is no run.

    Folders of peers differ from a folder of separate runs by their rows: each has only rows of the peer it is named
    after, and at least one has rows. One that cannot be read is a peer's if the others are.
    """
    if (folder / GRAPH).exists():
        return [folder]
    inner = inner_folders(folder)
    any_peer = False
    for path in inner:
        try:
            holders = stored_holders(RunStore.open(path))
        except StoreError:
            continue
        if not holders <= {path.name}:
            return []
        any_peer |= bool(holders)
    return inner if any_peer else []


def graph_folder(folder: Path) -> Path:
    """Return the folder with the graph.yaml of a run: its own, or the first peer's. Raises `StoreError` for no run."""
    folders = run_folders(folder)
    if not folders:
        raise missing_run(folder)
    return folders[0]


def first_damage(folder: Path) -> str:
    """Return why the first run below a folder that cannot be opened cannot, or "" if all can."""
    for path in inner_folders(folder):
        try:
            stored_holders(RunStore.open(path))
        except StoreError as error:
            return str(error)
    return ""


def is_part_of_a_run(folder: Path) -> bool:
    """Return whether a folder is that of one peer in a run of several processes."""
    absolute = folder.absolute()
    return (folder / GRAPH).exists() and absolute in run_folders(absolute.parent)


def stored_holders(store: RunStore) -> set[str]:
    """Return the names of the peers whose steps a store has."""
    return set(store.steps().column("holder").unique().to_pylist())


def refuse_unsafe(folder: Path) -> None:
    """Raise `StoreError` where a run folder has a link, or a record names a file, that no run makes.

    Opening a `RunStore` does the same; this is for commands that read other files of the folder only.
    """
    for path in run_folders(folder):
        if (RunPath(path) / ROLLOUTS).exists():
            RunStore.open(path).groups()
