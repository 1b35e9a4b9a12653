"""Peers of a swarm as processes, started by name, joined to the first one and awaited with a time limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from genrl_graph.errors import RoundsSkipped

ENDED = (None, 0, RoundsSkipped.exit_code)  # running; ended; ended without the rounds in which the swarm was ahead
ROOT = Path(__file__).parents[3]
TINY = ROOT / "graphs/tiny_multistage.yaml"

SLOW = """
# Waits SLOW_S seconds before answering in the rounds whose number is SLOW_AT modulo SLOW_EVERY.
import os, time
from genrl_graph.runners import session

whole, seconds = session.run_round, float(os.environ.get("SLOW_S", "0"))
every, at = int(os.environ.get("SLOW_EVERY", "1")), int(os.environ.get("SLOW_AT", "0"))

def playing(context, peers, round, *, only_recorded=False):
    if seconds and round % every == at and not only_recorded:
        time.sleep(seconds)
    return whole(context, peers, round, only_recorded=only_recorded)

session.run_round = playing
"""


GATE_S = 240
GATE = f"""
# Waits in round GATE_AT until the file GATE is there.
import os, time
from pathlib import Path
from genrl_graph.runners import session

passing = session.run_round

def gated(context, peers, round, *, only_recorded=False):
    until = time.monotonic() + {GATE_S}
    while round == int(os.environ["GATE_AT"]) and not Path(os.environ["GATE"]).exists() and time.monotonic() < until:
        time.sleep(0.05)
    return passing(context, peers, round, only_recorded=only_recorded)

session.run_round = gated
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a peer and its daemon hold: resident memory in MB, file descriptors and threads."""

    rss_mb: float
    files: int
    threads: int
    daemon_mb: float
    daemon_files: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Return what a process, and the processes that it started, hold now."""
        children = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in map(int, (task / "children").read_text().split())
        ]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        return cls(_rss_mb(pid), _files(pid), threads, sum(map(_rss_mb, children)), sum(map(_files, children)))

    def __str__(self) -> str:
        own = f"{self.rss_mb:.0f} MB, {self.files} files, {self.threads} threads"
        return f"{own}; daemon {self.daemon_mb:.0f} MB, {self.daemon_files} files"


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass
class Player:
    """One process of a swarm, with a log file of its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def text(self) -> str:
        """Return the output so far."""
        return self.log.read_text()

    @property
    def running(self) -> bool:
        """Return whether the process is running."""
        return self.process.poll() is None

    def address(self, *, limit_s: float = 300.0) -> str:
        """Wait for the address that others join, and return it."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            addresses = [line.rpartition(" --join ")[2] for line in self.text.splitlines() if " --join " in line]
            if addresses:
                return addresses[0]
            assert self.running, self.text
            time.sleep(0.05)
        raise AssertionError(f"{self.name} is not there after {limit_s} s: {self.text}")

    def kill(self) -> None:
        """Kill the process, like a crash."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def usage(self) -> Usage:
        """Return the resources that the process holds."""
        return Usage.of(self.process.pid)


@dataclass
class Players:
    """The processes of one swarm, in a folder; those still running at the end of the block are killed."""

    folder: Path
    arguments: Sequence[str] = ()
    started: list[Player] = field(default_factory=list)
    graph: Path = TINY

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *error: object) -> None:
        for player in self.started:
            if player.running:
                player.kill()

    def run(self, name: str) -> Path:
        """Return the run folder of a peer."""
        return self.folder / "run" / name

    def start(self, name: str, *more: str, join: str | None = None, env: Mapping[str, str] | None = None) -> Player:
        """Start a peer; with `join`, it joins the swarm at that address."""
        joined = ["--join", join] if join else []
        own = ["--runner", "swarm", "--peer-name", name, "-o", str(self.folder / "run"), *joined]
        return self.launch(name, ["-m", "genrl_graph", "run", str(self.graph), *own, *self.arguments, *more], env or {})

    def launch(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Player:
        """Start a Python command as a process of the swarm."""
        log = self.folder / f"{name}.log"
        before = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        with log.open("ab") as out:
            process = subprocess.Popen([sys.executable, *command], env={**before, **env}, stdout=out, stderr=out)
        player = Player(name, process, log)
        self.started.append(player)
        return player

    def wait(self, *players: Player, limit_s: float) -> None:
        """Wait until these players have ended with exit code 0; a failure or a timeout fails the test."""
        until = time.monotonic() + limit_s
        while any(player.running for player in players) and time.monotonic() < until:
            failed = next((player for player in players if player.process.poll() not in ENDED), None)
            assert failed is None, f"{failed.name} ended with {failed.process.poll()}: {failed.text[-4000:]}"
            time.sleep(0.05)
        for player in players:
            code = player.process.poll()
            assert code in ENDED[1:], f"{player.name} ended with {code}: {player.text[-4000:]}"


def wait_until(what: str, holds: Callable[[], object], *, limit_s: float) -> None:
    """Wait until `holds` returns true; a timeout fails the test and names `what`."""
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


def print_claims(console: Console, claims: Iterable[tuple[str, bool]]) -> bool:
    """Print each claim and whether it holds; returns whether all do."""
    held = True
    for what, holds in claims:
        console.print(f"{'holds' if holds else 'FAILS'}: {what}")
        held = held and holds
    return held
