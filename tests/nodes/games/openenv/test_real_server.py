"""The server of OpenEnv itself, from PyPI in an environment of its own: killed in the middle, and with 64 sessions.

It plays the game that the page "Bring an environment" serves. `make openenv` runs this.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.compute as pc
import pytest
from code_blocks import PAGES, blocks_of
from websockets.sync.client import connect

import genrl_graph.graphs
from genrl_graph import load
from genrl_graph.nodes.games.text_game import CheckedTextGame
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

VERSION = "0.10.0"
GAME = Path(genrl_graph.graphs.__file__).resolve().parent / "dialogue" / "openenv.yaml"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


class Server:
    """A server process at one port."""

    def __init__(self, python: Path, script: Path, port: int) -> None:
        self._command, self.port = [str(python), str(script)], port
        self.begin()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.2)
        raise AssertionError("no server")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openenv")
    python = Path(os.environ.get("OPENENV_PYTHON", folder / "venv" / "bin" / "python"))
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", f"openenv=={VERSION}"], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = (PAGES / "howto" / "bring_environment.md").read_text()
    (text,) = [block.text for block in blocks_of(page) if block.file_name == "server.py"]
    assert "port=8000" in text
    (folder / "server.py").write_text(text.replace("port=8000", f"port={port}"))
    served = Server(python, folder / "server.py", port)
    yield served
    served.kill()


def source(server: Server, **params: Any) -> EnvironmentSource:
    params = {"url": server.url, "text": "prompt", "action": "guess", **params}
    return EnvironmentSource(environment={"kind": "openenv", "id": "digit", "params": params})


def test_a_server_that_is_killed_and_comes_back_costs_no_episode(server: Server, tmp_path: Path) -> None:
    options = ["run.rounds=3", "run.trackers=[]", "nodes.tasks.params.num_episodes=64"]
    options += ["nodes.tasks.params.environment.params.timeout_s=100", "nodes.play.params.step_timeout_s=300"]
    graph = load(GAME, [f"nodes.tasks.params.environment.params.url={server.url}", *options])
    play(graph, out=tmp_path / "whole", rounds=1, quiet=True)
    running = threading.Thread(target=play, args=(graph,), kwargs={"out": tmp_path / "cut", "quiet": True})
    running.start()
    while _sessions(server.port) < 48:
        time.sleep(0.002)
    server.kill()
    time.sleep(1)
    server.begin()
    running.join()
    whole, cut = (RunStore.open(tmp_path / name).table("play") for name in ("whole", "cut"))
    restarts = RunStore.open(tmp_path / "cut").table("play/restarts").to_pydict()
    print(f"\n{len(restarts['episode'])} episodes began again: {sorted(set(restarts['reason']))}")
    assert restarts["episode"] and set(restarts["round"]) == {0}
    assert not any(cut["error"].to_pylist()), set(cut["error"].to_pylist())
    first = cut.filter(pc.equal(cut["round"], 0)).drop_columns("logprobs")  # equal but for rounding
    assert first.equals(whole.drop_columns("logprobs"))


def _sessions(port: int) -> int:
    """Return how many connections to a port are open."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(remote.endswith(f":{port:04X}") and state == "01" for _, _, remote, state, *_ in lines)


def test_64_sessions_side_by_side(server: Server) -> None:
    declared = source(server)
    declared.prepare()
    games = [declared.environment.open_text() for _ in range(64)]
    began = time.perf_counter()
    for seed, game in enumerate(games):
        game.start(seed)
    turns = [game.reset(seed) for seed, game in enumerate(games)]
    print(f"\n64 sessions begin in {time.perf_counter() - began:.2f} s")
    with pytest.raises(Exception, match="CAPACITY_REACHED"):
        source(server, timeout_s=1).environment.open_text().reset(0)
    side, alone, seeds = 0.0, 0.0, iter(range(64, 10**6))
    for number in range(10):
        side += _moves(games, turns, seeds, number % 10)
        alone += sum(_moves([game], turns[at : at + 1], seeds, number % 10) for at, game in enumerate(games))
    print(f"a move of 64: {side / 640 * 1e3:.2f} ms each side by side, {alone / 640 * 1e3:.2f} ms one by one")
    for game in games:
        game.close()
    assert side < alone


def _moves(games: list[CheckedTextGame], turns: list[Any], seeds: Iterator[int], guess: int) -> float:
    """Play one move of each game, begin those again that are over, and return the seconds of the moves."""
    began = time.perf_counter()
    for game in games:
        game.send(str(guess))
    turns = [game.step(str(guess)) for game in games]
    seconds = time.perf_counter() - began
    for game, turn in zip(games, turns, strict=True):
        if turn.over:
            game.reset(next(seeds))
    return seconds


def test_a_step_takes_about_as_long_as_over_a_bare_socket(server: Server) -> None:
    declared = source(server)
    game, ours, bare = declared.environment.open_text(), [], []
    with connect(f"ws://127.0.0.1:{server.port}/ws", compression=None) as plain:
        for seed in range(200):
            plain.send(json.dumps({"type": "reset", "data": {"seed": seed}}))
            plain.recv()
            game.reset(seed)
            for guess in ("10", "11", "12"):
                began = time.perf_counter()
                plain.send(json.dumps({"type": "step", "data": {"guess": guess}}))
                json.loads(plain.recv())
                bare.append(time.perf_counter() - began)
                began = time.perf_counter()
                game.step(guess)
                ours.append(time.perf_counter() - began)
    game.close()
    ratio = median(one / other for one, other in zip(ours, bare, strict=True))
    print(f"\na step: {median(ours) * 1e3:.2f} ms, bare {median(bare) * 1e3:.2f} ms, median of ratios {ratio:.2f}")
    assert ratio < 1.5
