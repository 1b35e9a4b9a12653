"""Rounds that sample ahead: the weights that they read, both parts at once, and the same bits after any kill."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from crash import contents, killed
from toys import Centred, Draw, Numbers, Parity, Step, ToyPolicy, ToyPolicyCarry

from genrl_graph import Credited, Graph, Log, PeerRollouts, Rollouts, Tasks, play
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.errors import GraphError, NodeFailed, ParamError
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.store.run_store import RunStore

ROUNDS = 5
PEERS = ("peer0000", "peer0001")


class Behaviour:
    """Extra behaviour of the two nodes below: sleep, wait for each other, fail in a round."""

    def __init__(self) -> None:
        self.draw_s = self.step_s = 0.0
        self.meet = False
        self.draw_fails_in: int | None = None
        self.drawing: dict[int, Event] = defaultdict(Event)
        self.stepping: dict[int, Event] = defaultdict(Event)


does = Behaviour()


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    does.__init__()  # type: ignore[misc]  # as it began
    yield


class WatchedDraw(Draw, name="watched_draw"):
    """Draws as `Draw` does."""

    def run(
        self,
        tasks: Tasks,
        policy: ToyPolicy,
        seen: PeerRollouts | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        if does.draw_fails_in == round:
            raise ValueError("out of numbers")
        does.drawing[round].set()
        if does.meet and round:
            assert does.stepping[round - 1].wait(60), "the round before does not train meanwhile"
        time.sleep(does.draw_s)
        return super().run(tasks, policy, seen, rng=rng, log=log, round=round, peer=peer)


class WatchedStep(Step, name="watched_step"):
    """Trains as `Step` does."""

    def run(  # type: ignore[override]  # it has no reference
        self, policy: ToyPolicy, credited: list[Credited[Rollouts]], *, log: Log, round: int
    ) -> ToyPolicy:
        does.stepping[round].set()
        if does.meet and round + 1 < ROUNDS:
            assert does.drawing[round + 1].wait(60), "the next round is not sampled meanwhile"
        time.sleep(does.step_s)
        return super().run(policy, credited, log=log)


def game(depth: int = 1, *, checkpoint_every: int = 0) -> Graph:
    """Two stages around an exchange, then an update."""
    g = Graph("ahead", run=RunConfig(pipeline_depth=depth, rounds=ROUNDS, peers=2, checkpoint_every=checkpoint_every))
    policy = g.carry("policy", ToyPolicyCarry(bias=3))
    tasks = g.add("tasks", Numbers(num_tasks=3))
    answer = g.add("answer", WatchedDraw(), tasks=tasks, policy=policy)
    credit_answer = g.add("credit_answer", Centred(), scored=g.add("score_answer", Parity(), rollouts=answer))
    answers = g.add("answers", Gather(min_peers=1), rows=answer)
    final = g.add("final", Draw(), tasks=tasks, policy=policy, seen=answers)
    credit_final = g.add("credit_final", Centred(), scored=g.add("score_final", Parity(), rollouts=final))
    update = g.add("update", WatchedStep(), policy=policy, credited=[credit_answer, credit_final])
    g.next_round(policy=update)
    return g


def played(folder: Path, depth: int = 1, rounds: int = ROUNDS) -> RunStore:
    return RunStore.open(play(game(depth), out=folder, rounds=rounds, quiet=True).folder)


def biases(store: RunStore, peer: str) -> list[int]:
    """Return the policy at the start of each round, from what its updates say they added."""
    steps = [row for row in store.steps().to_pylist() if (row["node"], row["holder"]) == ("update", peer)]
    return list(accumulate((json.loads(step["facts"])["metrics"]["good"] for step in steps), initial=3))


@pytest.mark.parametrize("node", ["answer", "final"])
def test_a_round_is_sampled_with_the_weights_from_before_the_round_before(node: str, tmp_path: Path) -> None:
    """A toy policy draws a random number of the round, which no weights change, plus its one weight."""
    ahead, in_step = played(tmp_path / "ahead"), played(tmp_path / "in_step", depth=0)
    for peer in PEERS:
        weights = biases(ahead, peer)
        assert len(set(weights)) == ROUNDS + 1, "every round trains"
        for number in range(ROUNDS):
            rows = [row for row in ahead.table(node, range(number, number + 1)).to_pylist() if row["peer"] == peer]
            other = [row for row in in_step.table(node, range(number, number + 1)).to_pylist() if row["peer"] == peer]
            assert rows
            assert {row["policy_version"] for row in rows} == {max(0, number - 1)}
            for mine, theirs in zip(rows, other, strict=True):
                random = np.asarray(theirs["completion_ids"]) - biases(in_step, peer)[number]
                assert (np.asarray(mine["completion_ids"]) == random + weights[max(0, number - 1)]).all()


def test_a_round_trains_while_the_next_is_sampled(tmp_path: Path) -> None:
    does.meet = True
    assert played(tmp_path / "run").table("answer").num_rows == ROUNDS * 2 * 3 * 2


def test_the_store_does_not_depend_on_which_part_takes_longer(tmp_path: Path) -> None:
    folders = []
    for does.draw_s, does.step_s in ((0.0, 0.1), (0.1, 0.0)):
        folders.append(play(game(), out=tmp_path / str(does.draw_s), quiet=True).folder)
    for part in ("rollouts.zarr", "checkpoints"):
        assert contents(folders[0] / part) == contents(folders[1] / part)
    rounds = RunStore.open(folders[0]).steps().column("round").to_pylist()
    assert rounds == sorted(rounds)


@pytest.mark.parametrize("checkpoint_every", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_run_that_is_killed_before_any_commit_ends_with_the_same_bits(checkpoint_every: int, tmp_path: Path) -> None:
    whole = play(game(checkpoint_every=checkpoint_every), out=tmp_path / "whole", quiet=True).folder
    for commit in range(2, 1000, 2 if checkpoint_every == 0 else 7):
        folder = tmp_path / str(commit)
        if not killed(game(checkpoint_every=checkpoint_every), folder, commit):
            break
        play(game(checkpoint_every=checkpoint_every), out=folder, quiet=True, resume=True)
        for part in ("rollouts.zarr", "checkpoints"):
            assert contents(folder / part) == contents(whole / part), (commit, part)
    assert commit > 5 * ROUNDS


def test_what_fails_ahead_ends_the_run_once_the_round_before_is_played(tmp_path: Path) -> None:
    does.draw_fails_in = 3
    with pytest.raises(NodeFailed, match=r"nodes.answer \(round 3, peer0000\): ValueError: out of numbers"):
        play(game(checkpoint_every=1), out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["round"] for line in lines} == {0, 1, 2}
    does.draw_fails_in = None
    play(game(checkpoint_every=1), out=tmp_path / "run", quiet=True, resume=True)
    whole = play(game(checkpoint_every=1), out=tmp_path / "whole", quiet=True).folder
    assert contents(tmp_path / "run/rollouts.zarr") == contents(whole / "rollouts.zarr")


def test_the_depth_may_not_change_on_resume(tmp_path: Path) -> None:
    play(game(), out=tmp_path / "run", rounds=2, quiet=True)
    with pytest.raises(GraphError, match="pipeline_depth"):
        play(game(0), out=tmp_path / "run", quiet=True, resume=True)


def test_a_swarm_does_not_sample_ahead() -> None:
    with pytest.raises(ParamError, match=r"run.pipeline_depth: 1, but the peers of a swarm keep step"):
        play(game(), quiet=True, runner=SwarmRunner(name="ann", network=NetworkOptions()))
