"""A server of runs as a process of its own, and a run whose texts try to be markup."""

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from toys import Centred, Draw, Numbers, Parity, Step, ToyPolicy, ToyPolicyCarry, toy_game

from genrl_graph import Graph, Log, Rollouts, RunConfig, Tasks, play
from genrl_graph.store.journal import Record as StepRecord
from genrl_graph.store.run_store import RunStore

TOYS = Path(__file__).parents[2] / "toys.py"
HOSTILE = (
    "</script><script>window.owned=1</script><img src=x onerror='window.owned=1'>\"'`${1}{{1}}\u2028\u202e]]>-->\x1b[2J"
)


class Hostile(Draw, name="view_hostile"):
    """A generator of completions that are markup; its last row failed."""

    def run(  # type: ignore[override]
        self, tasks: Tasks, policy: ToyPolicy, *, rng: np.random.Generator, log: Log, round: int, peer: str
    ) -> Rollouts:
        rows = super().run(tasks, policy, rng=rng, log=log, round=round, peer=peer).rows()
        for row in rows:
            row |= {"completion": HOSTILE, "messages": [{"role": HOSTILE, "content": HOSTILE}]}
        rows[-1] |= {"finish_reason": "failed", "error": HOSTILE}
        return Rollouts.from_rows(rows)


def make_runs(folder: Path) -> Path:
    """Play three rounds of the toy game with two peers, and the hostile run."""
    play(toy_game(), out=folder / "toy", rounds=3, peers=2, quiet=True)
    make_hostile_run(folder / "hostile")
    return folder


def make_hostile_run(folder: Path) -> None:
    """Play one round of the hostile generator; its folder also has hostile notes and a hostile metric."""
    g = Graph("hostile", run=RunConfig(rounds=1))
    policy = g.carry("policy", ToyPolicyCarry(bias=0))
    answer = g.add("answer", Hostile(), tasks=g.add("tasks", Numbers(num_tasks=1)), policy=policy)
    credit = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=answer))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credit]))
    play(g, out=folder, quiet=True)
    (folder / "notes.jsonl").write_text(json.dumps({"time": 1.0, "text": HOSTILE}) + "\n")
    line = {"round": 1, "peer": HOSTILE, f"peer/{HOSTILE}/late": 3.0, f"update/{HOSTILE}/gradient_share": 1.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def make_wide_game(nodes: int) -> Graph:
    """Return a game of so many nodes: many answers to the same tasks, each judged and credited."""
    g = Graph("wide", run=RunConfig(rounds=100_000))
    policy = g.carry("policy", ToyPolicyCarry(bias=0))
    tasks, credited = g.add("tasks", Numbers(num_tasks=1)), []
    for at in range((nodes - 2) // 3):
        answer = g.add(f"answer_{at}", Draw(), tasks=tasks, policy=policy)
        credited.append(g.add(f"credit_{at}", Centred(), scored=g.add(f"score_{at}", Parity(), rollouts=answer)))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=credited))
    return g


def make_long_run(folder: Path, graph: Graph, *, rounds: int, metrics: int = 1) -> None:
    """Write a run of many rounds: the metrics of every round, and the steps of the last ones."""
    with RunStore.create(folder, graph.record(), {}) as store:
        for round in range(rounds - 3, rounds):
            store.commit([StepRecord(round, name, "peer0000") for name in graph.nodes])
    names = ("rows", "tokens", "reward", "zero_variance", "kept")[:metrics]
    with (folder / "metrics.jsonl").open("w") as file:
        for round in range(rounds):
            values = {f"{node}/{name}": float(round) for node in graph.nodes for name in names} | {"time/round": 1.0}
            file.write(json.dumps({"round": round, "peer": "peer0000", **values}) + "\n")


@contextmanager
def serving(*runs: Path) -> Iterator[str]:
    """Serve runs by the command line, and give the address of the page."""
    command = [sys.executable, "-m", "genrl_graph", "view", *map(str, runs), "--import", str(TOYS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), server.stderr.read()
            yield address
        finally:
            server.terminate()
            assert server.wait(10) is not None


def ask(address: str, path: str = "", *, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{address}{path}", headers=named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def get(address: str, name: str, **params: object) -> Any:
    """Return the JSON of an answer that must succeed."""
    status, text = ask(address, f"api/{name}?{urllib.parse.urlencode(params)}")
    assert status == 200, text
    return json.loads(text)


def news(address: str, **params: object) -> Any:
    """Return the first event that a page gets: all that it shows of a run, its nodes among the state."""
    with urllib.request.urlopen(f"{address}events?{urllib.parse.urlencode(params, doseq=True)}", timeout=60) as stream:
        event = json.loads(stream.readline().removeprefix(b"data: "))
    assert event["whole"]
    return event | {"state": event["state"] | {"nodes": event["nodes"]}}
