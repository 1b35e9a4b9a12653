"""The state of each node of a run that goes on, as its journal and its notes tell it."""

import time
from pathlib import Path

import numpy as np
from toys import toy_game

from genrl_graph import play
from genrl_graph.comparison.interval import mean_intervals
from genrl_graph.store.journal import Record
from genrl_graph.store.notes_file import Waiting, add_note
from genrl_graph.store.run_store import RunStore
from genrl_graph.view.progress import said
from genrl_graph.view.shown_curves import ShownCurves
from genrl_graph.view.watched import Watched
from genrl_graph.view.watched_run import RunName, WatchedRun


def states(run: WatchedRun) -> dict[str, str]:
    run.refresh()
    return {name: said(node, time.time()) for name, node in run.state()["nodes"].items()}


def test_nodes_run_wait_and_are_done_in_the_order_of_the_schedule(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", toy_game().record(), {}) as store:
        run = WatchedRun(RunName(tmp_path / "run", "run", 0))
        store.commit([Record(0, "tasks", "alice")])
        assert states(run)["tasks"] == "done" and states(run)["answer"].startswith("running ")
        assert run.state()["state"] == "running"
        store.commit([Record(0, "answer", "alice")])
        assert states(run)["answers"].startswith("waiting for peers 0 s of 60 s")
        add_note(tmp_path / "run", str(Waiting("answers", "bob", 20.0, 60.0)))
        assert states(run)["answers"] == "waiting for bob 20 of 60 s"
        store.commit([Record(0, "answers", "alice", {"missing": {"bob": "late"}})])
        assert states(run)["answers"] == "done" and states(run)["final"].startswith("running ")
        (alice,) = run.state()["peers"]
        assert alice["missing"] == {"bob": "late in round 0 (answers)"} and "final" in alice["doing"]
        store.commit([Record(0, name, "alice") for name in run.order.nodes[3:]])
        assert states(run)["tasks"].startswith("running ") and states(run)["update"] == "later"
        assert run.state()["peers"][0]["round"] == 1
    run.refresh()
    state = run.state()
    assert state["state"] == "stopped" and {node["state"] for node in state["nodes"].values()} <= {"later", "done"}


def test_a_run_whose_peers_are_processes_is_one_run_and_late_peers_join_it(tmp_path: Path) -> None:
    def store_of(peer: str) -> RunStore:
        store = RunStore.create(tmp_path / "swarm" / peer, toy_game().record(), {})
        store.commit([Record(0, name, peer) for name in ("tasks", "answer")])
        return store

    with store_of("alice"):
        (run,) = Watched.of([tmp_path / "swarm"]).runs
        run.refresh()
        with store_of("bob"):
            run._looked = -1e9  # as after some seconds
            run.refresh()
            state = run.state()
            assert [peer["name"] for peer in state["peers"]] == ["alice", "bob"]
            assert state["nodes"]["answers"]["state"] == "waiting" and len(state["writers"]) == 1
        run._read_at = -1e9
        run.refresh()
        assert [(peer["name"], peer["doing"]) for peer in run.state()["peers"]] == [
            ("alice", "answers"),
            ("bob", "stopped"),
        ]
        assert "bob" not in said(run.state()["nodes"]["answers"], 0.0)


def test_runs_that_differ_in_their_seed_are_one_line_with_an_interval(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        play(toy_game(), out=tmp_path / "runs" / f"seed-{seed}", rounds=2, seed=seed, quiet=True)
    play(toy_game(), out=tmp_path / "other", rounds=2, peers=2, quiet=True)
    watched = Watched.of([tmp_path / "runs", f"two peers={tmp_path / 'other'}"])
    watched.read_all()
    shown = ShownCurves(watched)
    three, two = shown.news(["stage0/reward"])["stage0/reward"]["settings"]
    assert (three["setting"], three["runs"]) == ("seed-1", [0, 1, 2]) and (two["setting"], two["runs"]) == (
        "two peers",
        [3],
    )
    values = np.array([run.metrics.curves["stage0/reward"].points().mean for run in watched.runs[:3]])
    between = mean_intervals(values)
    np.testing.assert_allclose(
        [three["mean"], three["low"], three["high"]], [between.mean, between.low, between.high], 1e-5
    )
    assert {run["setting"] for run in watched.overview()["runs"]} == {"seed-1", "two peers"}
    assert shown.news(["stage0/reward"]) == {}
    for round, value in ((1, 5.0), (2, 7.0)):  # as of a peer that is late
        watched.runs[1].metrics.curves.add(round, {"stage0/reward": value})
    changed = shown.news(["stage0/reward"])["stage0/reward"]
    assert not changed["whole"] and [one["rounds"] for one in changed["settings"]] == [[1.0, 2.0]]
    whole = ShownCurves(watched).news(["stage0/reward"])["stage0/reward"]["settings"][0]
    assert changed["settings"][0]["mean"] == whole["mean"][1:] and changed["settings"][0]["low"] == whole["low"][1:]
