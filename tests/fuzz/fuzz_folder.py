"""Fuzzes run folders: one that `store verify` passes is read, compacted, resumed, replayed and exported in order.

    python tests/fuzz/fuzz_folder.py --seconds 600

Each mutant of a small run is one of two kinds: its records are changed and written anew as a run writes them, so that
all hashes hold, or its files are. In a process of its own with little memory, `store verify` says whether it is sound.
If so, every command runs on it. A traceback, a crash, a hang, or a byte that changed outside the folder is a finding;
the mutants of findings are kept.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutants import mutate  # beside this file

from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError

GAME = """\
graph: fuzzed
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "abc?", hidden_size: 8, layers: 1, heads: 1}, next: update}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a?, answer: b}, {question: b?, answer: c}]}}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 2, max_new_tokens: 2}
  shared: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}
  score: {type: reward.regex, inputs: {rollouts: shared}, params: {pattern: "[bc]"}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-3}}
run: {rounds: 3, peers: 2, checkpoint_every: 1, trackers: []}
"""
MEMORY_BYTES = 3 * 2**30  # beyond what the process has when it starts
CPU_SECONDS = 60  # a busy machine is no hang
WALL_SECONDS = 900.0  # for a wait that takes no time of the processor
COMMANDS = (
    "runs .",
    "runs run",
    "rollouts run --full",
    "rollouts run --failed",
    "rollouts run --node shared --top 3",
    "lineage run {id}",
    "rows run answer -o out/answer.jsonl",
    "rows run shared -o out/shared.parquet",
    "rows run credit -o out/credit",
    "draw --run run -o out/run.html",
    "diff run game.yaml",
    "replay run game.yaml -o out/replay -q --recompute all",
    "replay run game.yaml -o out/trained -q --update",
    "export run policy out/policy",
    "store compact run",
    "store verify run",
    "resume run run.rounds=4 -q",
    "store verify run",
)


@dataclass
class Tally:
    """Counts of mutants by outcome and of changes by kind, and the findings."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def main() -> int:
    """Fuzz until the time is up; returns 1 where there were findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folders", type=int, default=sys.maxsize, help="stop after so many mutants")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_folder_findings"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = make_base(Path(name) / "base")
        warm_up(base, Path(name) / "warm")
        started = time.monotonic()
        tally = fuzz(base, options.seed, options.folders, options.keep, until=started + options.seconds)
    minutes = (time.monotonic() - started) / 60
    total = tally.counts["refused"] + tally.counts["sound"]
    print(f"{total} folders ({total / minutes:.0f} a minute), {dict(tally.counts)}, {len(tally.findings)} findings")
    for finding, number in Counter(finding.splitlines()[0] for finding in tally.findings).most_common():
        print(f"{number} x {finding}")
    return bool(tally.findings)


def make_base(folder: Path) -> Path:
    """Play the game in a child process and return its run: threads of torch do not survive a fork."""
    folder.mkdir(parents=True)
    (folder / "game.yaml").write_text(GAME)
    process = multiprocessing.get_context("fork").Process(target=_play, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0, "the game was not played"
    return folder


def warm_up(base: Path, folder: Path) -> None:
    """Run the commands that train nothing, so that children inherit all imports."""
    shutil.copytree(base, folder)
    (folder / "out").mkdir()
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for command in COMMANDS:
            if not command.startswith("resume") and "--update" not in command:
                run_command(command.format(id=_some_id()).split())


def _play(folder: Path) -> None:
    os.chdir(folder)
    assert run_command(["run", "game.yaml", "-o", "run", "-q"]) == 0


def fuzz(base: Path, seed: int, folders: int, keep: Path, *, until: float) -> Tally:
    """Try mutants of `base`, one after the other."""
    tally, number = Tally(), 0
    while number < folders and time.monotonic() < until:
        rng = random.Random(f"{seed} {number}")
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            shutil.copytree(base, root / "work", symlinks=True)
            finding = try_mutant(root, rng, tally)
            if finding is not None:
                tally.findings.append(finding)
                kept = keep / f"{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                kept.mkdir(parents=True)
                (kept / "finding.txt").write_text(finding)
                print(f"{kept}: {finding.splitlines()[0]}", flush=True)
        number += 1
    return tally


def try_mutant(root: Path, rng: random.Random, tally: Tally) -> str | None:
    """Mutate the run in `root`/work, drive it in a process of its own, and return what is wrong, None for nothing."""
    work = root / "work"
    (work / "out").mkdir()
    outside = root / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    done = mutate(work / "run", rng, outside)
    before = snapshot(outside)
    report = root / "report"
    child = os.fork()
    if not child:
        _child(work, report)
    code = _wait(child)
    said = report.read_text() if report.exists() else ""
    what = f"after {', '.join(done)}"
    tally.counts["sound" if said else "refused"] += 1
    tally.counts.update(change.split(":")[0].split()[0] for change in done)
    if (after := snapshot(outside)) != before:
        return f"changed outside: {sorted(before.items() ^ after.items())} {what}\n{said}"
    if code in (None, -signal.SIGXCPU):
        return f"hangs in {said.splitlines()[-1] if said else 'store verify run'}, {what}\n{said}"
    if code:
        first = next((line for line in reversed(said.splitlines()) if line and not line.startswith(" ")), "verify")
        return f"code {code}: {first[:160]} {what}\n{said}"
    return None


def _child(work: Path, report: Path) -> None:
    """Run the commands and exit: 0, or 1 with the command and the traceback in `report`."""
    code = 1
    try:
        os.chdir(work)
        os.environ["HOME"] = str(work / "out")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        said = io.StringIO()
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(said), contextlib.redirect_stderr(null):  # noqa: PTH123
            code = 0 if _refused(report) else _drive(report)
    except BaseException:
        with report.open("a") as file:
            file.write("\n" + traceback.format_exc())
    finally:
        os._exit(code)


def _refused(report: Path) -> bool:
    try:
        return run_command(["store", "verify", "run"]) != 0
    except BaseException:
        report.write_text("store verify run\n")
        raise


def _drive(report: Path) -> int:
    for command in COMMANDS:
        with report.open("a") as file:
            file.write(f"{command}\n")
        code = run_command(command.format(id=_some_id()).split())
        if command == "store verify run" and code:
            raise AssertionError(f"a sound run is damaged, {code}")
        if code == StoreError.exit_code:
            with report.open("a") as file:
                file.write(" which a sound run should not end with 12\n")
    return 0


def _some_id() -> str:
    from genrl_graph.records.stored_run import open_run

    try:
        ids = open_run("run").table("answer").column("id").to_pylist()
    except Exception:  # the commands before have said so
        ids = []
    return str(ids[0]) if ids and ids[0] and not any(map(str.isspace, str(ids[0]))) else "0"


def _wait(child: int) -> int | None:
    """Return the exit code of a process, or the negative signal that ended it; None where it had to be killed."""
    deadline = time.monotonic() + WALL_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return what there is in a folder: by path the inode, the time of the last change, and a hash."""
    return {str(path.relative_to(folder)): _state(path) for path in _all(folder)}


def _all(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def _state(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    data = path.read_bytes() if path.is_file() else b""
    return status.st_ino, status.st_mtime_ns, hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
