"""Checkpoints: whole or absent; old ones are removed only after a newer one is on disk."""

import os
import shutil
from pathlib import Path

import pytest
from toys import Total, ToyPolicy, toy_game

from genrl_graph import RunConfig, play
from genrl_graph.contract.policy import Carried
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.runners.play import run_options
from genrl_graph.runners.resume.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from genrl_graph.store.manifest import damaged_files
from genrl_graph.store.run_store import RunStore


class Broken(Total):
    """A carried value whose file cannot be written."""

    def save(self, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device", str(folder / "half"))


def carries(value: int) -> dict[str, dict[str, Carried]]:
    return {"peer0000": {"total": Total(value), "policy": ToyPolicy("policy", value)}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loaded(folder: Path) -> int:
    found = Total()
    load_checkpoint(folder, {"peer0000": {"total": found}})
    return found.value


@pytest.mark.parametrize(("keep", "kept"), [(None, [1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int | None, kept: list[int]) -> None:
    for rounds in range(1, 5):
        save_checkpoint(tmp_path / f"{rounds:06d}", carries(rounds), keep=keep)
        assert loaded(tmp_path / f"{newest_checkpoint(tmp_path):06d}") == rounds
    assert names(tmp_path) == [f"{rounds:06d}" for rounds in kept]
    assert not [problem for folder in tmp_path.iterdir() for problem in damaged_files(folder)]


def test_the_checkpoint_just_saved_stays_though_newer_ones_are_there(tmp_path: Path) -> None:
    for rounds in (3, 4):
        save_checkpoint(tmp_path / f"{rounds:06d}", carries(rounds))
    save_checkpoint(tmp_path / "000001", carries(1), keep=1)
    assert names(tmp_path) == ["000001", "000004"] and loaded(tmp_path / "000001") == 1
    assert [newest_checkpoint(tmp_path, at_most=most) for most in (None, 4, 3, 1, 0)] == [4, 4, 1, 1, 0]


def test_a_checkpoint_that_the_disk_refuses_leaves_the_others_and_no_draft(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "000001", carries(1), keep=1)
    with pytest.raises(StoreError, match=r"half: cannot write a checkpoint: No space left on device") as caught:
        save_checkpoint(tmp_path / "000002", {"peer0000": {"a": Total(), "b": Broken()}}, keep=1)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["000001"] and loaded(tmp_path / "000001") == 1


def test_no_checkpoint_goes_before_the_newer_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash at any file operation there is a whole checkpoint."""
    seen: list[list[str]] = []
    for name in ("rename", "rmtree"):
        owner = os if name == "rename" else shutil
        real = getattr(owner, name)

        def noted(*args: object, real: object = real, **options: object) -> object:
            seen.append(names(tmp_path))
            return real(*args, **options)  # type: ignore[operator]

        monkeypatch.setattr(owner, name, noted)
    for value, rounds in enumerate((1, 2, 2, 3)):
        save_checkpoint(tmp_path / f"{rounds:06d}", carries(value), keep=1)
        seen.append(names(tmp_path))
    first = seen.index(["000001"])
    whole = [[name for name in at if name.isdecimal() or name.endswith(".replaced")] for at in seen[first:]]
    assert all(whole) and len(seen) > 12
    assert names(tmp_path) == ["000003"]


def test_what_a_crash_left_of_checkpoints_goes_when_the_run_is_opened(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", "graph: x\n", {}) as store:
        folder = store.checkpoints.path
        for rounds in (1, 2, 3):
            save_checkpoint(folder / f"{rounds:06d}", carries(rounds))
    (folder / "000001").rename(folder / ".000001.draft")  # was being removed
    (folder / "000002").rename(folder / ".000002.replaced")  # was being replaced, but nothing took its place
    shutil.copytree(folder / "000003", folder / ".000003.replaced")  # was replaced
    assert newest_checkpoint(folder) == 3
    RunStore.open(tmp_path / "run")
    assert len(names(folder)) == 4  # readers change nothing
    with RunStore.open(tmp_path / "run", "a") as store:
        assert store.removed == 3
    assert names(folder) == ["000002", "000003"]
    assert [loaded(folder / name) for name in names(folder)] == [2, 3]


def test_a_run_keeps_two_checkpoints_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    for name, keep, kept in (("two", {}, [4, 5]), ("one", {"keep": 1}, [5]), ("all", {"keep": None}, [1, 2, 3, 4, 5])):
        graph = toy_game()
        graph.run = RunConfig.model_validate({"rounds": 5, "checkpoint_every": 1, **keep})
        run = play(graph, out=tmp_path / name, quiet=True)
        assert names(run.folder / "checkpoints") == [f"{rounds:06d}" for rounds in kept]
    with pytest.raises(ParamError, match="keep"):
        run_options(RunConfig(), {"keep": 0})
