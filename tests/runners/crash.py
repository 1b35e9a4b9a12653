"""Kill runs, resume them, and compare their folders with that of a run that was never killed; also a script.

    OMP_NUM_THREADS=1 python tests/runners/crash.py --kills 100
    OMP_NUM_THREADS=1 python tests/runners/crash.py --game quickstart --kills 5 --rounds 2

A run is a forked process. A run of the tiny game kills itself (SIGKILL) before its n-th fsync or rename, in a commit, a
block or a checkpoint, or is killed after some seconds; the record of an interrupted commit may be torn. A run of the
quickstart, a game with a real model, kills itself in stage 1 or in the update, before the n-th forward pass or
optimiser step there.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from genrl_graph.contract.node import Node
from genrl_graph.dag.graph import Graph
from genrl_graph.graph_file.read import load

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
FILES = ("journal", "rollouts.zarr", "checkpoints", "folder")
STEPS = ("critique", "update")


@dataclass(frozen=True, slots=True)
class Game:
    """A small game, and the places at which its runs are killed."""

    file: str
    overrides: Sequence[str]
    places: Sequence[str]


TINY = Game(
    "tiny_multistage.yaml",
    (
        "nodes.tasks.params.num_tasks=2",
        "nodes.tasks.params.holdout=0.2",
        *(f"nodes.{name}.params.num_generations=2" for name in ("answer", "critique", "final")),
        "nodes.update.params.learning_rate=0.05",
        "run.checkpoint_every=2",
        "run.block_rounds=2",
        "run.mode=train_and_evaluate",
        "run.eval_tasks=2",
        "run.trackers=[]",
    ),
    (*FILES, "moment"),
)
GAMES = {
    "tiny": TINY,
    "ahead": replace(TINY, overrides=(*TINY.overrides, "run.pipeline_depth=1")),
    "quickstart": Game(
        "quickstart.yaml",
        (
            "nodes.tasks.params.num_tasks=2",
            *(f"nodes.{name}.params.max_new_tokens=16" for name in ("answer", "critique", "final")),
            "run.checkpoint_every=1",
            "run.keep=1",
            "run.trackers=[]",
        ),
        STEPS,
    ),
}
NOT_THE_SAME = ("time/", "speed/", "memory/", "eval/time", "trackers/")
"""Prefixes of metrics that differ between equal runs."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The point at which a run is killed: before its watched call number `call`, or after some seconds."""

    place: str
    call: int = 0
    seconds: float = 0.0
    torn: int = 0  # bytes that a commit loses

    def __str__(self) -> str:
        return f"{self.place} {self.seconds:.2f} s" if self.place == "moment" else f"{self.place} call {self.call}"


@dataclass(slots=True)
class Watch:
    """Counts file operations or model passes in the process of a run, and kills it at the call of a `Kill`."""

    kill: Kill | None
    folder: Path
    places: list[str] = field(default_factory=list)

    def files(self) -> None:
        """Count every fsync and rename from now on."""
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, partial(self._call, getattr(os, name)))

    def steps(self, graph: Graph) -> None:
        """Count every forward pass of a whole model and every optimiser step in the `STEPS` from now on."""
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        inside = [""]
        for name in STEPS:
            _note_runs(graph, name, inside)

        def passing(module: object, *_: object) -> None:
            if inside[0] and type(module).__name__.endswith("ForCausalLM"):
                self._count(inside[0])

        def stepping(*_: object) -> None:
            self._count(inside[0])

        register_module_forward_pre_hook(passing)
        register_optimizer_step_pre_hook(stepping)

    def _count(self, place: str) -> bool:
        """Count a call; kill the process, or for a file operation return True, at the call of the `Kill`."""
        self.places.append(place)
        if self.kill is None or len(self.places) != self.kill.call:
            return False
        if place in STEPS:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def _call(self, function: Callable[..., Any], first: Any, *rest: Any, **named: Any) -> Any:
        path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else Path(first)
        parts = path.relative_to(self.folder).parts if path.is_relative_to(self.folder) else ()
        place = parts[0] if parts and parts[0] in FILES else "folder"
        if self._count(place):
            assert self.kill is not None
            if place == "journal" and isinstance(first, int) and path.is_file():
                os.ftruncate(first, max(0, os.fstat(first).st_size - self.kill.torn))
            os.kill(os.getpid(), signal.SIGKILL)
        return function(first, *rest, **named)


def killed(game: Graph, folder: Path, commit: int) -> bool:
    """Play in a process that kills itself before its n-th commit; returns whether it was killed."""
    from genrl_graph.runners.play import play
    from genrl_graph.store.run_store import RunStore

    child = os.fork()
    if child == 0:
        committing, left = RunStore.commit, [commit]

        def commit_or_die(self: RunStore, records: object) -> object:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return committing(self, records)  # type: ignore[arg-type]

        RunStore.commit = commit_or_die  # type: ignore[assignment,method-assign]
        try:
            play(game, out=folder, quiet=True)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Left:
    """The results of a run: files of the store and the last checkpoint, metrics, digests of the carries."""

    store: Mapping[str, str]
    checkpoint: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    after: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path, after: Mapping[str, str]) -> "Left":
        """Return the results in a run folder."""
        last = max((path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()), default=folder / "-")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        same = [{k: v for k, v in line.items() if not k.startswith(NOT_THE_SAME)} for line in lines]
        return cls(contents(folder / "rollouts.zarr"), contents(last), same, after)

    def differences(self, other: "Left") -> list[str]:
        """Return the names of the results that differ."""
        found = [
            f"{what} {name}"
            for what in ("store", "checkpoint", "after")
            for mine, theirs in [(getattr(self, what), getattr(other, what))]
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        return found + (["metrics"] if self.metrics != other.metrics else [])


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, by path."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _hash(path) for name, path in files.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Crashes:
    """Plays one game again and again in a folder; `kills` counts by place how many runs were killed.

    `only` are the places at which they are.
    """

    def __init__(self, graph: Graph, folder: Path, *, only: Sequence[str], seed: int) -> None:
        self._graph, self._folder, self._only, self._rng = graph, folder, only, random.Random(seed)
        self.kills: Counter[str] = Counter()
        started = time.monotonic()
        places, after = self._finish(folder / "whole", None)
        self._seconds, self._places = time.monotonic() - started, places
        self.whole = Left.of(folder / "whole", after)
        steps = sum(line.get("update/optimiser_steps", 0) for line in self.whole.metrics)
        assert steps, "a run that trains nothing shows nothing"

    def round(self, number: int) -> list[str]:
        """Play a run that is killed at least once; returns the results that differ, and the kills."""
        folder, kills = self._folder / f"run-{number}", []
        places = [place for place in self._only if place == "moment" or place in self._places]
        kill: Kill | None = self._draw(places[number % len(places)])
        while True:
            found = self._run(folder, kill)
            if found is not None:
                break
            assert kill is not None, "a run that nobody kills ends"
            kills.append(str(kill))
            self.kills[kill.place] += 1
            kill = self._draw(self._rng.choice(places)) if self._rng.random() < 0.4 else None
        _, after = found
        told = self.whole.differences(Left.of(folder, after))
        shutil.rmtree(folder)
        return [f"{what} (killed at {', '.join(kills)})" for what in told]

    def _draw(self, place: str) -> Kill:
        if place == "moment":
            return Kill(place, seconds=self._rng.uniform(0, self._seconds))
        calls = [at for at, found in enumerate(self._places, start=1) if found == place]
        return Kill(place, self._rng.choice(calls), torn=self._rng.choice([0, 1, 100, 1000]))

    def _finish(self, folder: Path, kill: Kill | None) -> tuple[list[str], dict[str, str]]:
        found = self._run(folder, kill)
        assert found is not None
        return found

    def _run(self, folder: Path, kill: Kill | None) -> tuple[list[str], dict[str, str]] | None:
        """Play in a forked process; returns None where it was killed, else the places of its calls and the digests."""
        told = folder.with_name(f"{folder.name}.json")
        child = os.fork()
        if child == 0:
            os._exit(_play(self._graph, Watch(kill, folder), told, in_steps=not set(self._only).isdisjoint(STEPS)))
        if kill is not None and kill.place == "moment":
            _kill_after(child, kill.seconds)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, f"the run failed with status {status}"
        places, after = json.loads(told.read_text())
        return places, after


def _play(graph: Graph, watch: Watch, told: Path, *, in_steps: bool) -> int:
    from genrl_graph.runners.play import play

    try:
        if in_steps:
            watch.steps(graph)
        else:
            watch.files()
        run = play(graph, out=watch.folder, quiet=True, resume=True)
        told.write_text(json.dumps([watch.places, {"/".join(key): digest for key, digest in run.after.items()}]))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _note_runs(graph: Graph, name: str, inside: list[str]) -> None:
    """Set `inside` to the name of a node while it runs."""
    cls = type(graph.nodes[name].node)
    run = cls.run  # type: ignore[attr-defined]  # every node has one

    def noted(self: Node, *args: object, **inputs: object) -> object:
        inside[0] = name if self.place.node == name else inside[0]
        try:
            return run(self, *args, **inputs)
        finally:
            inside[0] = ""

    cls.run = noted  # type: ignore[attr-defined]


def _kill_after(child: int, seconds: float) -> None:
    """Kill a process after a while, unless it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)


def _import_all(graph: Graph) -> None:
    """Import the modules that every run needs, before the fork."""
    from genrl_graph.dag.schedule import compile_graph
    from genrl_graph.nodes.update.steps import training
    from genrl_graph.runners.loop.peers import make_peers
    from genrl_graph.store import arrays

    assert arrays and training
    make_peers(compile_graph(graph), ["peer0000"], seed=0)
    gc.freeze()  # no run walks what was imported, nor copies its pages


def main() -> None:
    """Kill runs from the command line; prints the differences, and fails where there are any."""
    parser = argparse.ArgumentParser(description="kill runs, resume them, compare with a run that was never cut")
    parser.add_argument("--game", choices=GAMES, default="tiny")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other params than those of the small game")
    args = parser.parse_args()

    game, found, runs = GAMES[args.game], list[str](), 0
    graph = load(GRAPHS / game.file, (*game.overrides, f"run.rounds={args.rounds}", *args.overrides))
    _import_all(graph)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        crashes = Crashes(graph, Path(folder), only=game.places, seed=args.seed)
        while crashes.kills.total() < args.kills:
            found += crashes.round(runs)
            runs += 1
    where = ", ".join(f"{count} {place}" for place, count in sorted(crashes.kills.items()))
    print(f"{crashes.kills.total()} kills of {runs} runs ({where}) in {time.monotonic() - started:.0f} s")
    for line in found:
        print(f"differs: {line}")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
