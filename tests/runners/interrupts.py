"""Interrupt runs at random moments with Ctrl-C or SIGTERM, resume them, and hold their ends against the rules.

    OMP_NUM_THREADS=1 python tests/runners/interrupts.py --signals 400
    OMP_NUM_THREADS=1 python tests/runners/interrupts.py --signals 20 --runners torch

A run is a session of processes that the command line starts: one process, two ranks of torchrun, or two peers of a
swarm. Ctrl-C is a SIGINT for their process groups, as from a terminal; SIGTERM is for those that were started. All
moments count, the start of the interpreter included. All of a run's processes must be gone within 5 s, with the exit
code of the signal and without a traceback. The run is then resumed, and interrupted again, until it comes to its end:
`store verify` must pass each time, and a run in one process, or of ranks, must end with the folder of an undisturbed
one.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from crash import GAMES, GRAPHS, Left
from ranks import ROOT, free_port

from genrl_graph.cli import run_command
from genrl_graph.errors import RoundsSkipped, SwarmError
from genrl_graph.runners.swarm.transport.identity import Identity

SOUGHT = "in _get_module_details"
BEFORE_ALL = "Could not import runpy module"
LIMIT_S = 5.0
LONGEST_S = 300.0
RANKS = 2
MARK = "INTERRUPTED_RUN"
PEERS = ("ann", "bob")
SHARES = {"local": 4, "torch": 3, "swarm": 3}
SHORT = [
    f"nodes.{name}.params.{param}"
    for name in ("answers", "critiques")
    for param in ("timeout_s=3", "min_peers=1", "on_short=continue")
]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WHOLE = {0, RoundsSkipped.exit_code}


@dataclass(slots=True)
class Session:
    """The processes of one run; all that descend from them carry `mark` in their environment."""

    started: list["subprocess.Popen[bytes]"]
    mark: str
    logs: Path
    launched: bool  # by torchrun, which has exit codes of its own

    def processes(self) -> list[int]:
        """Return the ids of all processes of the run that are still there."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_mine(path)]

    def send(self, signum: int) -> None:
        """Send a signal: Ctrl-C to the groups of the processes that were started, any other signal to these alone."""
        send = os.killpg if signum == signal.SIGINT else os.kill
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                send(process.pid, signum)

    def wait(self, seconds: float) -> bool:
        """Wait until the started processes have ended; returns whether they have."""
        until = time.monotonic() + seconds
        while any(process.poll() is None for process in self.started):
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def wait_for_ranks(self) -> None:
        """Wait until torchrun has started its ranks: before, it may swallow a Ctrl-C, or leave a rank behind."""
        while self.launched and len(self.processes()) <= RANKS and not self.wait(0.01):
            pass

    def kill(self) -> None:
        """Kill what is left."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()

    def text(self) -> str:
        """Return what all processes said."""
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')}" for path in self._written())

    def tracebacks(self) -> list[str]:
        """Return the last lines of what processes said that show a frame of this package.

        Before the program's first line runs, the interpreter, which imports the package to find it, and the launcher of
        ranks print tracebacks of their own.
        """
        texts = [path.read_text(errors="replace") for path in self._written()]
        ours = [text for text in texts if f'File "{ROOT}/genrl_graph/' in text and SOUGHT not in text]
        return [text.strip().splitlines()[-1] for text in ours]

    def too_early(self) -> set[int]:
        """Return the exit code of an interpreter that was ended before it looked for the program, if one was."""
        return (
            {1} if any(path.read_text(errors="replace").startswith(BEFORE_ALL) for path in self._written()) else set()
        )

    def _written(self) -> list[Path]:
        return sorted(path for path in self.logs.rglob("*.log") if path.stat().st_size)

    def _is_mine(self, environ: Path) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in environ.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or of another user
            return False


class Bench:
    """Starts runs of one kind, `local`, `torch` or `swarm`, in a folder."""

    def __init__(self, kind: str, folder: Path, *, rounds: int) -> None:
        self.kind, self._folder, self._rounds, self._number = kind, folder, rounds, 0
        self._keys = {name: Identity.load(folder / f"{name}.key") for name in PEERS} if kind == "swarm" else {}

    def start(self, run: Path, *, alone: str = "") -> Session:
        """Start or resume a run; one peer of a swarm `alone` where the others have ended."""
        self._number += 1
        mark = f"{os.getpid()}-{self.kind}-{self._number}"
        logs = self._folder / mark
        logs.mkdir()
        started = []
        for number, words in enumerate(self._commands(run, logs, alone)):
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
            with (logs / f"{number}.log").open("wb") as out:
                command = [sys.executable, *words]
                started.append(
                    subprocess.Popen(command, env={**env, MARK: mark}, stdout=out, stderr=out, start_new_session=True)
                )
        return Session(started, mark, logs, launched=self.kind == "torch")

    def _commands(self, run: Path, logs: Path, alone: str) -> list[list[str]]:
        game = GAMES["tiny"]
        play = ["-m", "genrl_graph", "run", str(GRAPHS / game.file), "--resume", "-q", "-o", str(run)]
        play += [*game.overrides, f"run.rounds={self._rounds}"]
        if self.kind == "local":
            return [play]
        if self.kind == "torch":
            launch = ["--nproc-per-node", str(RANKS), f"--master-port={free_port()}"]
            launch += ["--log-dir", str(logs), "--redirects=3"]
            return [["-m", "torch.distributed.run", *launch, *play, "--runner", "torch"]]
        address = f"/ip4/127.0.0.1/tcp/{free_port()}"
        join = f"{address}/p2p/{self._keys[PEERS[0]].peer_id}"
        commands = []
        for name in [alone] if alone else PEERS:
            joins = name != PEERS[0] and not alone
            where = ["--join", join, "--join-timeout", "60"] if joins else ["--listen", address]
            who = ["--runner", "swarm", "--peer-name", name, "--identity", str(self._folder / f"{name}.key")]
            commands.append([*play, *SHORT, *who, *where])
        return commands


@dataclass(slots=True)
class Tally:
    """Signals sent, by kind of run and signal; seconds to the end; exit codes; what was wrong."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    codes: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    whole: int = 0

    def add(self, kind: str, signum: signal.Signals, seconds: float, codes: Sequence[int]) -> None:
        """Add an interrupted run."""
        self.sent[kind, signum.name] += 1
        self.seconds.setdefault((kind, signum.name), []).append(seconds)
        self.codes.update((kind, signum.name, code) for code in codes)


class Interrupts:
    """Interrupts runs of one kind at random moments, and resumes each until it comes to its end."""

    def __init__(self, bench: Bench, folder: Path, tally: Tally, *, seed: int) -> None:
        self._bench, self._folder, self._tally, self._rng = bench, folder, tally, random.Random(seed)
        self._run, self._signals, self._chain = folder / "run", 0, list[str]()
        started = time.monotonic()
        self._finish(folder / "whole")
        self._seconds = time.monotonic() - started
        self._whole = self._left(folder / "whole")

    def interrupt(self, signum: signal.Signals) -> None:
        """Send one signal to a run; ends that come before their signal are checked on the way."""
        while True:
            session, after = self._bench.start(self._run), self._rng.uniform(0, self._seconds)
            if not session.wait(after):
                break
            self._end(session)
        session.wait_for_ranks()
        started = time.monotonic()
        session.send(signum)
        while (left := session.processes()) and time.monotonic() < started + LONGEST_S / 10:
            time.sleep(0.02)
        seconds = time.monotonic() - started
        self._chain.append(f"{signum.name} after {after:.1f} s")
        if seconds > LIMIT_S:
            self._blame(f"took {seconds:.1f} s to end, left {_names(left)}", session)
        session.kill()
        codes = [process.wait() for process in session.started]
        self._tally.add(self._bench.kind, signum, seconds, codes)
        self._check(session, signum, codes)

    def end(self) -> None:
        """Play the interrupted run to its end, and hold it against the undisturbed one."""
        session = self._bench.start(self._run)
        if not session.wait(LONGEST_S):
            self._blame("does not end", session)
        self._end(session)

    def _check(self, session: Session, signum: int, codes: Sequence[int]) -> None:
        if not session.launched and not set(codes) <= {128 + signum, -signum, *WHOLE} | session.too_early():
            self._blame(f"exit codes {codes}", session)
        if tracebacks := session.tracebacks():
            self._blame(f"a traceback: {tracebacks[0]}", session)
        for folder in run_folders(self._run):
            told = io.StringIO()
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                code = run_command(["store", "verify", str(folder)])
            if code:
                self._blame(f"store verify: {told.getvalue().strip()[-300:]}", session)

    def _end(self, session: Session) -> None:
        """Check a run that ended by itself, and begin another one."""
        session.kill()
        codes = [process.wait() for process in session.started]
        if len(codes) == len(PEERS) and codes[0] in WHOLE and codes[1] == SwarmError.exit_code:
            # the one that it would join had little left to play, and is gone
            session = self._bench.start(self._run, alone=PEERS[1])
            session.wait(LONGEST_S)
            session.kill()
            codes = [process.wait() for process in session.started]
        if not set(codes) <= WHOLE:
            self._blame(f"does not resume: exit codes {codes}", session)
        elif self._whole is not None and (left := self._left(self._run)) is not None:
            for differs in [
                each for mine, other in zip(self._whole, left, strict=True) for each in mine.differences(other)
            ]:
                self._blame(f"differs from an undisturbed run: {differs}", session)
        self._tally.whole += 1
        self._chain.clear()
        shutil.rmtree(self._run, ignore_errors=True)

    def _finish(self, run: Path) -> None:
        session = self._bench.start(run)
        assert session.wait(LONGEST_S), "an undisturbed run ends"
        assert {process.returncode for process in session.started} <= WHOLE, session.text()

    def _left(self, run: Path) -> list[Left] | None:
        """Return the results of each peer; None for a swarm, where they depend on who came when."""
        return None if self._bench.kind == "swarm" else [Left.of(folder, {}) for folder in run_folders(run)]

    def _blame(self, what: str, session: Session) -> None:
        self._tally.wrong.append(f"{self._bench.kind} ({', '.join(self._chain)}): {what}")
        print(f"{self._tally.wrong[-1]}\n{session.text()[-3000:]}", flush=True)


def run_folders(run: Path) -> list[Path]:
    """Return the folders of the peers that a run has made so far."""
    return sorted(path.parent for path in (run / "graph.yaml", *run.glob("*/graph.yaml")) if path.exists())


def _names(ids: Sequence[int]) -> str:
    found = []
    for pid in ids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found.append(" ".join(os.fsdecode(word) for word in words[:3]))
    return "; ".join(found) or "nothing"


def main() -> None:
    """Interrupt runs from the command line; prints the times and codes, and fails where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--signals", type=int, default=400, help="half of them Ctrl-C, half SIGTERM")
    parser.add_argument("--runners", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this with `&` has it ignored
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for kind in args.runners:
            folder = Path(name) / kind
            folder.mkdir()
            interrupts = Interrupts(Bench(kind, folder, rounds=args.rounds), folder, tally, seed=args.seed)
            share = SHARES[kind] / sum(SHARES[each] for each in args.runners)
            for number in range(round(args.signals * share)):
                interrupts.interrupt(SIGNALS[number % 2])
            interrupts.end()
    for (kind, signum), count in sorted(tally.sent.items()):
        codes = ", ".join(f"{code}: {n}" for (*who, code), n in sorted(tally.codes.items()) if who == [kind, signum])
        seconds = sorted(tally.seconds[kind, signum])
        ends = f"{seconds[len(seconds) // 2]:.2f} s (median), {seconds[-1]:.2f} s at most"
        print(f"{kind} {signum}: {count}, {ends}; exit codes {codes}")
    print(f"{tally.whole} runs came to their end, {len(tally.wrong)} wrong, in {time.monotonic() - started:.0f} s")
    raise SystemExit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
