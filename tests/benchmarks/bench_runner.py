"""Overhead of the runner on nodes that do nothing: the loop, the store, the metrics."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from measure import Clock, Row, interleaved, report
from toys import Numbers, Same

from genrl_graph import Graph, RunConfig, play, seeds
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.runners.loop.context import RunContext
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import run_round
from genrl_graph.store.run_store import BLOCK_ROUNDS, RunStore

ROUNDS, SELECTS, TIMES = 200, 30, 3
STEPS = ROUNDS * (SELECTS + 1)
PEER = "peer0000"


def idle() -> Graph:
    """One task, handed on from select to select."""
    g = Graph("idle", run=RunConfig(rounds=ROUNDS))
    rows = g.add("tasks", Numbers(num_tasks=1))
    for number in range(SELECTS):
        rows = g.add(f"same_{number}", Same(), rows=rows)
    return g


def test_runner_overhead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = idle()
    schedule = compile_graph(graph)
    fsync = Clock(os.fsync)
    monkeypatch.setattr(os, "fsync", fsync)
    parts: dict[str, list[float]] = {"commit": [], "fsync": [], "flush": []}

    def with_store() -> None:
        with RunStore.create(fresh(folder), graph.dump(), {}) as store:
            commit, flush, in_flush, started = Clock(store.commit), Clock(store.flush), 0.0, fsync.seconds
            for first in range(0, ROUNDS, BLOCK_ROUNDS):  # blocks as the store makes them, but outside of its commits
                play_rounds(schedule, commit, range(first, min(first + BLOCK_ROUNDS, ROUNDS)))
                before = fsync.seconds
                flush()
                in_flush += fsync.seconds - before
            parts["fsync"].append(fsync.seconds - started - in_flush)
        parts["commit"].append(commit.seconds)
        parts["flush"].append(flush.seconds)

    def everything() -> None:
        play(graph, out=fresh(folder), quiet=True)

    play(graph, out=fresh(folder), rounds=1, quiet=True)  # imports what is imported at first use
    timings = interleaved(
        {
            "by hand": lambda: by_hand(schedule),
            "no store": lambda: play_rounds(schedule, lambda records: None),
            "store": with_store,
            "play": everything,
        },
        times=TIMES,
    )
    step = {name: [seconds / STEPS for seconds in times] for name, times in (timings | parts).items()}
    hand = Row("the same `run` methods called in a loop", step["by hand"])
    loop = Row("runner without a store", step["no store"], hand)
    stored = Row("runner with a store, blocks flushed", step["store"], hand)
    report(
        "runner",
        f"Runner: time a step, {SELECTS} selects that do nothing behind a source of one task, {ROUNDS} rounds",
        [
            hand,
            loop,
            stored,
            Row("  of which journal commits", step["commit"], stored),
            Row("    of which fsync", step["fsync"], stored),
            Row("  of which block flush", step["flush"], stored),
            Row("runner with a store", step["store"], loop),
            Row("play(): store, metrics, TensorBoard, start and end", step["play"], hand),
        ],
    )


def play_rounds(schedule: Schedule, commit: Callable[..., object], rounds: range = range(ROUNDS)) -> None:
    """Rounds by the runner's loop."""
    peer = Peer(PEER, {}, TaskBook({}))
    context = RunContext(schedule=schedule, swarm=LocalSwarm([PEER]), seed=0, commit=commit)
    for number in rounds:
        run_round(context, [peer], number)


def by_hand(schedule: Schedule) -> None:
    """The work of the nodes and nothing else."""
    source, *selects = schedule.nodes.values()
    assert isinstance(source, Numbers) and len(selects) == SELECTS
    for number in range(ROUNDS):
        rows = source.run(rng=seeds.stream(0, "source", "tasks"), round=number)
        for select in selects:
            rows = select.run(rows)  # type: ignore[attr-defined]  # the contract was read at definition


def fresh(folder: Path) -> Path:
    """A run folder that does not exist yet."""
    return folder / f"run-{len(list(folder.iterdir()))}"
