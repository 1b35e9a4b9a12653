"""Checkpoints: every carry of every peer of this process, in a folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from genrl_graph.durable import failed, sync_folder
from genrl_graph.policy import Carried


def save_checkpoint(folder: Path, peers: Mapping[str, Mapping[str, Carried]]) -> None:
    """Write `<folder>/<peer>/<carry>/`; raises `StoreError` where the disk refuses."""
    draft = folder.with_name(f".{folder.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for peer, carries in peers.items():
            for name, value in carries.items():
                (draft / peer / name).mkdir(parents=True)
                value.save(draft / peer / name)
        for made in sorted(draft.rglob("*")):
            sync_folder(made) if made.is_dir() else _sync_file(made)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise failed(folder, "write a checkpoint", error) from error


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
