"""Checkpoints: every carry of every peer of this process, in a folder that appears whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from genrl_graph.contract.policy import Carried
from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, refusal
from genrl_graph.store.loading import loading_carry
from genrl_graph.store.manifest import damaged_files, write_manifest
from genrl_graph.store.run_folder import DRAFT, REPLACED, checkpoint_name, checkpoint_rounds
from genrl_graph.store.run_path import RunPath

Carries = Mapping[str, Mapping[str, Carried]]
"""Carried values by peer and name."""


def checkpoint_folder(checkpoints: RunPath, rounds: int) -> RunPath:
    """Return the folder of the checkpoint after `rounds` rounds."""
    return checkpoints / checkpoint_name(rounds)


def newest_checkpoint(checkpoints: Path | RunPath, *, at_most: int | None = None) -> int:
    """Return the number of rounds before the newest checkpoint, at most `at_most`; 0 where there is none."""
    rounds = checkpoint_rounds(RunPath.of(checkpoints))
    return max((count for count in rounds if at_most is None or count <= at_most), default=0)


def damage(folder: Path | RunPath) -> str | None:
    """Describe the first damaged file of a checkpoint; None where all files match the manifest."""
    try:
        return next((f"{path} {what}" for path, what in damaged_files(folder)), None)
    except StoreError as error:
        return str(error)


def save_checkpoint(folder: Path | RunPath, peers: Carries, *, keep: int | None = None) -> None:
    """Write `<folder>/<peer>/<carry>/` and a manifest, then remove all but the `keep` newest checkpoints.

    `keep` None removes none. No checkpoint is removed before this one is on disk. Raises `StoreError` where a write
    fails; older checkpoints then stay.
    """
    folder = RunPath.of(folder)
    draft = folder.parent / f".{folder.name}{DRAFT}"
    try:
        _remove(draft)
        try:
            _write(draft, peers)
            _publish(draft, folder)
        finally:
            _remove(draft)  # a partial checkpoint takes disk space
        if keep is not None:
            _keep_newest(folder, keep)
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        raise failed(folder.path, "write a checkpoint", refused) from error


def load_checkpoint(folder: Path | RunPath, peers: Carries) -> None:
    """Load every carry from a checkpoint; raises `StoreError` where one cannot be read or does not fit."""
    folder = RunPath.of(folder)
    folder.require_plain()
    for peer, carries in peers.items():
        for name, value in carries.items():
            path = (folder / peer / name).path
            with loading_carry(f"carry.{name} ({peer})", path):
                value.load(path)


def _write(draft: RunPath, peers: Carries) -> None:
    """Write the carries and the manifest, and sync every file and folder."""
    draft.make_folder()
    for peer, carries in peers.items():
        for name, value in carries.items():
            (draft / peer / name).make_folder()
            value.save((draft / peer / name).path)
    write_manifest(draft)
    folders = {draft}
    for path in draft.walk():
        path.sync()
        while (path := path.parent) not in folders:
            folders.add(path)
    for folder in folders:
        folder.sync()


def _remove(folder: RunPath) -> None:
    if folder.exists():
        folder.remove_folder()


def _publish(draft: RunPath, folder: RunPath) -> None:
    """Rename a draft to `folder`; a folder with that name is moved aside and removed last, so it can be restored."""
    aside = folder.parent / f".{folder.name}{REPLACED}"
    if folder.exists():
        _remove(aside)
        folder.rename(aside.name)
    draft.rename(folder.name)
    folder.parent.sync()
    _remove(aside)


def _keep_newest(saved: RunPath, keep: int) -> None:
    """Remove the oldest checkpoints; each is renamed first, so a half-removed one is not taken for a whole one.

    The checkpoint just saved always stays: a run that resumed from an earlier one has newer ones, which are damaged.
    """
    for rounds in checkpoint_rounds(saved.parent)[:-keep]:
        old = checkpoint_folder(saved.parent, rounds)
        if old != saved:
            old.rename(f".{old.name}{DRAFT}").remove_folder()
