"""Real kills of a run around every moment of a report, and a chain that is away: nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chains import key

from genrl_graph import load, open_run, play
from genrl_graph.dag.coordinator_config import CoordinatorConfig
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.endpoint import Endpoint
from genrl_graph.runners.chain.leaderboard import events
from genrl_graph.runners.chain.run_coordinator import client_of
from genrl_graph.runners.chain.wallet import KEY
from genrl_graph.store.outbox import Outbox, read_outbox
from genrl_graph.store.run_store import RunStore

SECRET = key(5)
KILLS = 20
MOMENTS: tuple[tuple[type, str, str, tuple[int, ...]], ...] = (
    (RunStore, "commit", "after", (5, 6, 9)),  # the report, the round and the vote are committed, but not queued
    (Outbox, "queue", "after", (0, 1, 2)),
    (Endpoint, "send", "before", (0, 1)),  # signed and written down
    (Endpoint, "send", "after", (0, 1)),  # sent, its result not read
)
"""A method, where in it the process is killed, and at which of its calls: a round has them all."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Server"]:
    """A served chain whose owner is the wallet of the run."""
    monkeypatch.setenv(KEY, SECRET)
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


class Server:
    """`genrl-graph chain serve` as a process; it can be stopped and started again with the same chain."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        file = self.folder / "chain.yaml"
        file.unlink(missing_ok=True)
        options = ["--state", str(self.folder / "state"), "--port", str(self.port), "-o", str(file)]
        with (self.folder / "serve.log").open("ab") as log:
            command = [sys.executable, "-m", "genrl_graph", "chain", "serve", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 240
        while not file.exists():
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "serve.log").read_text()
            time.sleep(0.05)
        self.config = CoordinatorConfig.model_validate(yaml.safe_load(file.read_text()) | {"drain_s": 240.0})
        self.port = int(self.config.endpoint.rpartition(":")[2])

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def a_run(folder: Path, config: CoordinatorConfig, rounds: int) -> None:
    """Play the game, or resume it."""
    params = {"tasks.params.num_tasks": 2, "answer.params.num_generations": 2, "round.params.advance": "true"}
    graph = load("coordinated", overrides=[f"nodes.{name}={value}" for name, value in params.items()])
    play(graph, out=folder, rounds=rounds, peers=1, coordinator=config, resume=True, quiet=True, checkpoint_every=4)


def in_a_child(work: Callable[[], None]) -> int:
    """Run a function in a forked process and return how it ended: its exit code, or less than 0 for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(owner: type, name: str, when: str, at: int) -> None:
    """Let this process be killed at a call of a method."""
    method, calls = getattr(owner, name), iter(range(at, -1, -1))

    def killed(*args: Any, **kwargs: Any) -> Any:
        if when == "before" and next(calls) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **kwargs)
        if when == "after" and result != 0 and next(calls) == 0:  # 0: nothing new was queued
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killed)


def require_counted_once(folder: Path, config: CoordinatorConfig, rounds: int) -> None:
    """Require that the contract has each round's reward, vote and root once, as the store has them."""
    client, stored = client_of(config), open_run(folder)
    table = stored.frame("score").table.select(["round", "reward"]).to_pylist()
    expected = {
        number: round(1_000_000 * sum(row["reward"] for row in table if row["round"] == number))
        for number in range(rounds)
    }
    rewards = [(values["roundNumber"], values["reward"]) for values in events(client, abi.REWARDED)]
    assert sorted(rewards) == sorted(expected.items())
    for event in (abi.VOTED, abi.ROOTED):
        assert sorted(values["roundNumber"] for values in events(client, event)) == list(range(rounds))
    assert client.round() == rounds
    assert {entry.state for entry in read_outbox(folder).entries.values()} == {"done"}
    secrets = (SECRET.encode(), bytes.fromhex(SECRET))
    files = [path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()]
    assert not any(secret in data for data in files for secret in secrets)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kills_around_every_moment_lose_nothing_and_double_nothing(server: Server, tmp_path: Path) -> None:
    import torch  # before the forks, which then have it

    torch.set_num_threads(1)
    folder, killed = tmp_path / "run", 0
    for number in range(KILLS):
        owner, name, when, calls = MOMENTS[number % len(MOMENTS)]
        at = calls[number // len(MOMENTS) % len(calls)]

        def work(owner: type = owner, name: str = name, when: str = when, at: int = at, number: int = number) -> None:
            killing(owner, name, when, at)
            a_run(folder, server.config, number + 1)  # each child has a round that the last one did not play

        killed += in_a_child(work) == -signal.SIGKILL
    assert killed == KILLS
    assert in_a_child(lambda: a_run(folder, server.config, KILLS + 1)) == 0
    require_counted_once(folder, server.config, KILLS + 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_chain_that_is_away_for_ten_rounds_gets_everything_once(server: Server, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    folder, away = tmp_path / "run", server.config.model_copy(update={"drain_s": 0.2, "timeout_s": 2.0})
    assert in_a_child(lambda: a_run(folder, server.config, 2)) == 0
    server.stop()
    assert in_a_child(lambda: a_run(folder, away, 12)) == 0
    assert sum(entry.is_open for entry in read_outbox(folder).entries.values()) == 10 * 4
    server.start()
    assert in_a_child(lambda: a_run(folder, server.config, 14)) == 0
    require_counted_once(folder, server.config, 14)
