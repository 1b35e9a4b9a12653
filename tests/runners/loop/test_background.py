"""Rewards run while the next generator generates: the same run as without, in the same order, with the same errors."""

import filecmp
import threading
from pathlib import Path

import numpy as np
import pytest
from toys import Centred, Draw, Numbers, Parity, Step, ToyPolicy, ToyPolicyCarry, toy_game

from genrl_graph import Graph, Log, PeerRollouts, R, Reward, Rollouts, Scored, Tasks, play, score
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.store.run_store import RunStore

BOTH_RUN = threading.Barrier(2, timeout=20)


class Meets(Draw, name="overlap_meets"):
    """Waits until the reward runs, too; in a sequential run it would wait for ever."""

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
        BOTH_RUN.wait()
        return super().run(tasks, policy, seen, rng=rng, log=log, round=round, peer=peer)


class Met(Reward, name="overlap_met"):
    """Waits until the generator runs, too."""

    def run(self, rollouts: R) -> Scored[R]:
        BOTH_RUN.wait()
        return score(rollouts, {"met": np.arange(len(rollouts)) % 2})


class Fails(Reward, name="overlap_fails"):
    """Raises."""

    def run(self, rollouts: R) -> Scored[R]:
        raise ValueError("no judge")


class OnMainThread(Parity, name="overlap_main_thread"):
    """Never runs in the background."""

    @property
    def overlaps(self) -> bool:
        return False


def two_stages(reward: Reward, final: Draw) -> Graph:
    graph = Graph("two_stages")
    policy = graph.carry("policy", ToyPolicyCarry())
    tasks = graph.add("tasks", Numbers())
    answer = graph.add("answer", Draw(), tasks=tasks, policy=policy)
    score_answer = graph.add("score_answer", reward, rollouts=answer)
    credit_answer = graph.add("credit_answer", Centred(), scored=score_answer)
    answers = graph.add("answers", Gather(min_peers=1), rows=answer)
    drawn = graph.add("final", final, tasks=tasks, policy=policy, seen=answers)
    score_final = graph.add("score_final", Parity(), rollouts=drawn)
    credit_final = graph.add("credit_final", Centred(), scored=score_final)
    graph.next_round(policy=graph.add("update", Step(), policy=policy, credited=[credit_answer, credit_final]))
    return graph


def names(graph: Graph) -> list[str]:
    return [str(step) for step in compile_graph(graph).steps]


def test_a_reward_judges_while_the_next_generator_generates(tmp_path: Path) -> None:
    play(two_stages(Met(), Meets()), out=tmp_path / "run", rounds=3, quiet=True)
    assert not BOTH_RUN.broken


def test_overlap_gives_the_same_store_as_a_sequential_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(toy_game(), out=tmp_path / "overlapped", rounds=4, peers=2, quiet=True)
    monkeypatch.setattr(Schedule, "background", property(lambda schedule: {}))
    play(toy_game(), out=tmp_path / "sequential", rounds=4, peers=2, quiet=True)
    one, other = tmp_path / "overlapped" / "rollouts.zarr", tmp_path / "sequential" / "rollouts.zarr"
    files = [str(path.relative_to(one)) for path in sorted(one.rglob("*")) if path.is_file()]
    assert files
    assert filecmp.cmpfiles(one, other, files, shallow=False)[1:] == ([], [])


def test_background_rewards_and_their_advantages_come_after_the_next_generator() -> None:
    order = names(two_stages(Met(), Draw()))
    behind = ["final", "score_answer", "credit_answer", "score_final", "credit_final", "update"]
    assert order == ["tasks", "answer", "open answers", "close answers", *behind]


def test_an_offer_is_opened_before_earlier_rewards_are_awaited() -> None:
    graph = Graph("three_stages")
    policy, tasks = graph.carry("policy", ToyPolicyCarry()), graph.add("tasks", Numbers())
    first = graph.add("first", Draw(), tasks=tasks, policy=policy)
    scored = graph.add("score", Parity(), rollouts=first)
    seen = graph.add("firsts", Gather(min_peers=1), rows=first)
    second = graph.add("second", Draw(), tasks=tasks, policy=policy, seen=seen)
    graph.add("third", Draw(), tasks=tasks, policy=policy, seen=graph.add("seconds", Gather(min_peers=1), rows=second))
    credit = graph.add("credit", Centred(), scored=scored)
    graph.next_round(policy=graph.add("update", Step(), policy=policy, credited=[credit]))
    order = names(graph)
    assert order[order.index("second") :][:4] == ["second", "open seconds", "score", "credit"]


def test_a_reward_that_wants_the_main_thread_keeps_its_place() -> None:
    order = names(two_stages(OnMainThread(), Draw()))
    assert order[2:7] == ["open answers", "score_answer", "credit_answer", "close answers", "final"]
    assert not compile_graph(two_stages(OnMainThread(), Draw())).background
    assert not FunctionReward(function="math:sqrt", isolated=False).overlaps
    assert FunctionReward(function="math:sqrt").overlaps


def test_a_background_reward_raises_at_its_own_place(tmp_path: Path) -> None:
    graph = two_stages(Fails(), Draw())
    with pytest.raises(RewardFailed, match=r"nodes\.score_answer \(round 0, peer0000\): ValueError: no judge"):
        play(graph, out=tmp_path / "run", rounds=1, quiet=True)
    with RunStore.open(tmp_path / "run") as store:
        committed = store.steps().column("node").to_pylist()
    assert committed == ["tasks", "answer", "answers", "final"]


def test_no_thread_is_left_over(tmp_path: Path) -> None:
    with pytest.raises(RewardFailed):
        play(two_stages(Fails(), Draw()), out=tmp_path / "run", rounds=1, quiet=True)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background")]
