"""Crashes and full disks at any moment: a commit is in the run or it is not, and a resumed run ends the same."""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrl_graph.errors import StoreError
from genrl_graph.records.verify import verify_run
from genrl_graph.store import arrays
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

ROUNDS = 5
Listing = dict[str, int]


def commit(store: RunStore, number: int) -> None:
    """Commit a round: two records at once."""
    rows = pa.table({"n": [number] * 2, "ids": [[number], []]})
    trained = pa.table({"n": np.arange(number % 2)})
    store.commit([Record(number, "node", "p", {}, {"node": rows}), Record(number, "up", "p", {}, {"up": trained})])


@dataclass
class Progress:
    """The number of rounds begun, and of rounds of which the commit returned."""

    made: bool = False
    begun: int = 0
    done: int = 0


def play(folder: Path, progress: Progress) -> None:
    """Create a run and commit all rounds, writing a block after each."""
    store = RunStore.create(folder, "graph: x\n", {}, block_rounds=1)
    progress.made = True
    with store:
        for number in range(ROUNDS):
            progress.begun = number + 1
            commit(store, number)
            progress.done = number + 1


def finish(folder: Path, progress: Progress, whole: dict[str, bytes], what: str) -> None:
    """Check the committed rounds, resume to the end, and compare with the tree of an undisturbed run."""
    if not (folder / "graph.yaml").exists():
        assert not progress.made, what
        play(folder, Progress())
    else:
        first = check(RunStore.open(folder), progress, what)
        with RunStore.open(folder, "a", block_rounds=1) as store:
            assert check(store, progress, what) == first
            for number in range(first, ROUNDS):
                commit(store, number)
    assert verify_run(folder).problems == [], what
    assert tree(folder) == whole, what


def check(store: RunStore, progress: Progress, what: str) -> int:
    """Return the number of rounds in the run; assert that each is complete and that no commit is lost."""
    steps = store.steps()["round"].to_pylist()
    rounds = len(steps) // 2
    assert steps == [number for number in range(rounds) for _ in range(2)], what
    assert progress.done <= rounds <= progress.begun, what
    if rounds:
        assert store.table("node")["n"].to_pylist() == steps, what
        assert store.table("node")["ids"].to_pylist() == [row for n in range(rounds) for row in ([n], [])], what
    return rounds


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in (folder / "rollouts.zarr").rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The arrays of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    play(folder, Progress())
    assert verify_run(folder).problems == []
    return tree(folder)


@pytest.fixture(autouse=True)
def one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files in one thread, so that every run has the same order of operations."""
    monkeypatch.setattr(arrays, "WRITERS", 1)


@dataclass
class Disk:
    """A model of a file system: fsync of a file makes its contents durable, fsync of a folder the names in it.

    Files and folders are identified by inode; each stays open, so that its number is not used again.
    """

    root: Path
    handles: dict[int, int] = field(default_factory=dict)
    synced: dict[int, bytes | Listing] = field(default_factory=dict)

    def inode(self, path: Path) -> int:
        number = path.stat().st_ino
        if number not in self.handles:
            self.handles[number] = os.open(path, os.O_RDONLY)
        return number

    def content(self, path: Path) -> bytes | Listing:
        if path.is_dir():
            return {inner.name: self.inode(inner) for inner in path.iterdir()}
        return path.read_bytes()

    def now(self) -> dict[int, bytes | Listing]:
        """Return all contents and names as running processes see them, by inode."""
        paths = [self.root, *self.root.rglob("*")]
        return {self.inode(path): self.content(path) for path in paths}

    def close(self) -> None:
        for handle in self.handles.values():
            os.close(handle)


@dataclass
class Moment:
    """A moment at which the power may fail."""

    progress: Progress
    synced: dict[int, bytes | Listing]
    now: dict[int, bytes | Listing]

    def write(self, root: int, folder: Path, lives: Callable[[], bool]) -> None:
        """Write the tree that a power failure leaves; `lives` says per inode whether unsynced changes survive."""

        def restore(number: int, path: Path) -> None:
            content = self.now.get(number) if lives() else None
            if content is None:
                content = self.synced.get(number, b"" if isinstance(self.now.get(number), bytes) else {})
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.mkdir(exist_ok=True)
                for name, inner in content.items():
                    restore(inner, path / name)

        restore(root, folder)


@pytest.fixture
def moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Moment]]:
    """The inode of the root of a run, and the moments just before and just after each fsync."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    disk, progress, taken = Disk(tmp_path / "power"), Progress(), list[Moment]()
    disk.root.mkdir()
    real = os.fsync

    def note() -> None:
        taken.append(Moment(Progress(progress.made, progress.begun, progress.done), dict(disk.synced), disk.now()))

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        note()
        real(handle)
        if path.is_relative_to(disk.root):
            disk.synced[disk.inode(path)] = disk.content(path)
        note()

    monkeypatch.setattr(os, "fsync", fsync)
    play(disk.root / "run", progress)
    note()
    root = disk.inode(disk.root)
    disk.close()
    monkeypatch.undo()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return root, taken


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the paths of open files")
def test_a_power_loss_at_any_moment_keeps_every_commit(
    moments: tuple[int, list[Moment]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    root, known = moments
    rng = np.random.default_rng(0)
    picked = sorted({len(known) - 1, *rng.choice(len(known), 26, replace=False).tolist()})
    for number, at in enumerate(picked):
        share = (0.0, 1.0, 0.5)[number % 3]  # of the unsynced changes that survive
        folder = tmp_path / f"crash-{number}"
        known[at].write(root, folder, lambda share=share: bool(rng.random() < share))
        finish(folder / "run", known[at].progress, whole, f"moment {at} of {len(known)}, share {share}")
        shutil.rmtree(folder)


class Refusals:
    """A full disk: after `after` operations it refuses all that need space."""

    NAMES = ("open", "write", "writev", "fsync", "replace", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int, code: int) -> None:
        self.count = 0
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self.guarded(getattr(os, name), after, code, name))

    def guarded(self, call: Callable[..., Any], after: int, code: int, name: str) -> Callable[..., Any]:
        def guard(*args: Any, **options: Any) -> Any:
            if name != "open" or (len(args) > 1 and args[1] & os.O_CREAT):
                self.count += 1
                if self.count > after:
                    raise OSError(code, os.strerror(code))
            return call(*args, **options)

        return guard


@pytest.mark.long
def test_a_full_disk_at_any_operation_is_one_line_and_loses_nothing(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        counter = Refusals(patch, after=1 << 40, code=0)
        play(tmp_path / "counted", Progress())
    assert counter.count > 100
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
    for after in [*range(0, 30, 3), *range(30, counter.count, 23)]:
        folder, progress, code = tmp_path / f"full-{after}", Progress(), codes[after % len(codes)]
        what = f"operation {after} of {counter.count}"
        with monkeypatch.context() as patch:
            Refusals(patch, after=after, code=code)
            with pytest.raises(StoreError) as caught:
                play(folder, progress)
        assert os.strerror(code) in str(caught.value) and str(tmp_path) in str(caught.value), what
        assert "\n" not in str(caught.value), what
        finish(folder, progress, whole, what)
        shutil.rmtree(folder)


def test_a_run_goes_on_in_the_same_process_once_there_is_room(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with RunStore.create(folder, "graph: x\n", {}, block_rounds=1) as store:
        for number in range(ROUNDS):
            with monkeypatch.context() as patch:
                Refusals(patch, after=number, code=errno.ENOSPC)
                with pytest.raises(StoreError, match="No space left on device"):
                    commit(store, number)
            if store.steps().num_rows == 2 * number:  # else it is in the journal, and the block was refused
                commit(store, number)
    assert tree(folder) == whole
