"""Terminal output: the stages of a round, the summary, and chained rewards counted once."""

import io
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from rich.console import Console
from screens import screen
from toys import Centred, Draw, Matches, Numbers, Parity, ToyPolicyCarry

from genrl_graph import Graph
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.edge_types.display import DisplayMetrics
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.library import ActorCriticCarry, EnvironmentSource, GaeAdvantage, Play, Ppo
from genrl_graph.runners.loop.stage_metrics import StageLine, Stages, StageTotal, speeds
from genrl_graph.runners.tracking.terminal import Terminal, brief, headline

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
    assert speeds([line]) == {"tokens": "10"}
    assert speeds([]) == {}


def test_plain_lines_and_the_summary(schedule: Schedule, tmp_path: Path) -> None:
    shown = io.StringIO()
    with Terminal(schedule, rounds=2, console=Console(file=shown, width=80)) as terminal:
        terminal.step(schedule.steps[0], "peer0000")
        terminal.round(0, PEERS, 1.5)
        terminal.round(1, PEERS, 0.5)
    store = Path("runs/x[bold]y/rollouts.zarr")
    terminal.summary(
        before={("peer0000", "level"): "c" * 32, ("peer0000", "policy"): "a" * 32},
        after={("peer0000", "policy"): "b" * 32},
        store=store,
        then={"rewards": "genrl-graph runs runs/x[bold]y"},
    )
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0].startswith("round 1/2  stage 0 reward 6.000; 10 tokens/s  1.5 s, ")
    assert lines[1].startswith("round 2/2  ")
    assert lines[-6] == f"peer0000 level: state {'c' * 16} -> {'c' * 16} (unchanged)", "it has no weights"
    assert lines[-5:] == [
        f"peer0000 policy: weights {'a' * 16} -> {'b' * 16}",
        f"rollouts: {store}",
        "",
        "what to look at next:",
        "rewards   genrl-graph runs runs/x[bold]y",
    ]
    assert all(len(line) <= 80 for line in lines[2:])


def test_a_terminal_keeps_a_short_line_a_round_and_a_bar_only_while_it_plays(schedule: Schedule) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, force_interactive=True, color_system=None)
    with Terminal(schedule, rounds=2, console=console) as terminal:
        terminal.step(schedule.steps[1], "peer0000")
        time.sleep(0.3)  # the bar is drawn ten times a second
        terminal.round(0, PEERS, 1.5)
        terminal.step(schedule.steps[0], "peer0000", evaluating=True)
        time.sleep(0.3)
        terminal.skipped(1, 2)
    text, lines = shown.getvalue(), screen(shown.getvalue())
    assert re.search("round +0/2 ", text) and "answer peer0000" in text and "evaluation: tasks peer0000" in text
    assert lines == ["round 1/2  stage 0 reward 6.000  1.5 s", "round 2/2  left: the swarm is in round 3"]


def test_a_round_in_few_words() -> None:
    rewards = [StageLine(0, 0.25, 4, 3), StageLine(1, 1.0, 4, 0)]
    assert brief(rewards) == "rewards 0.250, 1.000 (3/8 groups vary)"
    assert brief([StageLine(0, 0.25, 0, 0), StageLine(1, 1.0, 0, 0)]) == "rewards 0.250, 1.000"
    assert brief([rewards[0], StageLine(1, None, 0, 0)]) == "stage 0 reward 0.250 (3/4 groups vary)"
    games = [rewards[0], StageLine(1, None, 0, 0, {}, {"return": 0.5})]
    assert brief(games) == "stage 0 reward 0.250 (3/4 groups vary); stage 1 return 0.5"


def test_the_head_says_what_is_played_and_where_it_goes(schedule: Schedule) -> None:
    head = headline(schedule, rounds=1, peers=2, folder=Path("runs/x[bold]y"))
    assert head.plain == "chained: 1 round, 1 stage, 2 peers, folder runs/x[bold]y"


def test_the_summary_adds_up_rounds_and_keeps_none(schedule: Schedule) -> None:
    shown = io.StringIO()
    with Terminal(schedule, rounds=4000, console=Console(file=shown, width=80)) as terminal:
        for round in range(2000):
            terminal.round(round, PEERS, 0.5)
        tracemalloc.start()
        for round in range(2000, 4000):
            terminal.round(round, PEERS, 0.5)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 50_000
    terminal.summary(before={}, after={}, store=Path("runs/x"), then={})
    assert "6.000  6.000  6.000" in shown.getvalue()


def test_rounds_that_measure_nothing_are_no_part_of_the_mean() -> None:
    assert StageTotal(0).mean is None
    total = StageTotal(0)
    for reward, varied in ((None, 0), (0.25, 1), (0.75, 2), (None, 0)):
        total.add(StageLine(0, reward, 4, varied, {"tokens": (10.0, 2.0)}))
    assert (total.first, total.last, total.mean) == (0.25, 0.75, 0.5)
    assert (total.groups, total.varied, total.outcomes) == (16, 3, {"reward"})
    assert speeds([total, StageLine(1, None, 0, 0, {"tokens": (80.0, 2.0)})]) == {"tokens": "12"}


def test_a_game_of_no_rounds_has_an_empty_summary(schedule: Schedule) -> None:
    shown = io.StringIO()
    with Terminal(schedule, rounds=0, console=Console(file=shown, width=80)) as terminal:
        pass
    terminal.summary(before={("p", "policy"): "a" * 32}, after={}, store=Path("runs/x"), then={})
    assert "(unchanged)" in shown.getvalue()


def test_what_games_and_texts_of_one_stage_show_stands_side_by_side() -> None:
    results = {"return": 0.5, "random/wins": 2 / 3}
    made = {"tokens": (40.0, 4.0), "steps": (3000.0, 2.0)}
    line = StageLine(0, 0.25, 4, 3, made, results)
    assert str(line) == "stage 0 reward 0.250 (3/4 groups vary), return 0.5, random/wins 0.6667"
    assert str(StageLine(1, None, 0, 0, {}, results)) == "stage 1 return 0.5, random/wins 0.6667"
    assert str(StageLine(2, None, 0, 0)) == "stage 2 reward -" and not StageLine(2, None, 0, 0).measured
    assert line.metrics() == {
        "stage0/reward": 0.25,
        "stage0/zero_variance": 0.25,
        "stage0/return": 0.5,
        "stage0/random/wins": 2 / 3,
    }
    assert speeds([line, line]) == {"tokens": "10", "steps": "1,500"}


def test_what_a_type_shows_comes_in_its_order_and_by_opponent() -> None:
    shown = DisplayMetrics(line=("return", "*/wins"), evaluation=("*/losses",))
    names = ["self/wins", "random/losses", "steps", "random/wins", "return"]
    assert shown.chosen(names) == ["return", "random/wins", "self/wins"]
    assert shown.chosen(names, evaluating=True) == ["return", "random/wins", "random/losses", "self/wins"]


def test_two_games_of_one_stage_are_told_apart() -> None:
    graph, environment = Graph("two"), Environment(id="CartPole-v1")
    tasks = graph.add("tasks", EnvironmentSource(environment=environment))
    policy = graph.carry("policy", ActorCriticCarry(environment=environment))
    games = [graph.add(name, Play(), tasks=tasks, policy=policy) for name in ("play", "other")]
    credited = [graph.add(f"credit_{at}", GaeAdvantage(), scored=rows) for at, rows in enumerate(games)]
    graph.next_round(policy=graph.add("update", Ppo(), policy=policy, credited=credited))
    metrics = {"play/return": 1.0, "other/return": 3.0, "play/steps": 5.0}
    (line,) = Stages(compile_graph(graph)).lines({"peer0000": metrics})
    assert line.results == {"play/return": 1.0, "other/return": 3.0}
    assert line.outcome == ("play/return", 1.0)
