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
    """Return the folder of the checkpoint after `rounds` rounds."""
    return checkpoints / f"{rounds:06d}"


def newest_checkpoint(checkpoints: Path, *, at_most: int | None = None) -> int:
    """Return the number of rounds before the newest checkpoint, at most `at_most`; 0 where there is none."""
    rounds = (int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    return max((count for count in rounds if at_most is None or count <= at_most), default=0)


def damage(folder: Path) -> str | None:
    """Describe the first damaged file of a checkpoint; None where all files match the manifest."""
    try:
        return next((f"{path} {what}" for path, what in damaged_files(folder)), None)
    except StoreError as error:
        return str(error)


def save_checkpoint(folder: Path, peers: Carries, *, keep: int | None = None) -> None:
    """Write `<folder>/<peer>/<carry>/` and a manifest, then remove all but the `keep` newest checkpoints.

    `keep` None removes none. No checkpoint is removed before this one is on disk. Raises `StoreError` where a write
    fails; older checkpoints then stay.
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
            for path in (draft, *draft.rglob("*")):
                sync_folder(path) if path.is_dir() else sync_file(path)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # a partial checkpoint takes disk space
        if keep is not None:
            _keep_newest(folder, keep)
    except OSError as error:
        raise failed(folder, "write a checkpoint", error) from error


def load_checkpoint(folder: Path, peers: Carries) -> None:
    """Load every carry from a checkpoint; raises `StoreError` where one cannot be read or does not fit."""
    for peer, carries in peers.items():
        for name, value in carries.items():
            try:
                with named(f"carry.{name} ({peer})"):
                    value.load(folder / peer / name)
            except OSError as error:
                raise failed(folder / peer / name, "read a checkpoint", error) from error


def _publish(draft: Path, folder: Path) -> None:
    """Rename a draft to `folder`; a folder with that name is moved aside and removed last, so it can be restored."""
    aside = folder.with_name(f".{folder.name}{REPLACED}")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    draft.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _keep_newest(saved: Path, keep: int) -> None:
    """Remove the oldest checkpoints; each is renamed first, so a half-removed one is not taken for a whole one.

    The checkpoint just saved always stays: a run that resumed from an earlier one has newer ones, which are damaged.
    """
    known = sorted((path for path in saved.parent.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for old in known[:-keep]:
        if old != saved:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}{DRAFT}")))
