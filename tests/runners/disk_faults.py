"""Refuse every file operation of every writer in turn, with a full disk or a read error; also a script.

    OMP_NUM_THREADS=1 python tests/runners/disk_faults.py
    OMP_NUM_THREADS=1 python tests/runners/disk_faults.py --only run rows --every 5

A writer is a command of a small game. It is played once undisturbed. Then it is played again and again, each time with
one more operation of its run refused (`system_calls`). It must end with a documented exit code and one line that names
a path and the system's reason, and once the disk has recovered, the same command, or the resumed run, must have the
result of the undisturbed one.
"""

import argparse
import contextlib
import errno
import gc
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from crash import NOT_THE_SAME, contents
from system_calls import Disk, Operation, run_on

from genrl_graph import Reward, Rollouts, Scored, score
from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError

TEXT = """\
graph: text
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "abc?", hidden_size: 8, layers: 1, heads: 1}, next: update}
  level: {type: carry.level, params: {start: 1, highest: 3}, next: raise}
  baselines: {type: carry.baselines, next: track}
nodes:
  tasks:
    type: source.list
    params: {tasks: [{question: a?}, {question: b?}], eval_tasks: [{question: c?}]}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 4, max_new_tokens: 2}
  score: {type: reward.letter_b, inputs: {rollouts: answer}}
  raise: {type: update.level, inputs: {level: level, scored: [score]}, params: {raise_at: 0.2, lower_at: 0.1}}
  track: {type: update.baselines, inputs: {baselines: baselines, scored: [score]}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
run: {rounds: 2, checkpoint_every: 1, keep: 1, block_rounds: 2, mode: train_and_evaluate, eval_tasks: 1}
"""
POLE = """\
graph: pole
version: 1
carry:
  policy: {type: policy.q_network, params: {environment: {id: CartPole-v1}, hidden: [4]}, next: update}
  replay: {type: carry.replay, params: {capacity: 64}, next: remember}
nodes:
  tasks: {type: source.environment, params: {environment: {id: CartPole-v1}, num_episodes: 1}}
  play: {type: generate.play, inputs: {tasks: tasks, policy: policy}}
  remember: {type: update.replay, inputs: {replay: replay, scored: [play]}}
  update: {type: update.dqn, inputs: {policy: policy, replay: remember}, params: {learning_rate: 1e-3}}
run: {rounds: 2, checkpoint_every: 1, trackers: []}
"""


class LetterB(Reward, name="letter_b"):
    """Reward completions that begin with b, in this process: a worker would take a second to start."""

    def run(self, rollouts: Rollouts) -> Scored[Rollouts]:
        return score(rollouts, {"b": [float(text.startswith("b")) for text in rollouts.values("completion")]})


DOCUMENTED = {StoreError.exit_code}
"""Exit codes of a command whose disk refuses."""
ERRORS = (errno.ENOSPC, errno.EIO)


@dataclass(frozen=True, slots=True)
class Writer:
    """A command that writes: its words, how it is repeated after a fault, and what it has written then.

    `out` are its files and folders in the working folder. With `base` it starts beside a finished run of the game.
    """

    command: str
    out: tuple[str, ...]
    again: str = ""
    base: bool = True


WRITERS = {
    "run": Writer("run text.yaml -o run -q", ("run",), "run text.yaml -o run -q --resume", base=False),
    "run of games": Writer("run pole.yaml -o run -q", ("run",), "run pole.yaml -o run -q --resume", base=False),
    "profile": Writer(
        "run text.yaml -o run -q --profile ops run.trackers=[]",
        ("run",),
        "run text.yaml -o run -q --resume run.trackers=[]",
        base=False,
    ),
    "resume": Writer("resume run run.rounds=3 -q", ("run",)),
    "evaluate": Writer(
        "run text.yaml -o evaluated -q run.mode=evaluate",
        ("evaluated",),
        "run text.yaml -o evaluated -q run.mode=evaluate --resume",
        base=False,
    ),
    "rows.jsonl": Writer("rows run answer -o out/rows.jsonl", ("out/rows.jsonl",)),
    "rows.parquet": Writer("rows run answer -o out/rows.parquet", ("out/rows.parquet",)),
    "rows": Writer("rows run answer -o out/rows", ("out/rows",)),
    "draw.svg": Writer("draw text.yaml -o text.svg", ("text.svg",)),
    "draw.png": Writer("draw text.yaml -o text.png", ("text.png",)),
    "draw.html": Writer("draw --run run -o run.html", ("run.html",)),
    "curves": Writer("runs run --png curves.png", ("curves.png",)),
    "schema": Writer("schema -o schema.json", ("schema.json",)),
    "export": Writer("export run policy exported", ("exported",)),
    "replay": Writer("replay run text.yaml -o replayed -q --recompute all", ("replayed",)),
    "replay with update": Writer("replay run text.yaml -o replayed -q --update", ("replayed",)),
    "compact": Writer("store compact run", ("run",)),
}
READERS = (
    "runs .",
    "runs run",
    "rollouts run --full",
    "rows run answer -o {elsewhere}/rows.parquet",
    "draw --run run",
    "diff run text.yaml",
    "store verify run",
    "export run policy {elsewhere}/exported",
    "replay run text.yaml -o {elsewhere}/replayed -q",
)
"""Commands that read a run, of which nothing may be written."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One refused operation of a writer, or with `lasting` also all later ones."""

    writer: str
    at: int
    error: int
    lasting: bool

    def __str__(self) -> str:
        return f"{self.writer}, {errno.errorcode[self.error]} {'from' if self.lasting else 'at'} operation {self.at}"


class Bench:
    """Plays writers on disks that refuse, in a folder; `base` there holds a finished run of the game of text."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._base, self._work = folder, folder / "base", folder / "work"
        self._base.mkdir()
        (self._base / "text.yaml").write_text(TEXT)
        (self._base / "pole.yaml").write_text(POLE)
        code, said, _ = self._play(self._base, "run text.yaml -o run -q", None)
        assert code == 0, said
        self._whole: dict[str, tuple[list[Operation], Mapping[str, object]]] = {}

    def operations(self, writer: str) -> list[Operation]:
        """Return the operations of an undisturbed writer, in their order."""
        return self._undisturbed(writer)[0]

    def places(self, writer: str) -> list[int]:
        """Return the number of the first operation of each kind on each kind of file."""
        first: dict[tuple[str, ...], int] = {}
        for at, operation in enumerate(self.operations(writer)):
            first.setdefault(_place(operation.kind, operation.path.relative_to(self._work)), at)
        return list(first.values())

    def fault(self, fault: Fault) -> list[str]:
        """Play a writer with a fault, and once more without; return what is wrong."""
        writer, (_, whole) = WRITERS[fault.writer], self._undisturbed(fault.writer)
        self._prepare(writer)
        disk = Disk(self._work, fault.at, fault.error, lasting=fault.lasting)
        code, said, _ = self._play(self._work, writer.command, disk)
        where = (
            f"{fault} ({disk.refused[0].kind} {disk.refused[0].path.relative_to(self._work)})"
            if disk.refused
            else str(fault)
        )
        wrong = [] if not disk.refused else wrong_end(code, said, os.strerror(fault.error), writer.out)
        if code or writer.again:
            again, said_again, _ = self._play(self._work, writer.again or writer.command, None)
            if again:
                wrong.append(f"cannot be repeated: code {again}: {last_line(said_again)}")
        if not wrong and (differing := differences(whole, results(self._work, writer.out))):
            wrong.append(f"another result afterwards: {', '.join(differing[:4])}")
        return [f"{where}: {what}" for what in wrong]

    def read_only(self, command: str) -> list[str]:
        """Run a command on a run in a folder that refuses to be written; return what is wrong."""
        elsewhere = self._folder / "elsewhere"
        shutil.rmtree(elsewhere, ignore_errors=True)
        disk = Disk(self._base, 0, errno.EROFS, lasting=True)
        code, said, _ = self._play(self._base, command.format(elsewhere=elsewhere), disk)
        tried = [f"tries to {operation}" for operation in disk.refused]
        return tried if not code else [*tried, f"code {code}: {last_line(said)}"]

    def few_files(self, command: str, more: int) -> list[str]:
        """Run a command in a process that may open only so many more files; return what is wrong."""
        self._prepare(Writer(command, (), base=False))
        code, said, _ = self._play(self._work, command, None, more)
        if code == 0 and "Traceback" not in said:
            return []
        wrong = wrong_end(code, said, os.strerror(errno.EMFILE), ("",))
        return wrong if "ulimit -n" in said else [*wrong, f"does not say what to do: {said[-300:]}"]

    def _undisturbed(self, name: str) -> tuple[list[Operation], Mapping[str, object]]:
        if name not in self._whole:
            writer, disk = WRITERS[name], Disk(self._work, error=errno.EIO)
            self._prepare(writer)
            code, said, _ = self._play(self._work, writer.command, disk)
            assert code == 0, f"{name}: {said}"
            self._whole[name] = disk.operations, results(self._work, writer.out)
        return self._whole[name]

    def _prepare(self, writer: Writer) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._base, self._work, ignore=None if writer.base else shutil.ignore_patterns("run"))

    def _play(
        self, work: Path, command: str, disk: Disk | None, more_files: int | None = None
    ) -> tuple[int, str, Disk]:
        """Run a command of the command line in a process of its own; returns its exit code and what it said."""
        told, disk = self._folder / "said", disk or Disk(self._folder / "none")
        code = run_on(disk, partial(_run, work, command.split(), told, more_files))
        return code, told.read_text(errors="replace"), disk


def _place(kind: str, path: Path) -> tuple[str, ...]:
    """Return the kind of an operation and its path without numbers; arrays of a store are one place."""
    parts = [re.sub(r"[0-9]+|^[.]tmp.*", "#", part) for part in path.parts]
    if "rollouts.zarr" in parts:
        parts[parts.index("rollouts.zarr") + 1 : -1] = []
    return kind, *parts


def _run(work: Path, command: Sequence[str], told: Path, more_files: int | None) -> int:
    handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)  # also where a test captures them
    os.chdir(work)
    if more_files is not None:
        most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + more_files
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return run_command(command)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def wrong_end(code: int, said: str, reason: str, out: Sequence[str]) -> list[str]:
    """Return what is wrong with the end of a command whose disk refused."""
    if "Traceback" in said or code not in (0, *DOCUMENTED):
        return [f"code {code}: {last_line(said)}"]
    lines = [line for line in said.splitlines() if line.startswith("genrl-graph: ")]
    if code == 0:
        return []
    if (
        len(lines) != 1
        or reason not in lines[0]
        or not any(name.partition("/")[0] in lines[0] for name in (*out, " .: "))
    ):
        return [f"code {code} without one line that names the path and the reason: {lines or said[-300:]}"]
    return []


def last_line(said: str) -> str:
    """Return the last line of what a command said."""
    return (said.strip().splitlines() or ["nothing"])[-1][:300]


def results(work: Path, out: Sequence[str]) -> dict[str, object]:
    """Return what a writer has written, without times: hashes of files, and the metrics; also remains of drafts."""
    found: dict[str, object] = {}
    for name in out:
        path = work / name
        found[name] = contents(path.parent).get(path.name) if path.is_file() else path.is_dir()
        if (path / "graph.yaml").exists():
            found |= {f"{name}/{part}": value for part, value in _run_results(path).items()}
        elif path.is_dir():
            found |= {f"{name}/{part}": value for part, value in contents(path).items()}
    drafts = [
        str(path.relative_to(work)) for path in work.rglob("*") if path.name.startswith(".") or ".partial" in path.name
    ]
    return found | dict.fromkeys(drafts, "a draft")


def _run_results(folder: Path) -> dict[str, object]:
    found: dict[str, object] = dict(contents(folder / "rollouts.zarr"))
    saved = sorted(path for path in (folder / "checkpoints").glob("*"))
    found |= {f"{saved[-1].name}/{name}": value for name, value in contents(saved[-1]).items()} if saved else {}
    metrics = folder / "metrics.jsonl"
    for number, line in enumerate(metrics.read_text().splitlines() if metrics.exists() else ()):
        values = json.loads(line)
        found[f"metrics {number}"] = {key: values[key] for key in values if not key.startswith(NOT_THE_SAME)}
    return found


def differences(whole: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the names of the results that differ."""
    return [name for name in sorted(whole.keys() | now.keys()) if whole.get(name) != now.get(name)]


def warm_up(folder: Path) -> None:
    """Import what the commands need, so that the processes inherit it."""
    (folder / "text.yaml").write_text(TEXT)
    with contextlib.chdir(folder), open(os.devnull, "w") as null, contextlib.redirect_stdout(null):  # noqa: PTH123
        run_command(["check", "text.yaml"])
        run_command(["draw", "text.yaml", "-o", "text.png"])
    from genrl_graph.inspection import plot, rows
    from genrl_graph.nodes.update import dqn, steps
    from genrl_graph.runners import export, play, torchrun
    from genrl_graph.runners.replay import replay

    assert all((plot, rows, dqn, steps, export, play, torchrun, replay))
    gc.freeze()


def main() -> None:
    """Refuse operations from the command line; prints what is wrong, and fails where anything is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", choices=WRITERS, default=list(WRITERS))
    parser.add_argument("--all", action="store_true", help="every operation, not one of each kind on each kind of file")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every n-th of them")
    args = parser.parse_args()
    started, wrong, count = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "warm").mkdir()
        warm_up(folder / "warm")
        bench = Bench(folder)
        for writer in args.only:
            operations = bench.operations(writer)
            places = range(len(operations)) if args.all else bench.places(writer)
            for error in ERRORS:
                for at in places[:: args.every]:
                    count += 1
                    for line in bench.fault(Fault(writer, at, error, lasting=error == errno.ENOSPC)):
                        print(line, flush=True)
                        wrong[writer] += 1
            print(f"{writer}: {len(operations)} operations, {len(places)} tried, {wrong[writer]} wrong", flush=True)
    print(f"{count} faults in {time.monotonic() - started:.0f} s, {wrong.total()} wrong")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
