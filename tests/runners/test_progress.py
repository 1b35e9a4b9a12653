"""What a person sees: the stages of a round, the summary, and chained rewards counted once."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from toys import Centred, Draw, Matches, Numbers, Parity, ToyPolicyCarry

from genrl_graph import Graph
from genrl_graph.runners.progress import Terminal
from genrl_graph.runners.stages import Stages, tokens_per_s
from genrl_graph.schedule import Schedule, compile_graph

PEERS = {
    "peer0000": {"score/reward": 1.0, "more/reward": 5.0, "answer/tokens": 30.0, "time/answer": 1.0},
    "peer0001": {"score/reward": 0.0, "more/reward": 7.0, "answer/tokens": 10.0, "time/answer": 3.0},
}


@pytest.fixture
def schedule() -> Schedule:
    """Two rewards in a chain: the second holds the total."""
    graph = Graph("chained")
    tasks = graph.add("tasks", Numbers())
    answer = graph.add("answer", Draw(), tasks=tasks, policy=graph.carry("policy", ToyPolicyCarry()))
    more = graph.add("more", Matches(), rollouts=graph.add("score", Parity(), rollouts=answer))
    graph.add("credit", Centred(), scored=more)
    return compile_graph(graph)


def test_a_stage_shows_the_total_of_chained_rewards_and_tokens_over_seconds(schedule: Schedule) -> None:
    (line,) = Stages(schedule).lines(PEERS)
    assert line.reward == 6.0
    assert tokens_per_s([line]) == "10"
    assert tokens_per_s([]) == ""


def test_plain_lines_and_the_summary(schedule: Schedule, tmp_path: Path) -> None:
    shown = io.StringIO()
    with Terminal(schedule, rounds=2, console=Console(file=shown, width=80)) as terminal:
        terminal.step(schedule.steps[0], "peer0000")
        terminal.round(0, PEERS, 1.5)
        terminal.round(1, PEERS, 0.5)
    store = Path("runs/x[bold]y/rollouts.zarr")
    terminal.summary(before={("peer0000", "policy"): "a" * 32}, after={("peer0000", "policy"): "b" * 32}, store=store)
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0].startswith("round 1/2  stage 0 reward 6.000; 10 tokens/s  1.5 s, ")
    assert lines[1].startswith("round 2/2  ")
    assert lines[-2] == f"peer0000 policy: weights {'a' * 16} -> {'b' * 16}"
    assert lines[-1] == f"rollouts: {store}"
    assert all(len(line) <= 80 for line in lines[2:])


def test_a_game_of_no_rounds_has_an_empty_summary(schedule: Schedule) -> None:
    shown = io.StringIO()
    with Terminal(schedule, rounds=0, console=Console(file=shown, width=80)) as terminal:
        pass
    terminal.summary(before={("p", "policy"): "a" * 32}, after={}, store=Path("runs/x"))
    assert "(unchanged)" in shown.getvalue()
