"""Checkpoints: every carry of every peer of this process, in a folder that appears whole or not at all."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from genrl_graph.contract.policy import Carried
from genrl_graph.errors import StoreError, named
from genrl_graph.store.durable import failed, sync_file, sync_folder
from genrl_graph.store.manifest import damaged_files, write_manifest
from genrl_graph.store.run_folder import DRAFT, REPLACED

Carries = Mapping[str, Mapping[str, Carried]]
"""Carried values by peer and name."""


def checkpoint_folder(checkpoints: Path, rounds: int) -> Path:
    """The folder of the checkpoint after so many rounds."""
    return checkpoints / f"{rounds:06d}"


def newest_checkpoint(checkpoints: Path, *, at_most: int | None = None) -> int:
    """After how many rounds (`at_most` so many) the newest checkpoint was made, 0 where there is none."""
    made = (int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    return max((rounds for rounds in made if at_most is None or rounds <= at_most), default=0)


def damage(folder: Path) -> str | None:
    """What is first found wrong with the files of a checkpoint, None where all are as they were written."""
    try:
        return next((f"{path} {what}" for path, what in damaged_files(folder)), None)
    except StoreError as error:
        return str(error)


def save_checkpoint(folder: Path, peers: Carries, *, keep: int | None = None) -> None:
    """Write `<folder>/<peer>/<carry>/` and a manifest; then all but the `keep` newest checkpoints go (None: none).

    No checkpoint is removed before this one is on the disk. Raises `StoreError` where the disk refuses; the
    checkpoints that were there stay.
    """
    draft = folder.with_name(f".{folder.name}{DRAFT}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            for peer, carries in peers.items():
                for name, value in carries.items():
                    (draft / peer / name).mkdir(parents=True)
                    value.save(draft / peer / name)
            write_manifest(draft)
            for made in (draft, *draft.rglob("*")):
                sync_folder(made) if made.is_dir() else sync_file(made)
            _put(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # what is cut takes room
        if keep is not None:
            _keep_newest(folder, keep)
    except OSError as error:
        raise failed(folder, "write a checkpoint", error) from error


def load_checkpoint(folder: Path, peers: Carries) -> None:
    """Let every value become what was saved of it; raises `StoreError` where it does not fit."""
    for peer, carries in peers.items():
        for name, value in carries.items():
            try:
                with named(f"carry.{name} ({peer})"):
                    value.load(folder / peer / name)
            except OSError as error:
                raise failed(folder / peer / name, "read a checkpoint", error) from error


def _put(draft: Path, folder: Path) -> None:
    """Give a draft its name for good; one that had the name before can be put back until then."""
    aside = folder.with_name(f".{folder.name}{REPLACED}")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    draft.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _keep_newest(saved: Path, keep: int) -> None:
    """Remove the oldest checkpoints; each loses its name first, so that half of one is never taken for a whole.

    The one just saved stays: a run that went back has newer ones, and they are damaged.
    """
    known = sorted((path for path in saved.parent.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for old in known[:-keep]:
        if old != saved:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}{DRAFT}")))
