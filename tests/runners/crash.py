"""Kills runs, lets them go on, and holds what they leave against a run that was never cut; also a script.

    OMP_NUM_THREADS=1 python tests/runners/crash.py --kills 100

A run is a forked process. It kills itself (SIGKILL) before the n-th time that it makes something durable or gives a
file its name, in a commit, a block or a checkpoint, or is killed at a moment; a commit that is killed can be torn.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from genrl_graph.graph import Graph
from genrl_graph.spec import load

GAME = Path(__file__).resolve().parents[2] / "graphs" / "tiny_multistage.yaml"
SMALL = (
    "nodes.tasks.params.num_tasks=2",
    "nodes.tasks.params.holdout=0.2",
    *(f"nodes.{name}.params.num_generations=2" for name in ("answer", "critique", "final")),
    "nodes.update.params.learning_rate=0.05",
    "run.checkpoint_every=2",
    "run.block_rounds=2",
    "run.mode=train_and_evaluate",
    "run.eval_tasks=2",
    "run.trackers=[]",
)
PLACES = ("journal", "rollouts.zarr", "checkpoints", "folder", "moment")
NOT_THE_SAME = ("time/", "speed/", "memory/", "eval/time", "trackers/")
"""Metrics that two equal runs do not share."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a run ends: before call `call` that makes something durable, or after so many seconds."""

    place: str
    call: int = 0
    seconds: float = 0.0
    torn: int = 0  # bytes that a commit loses

    def __str__(self) -> str:
        return f"{self.place} {self.seconds:.2f} s" if self.place == "moment" else f"{self.place} call {self.call}"


@dataclass(slots=True)
class Watch:
    """Counts, in the process of a run, what is made durable; kills the process at the call of a `Kill`."""

    kill: Kill | None
    folder: Path
    places: list[str] = field(default_factory=list)

    def start(self) -> None:
        """From now on every call counts."""
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, partial(self._call, getattr(os, name)))

    def _call(self, function: Callable[..., Any], first: Any, *rest: Any, **named: Any) -> Any:
        path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else Path(first)
        parts = path.relative_to(self.folder).parts if path.is_relative_to(self.folder) else ()
        place = parts[0] if parts and parts[0] in PLACES else "folder"
        self.places.append(place)
        if self.kill is not None and len(self.places) == self.kill.call:
            if place == "journal" and isinstance(first, int) and path.is_file():
                os.ftruncate(first, max(0, os.fstat(first).st_size - self.kill.torn))
            os.kill(os.getpid(), signal.SIGKILL)
        return function(first, *rest, **named)


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves: the files of its store and of its last checkpoint, its metrics, and the carries' digests."""

    store: Mapping[str, bytes]
    checkpoint: Mapping[str, bytes]
    metrics: Sequence[Mapping[str, Any]]
    after: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path, after: Mapping[str, str]) -> "Left":
        """What is in a run folder."""
        last = max((path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()), default=folder / "-")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        same = [{k: v for k, v in line.items() if not k.startswith(NOT_THE_SAME)} for line in lines]
        return cls(contents(folder / "rollouts.zarr"), contents(last), same, after)

    def differences(self, other: "Left") -> list[str]:
        """The names of what differs."""
        found = [
            f"{what} {name}"
            for what in ("store", "checkpoint", "after")
            for mine, theirs in [(getattr(self, what), getattr(other, what))]
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        return found + (["metrics"] if self.metrics != other.metrics else [])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Crashes:
    """Plays one game again and again in a folder; `kills` counts by place how many runs were killed."""

    def __init__(self, graph: Graph, folder: Path, *, seed: int) -> None:
        self._graph, self._folder, self._rng = graph, folder, random.Random(seed)
        self.kills: Counter[str] = Counter()
        started = time.monotonic()
        places, after = self._finish(folder / "whole", None)
        self._seconds, self._places = time.monotonic() - started, places
        self.whole = Left.of(folder / "whole", after)
        steps = sum(line.get("update/optimiser_steps", 0) for line in self.whole.metrics)
        assert steps, "a run that trains nothing shows nothing"

    def round(self, number: int) -> list[str]:
        """A run that is killed once or more and then ends: what it leaves that differs, with the kills."""
        folder, kills = self._folder / f"run-{number}", []
        places = [place for place in PLACES if place == "moment" or place in self._places]
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
        return [f"{what} (killed at {', '.join(kills)})" for what in self.whole.differences(Left.of(folder, after))]

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
        """Play in a process of its own; None where it was killed, else the places of its calls and the digests."""
        told = folder.with_name(f"{folder.name}.json")
        child = os.fork()
        if child == 0:
            os._exit(_play(self._graph, folder, kill, told))
        if kill is not None and kill.place == "moment":
            _kill_after(child, kill.seconds)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, f"the run failed with status {status}"
        places, after = json.loads(told.read_text())
        return places, after


def _play(graph: Graph, folder: Path, kill: Kill | None, told: Path) -> int:
    from genrl_graph.runners.play import play

    watch = Watch(kill, folder)
    try:
        watch.start()
        run = play(graph, out=folder, quiet=True, resume=True)
        told.write_text(json.dumps([watch.places, {"/".join(key): digest for key, digest in run.after.items()}]))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _kill_after(child: int, seconds: float) -> None:
    """Kill a process after a while, unless it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)


def _import_all(graph: Graph) -> None:
    """Import before the fork what every run would import."""
    from genrl_graph import arrays
    from genrl_graph.nodes.update import training
    from genrl_graph.runners.peers import make_peers
    from genrl_graph.schedule import compile_graph

    assert arrays and training
    make_peers(compile_graph(graph), ["peer0000"], seed=0)


def main() -> None:
    """Kill so many runs; prints what differs, and fails where anything does."""
    parser = argparse.ArgumentParser(description="kill runs, resume them, compare with a run that was never cut")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    graph, found, runs = load(GAME, (*SMALL, f"run.rounds={args.rounds}")), [], 0
    _import_all(graph)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        crashes = Crashes(graph, Path(folder), seed=args.seed)
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
