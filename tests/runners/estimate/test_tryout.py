"""`plan --estimate` of games in steps: rounds are tried out, and are those that the run then plays."""

import json
from pathlib import Path

import pytest

import genrl_graph.graphs
from genrl_graph import load, play
from genrl_graph.cli import run_command
from genrl_graph.errors import ParamError
from genrl_graph.runners.estimate import tryout
from genrl_graph.runners.estimate.costs import Range
from genrl_graph.runners.estimate.estimate import estimate
from genrl_graph.runners.estimate.forecast import Forecast, StepCost, forecast_text

GAMES = Path(genrl_graph.graphs.__file__).resolve().parent / "games"
SMALL = ["run.rounds=3", "run.mode=train", "run.eval_every=0", "run.trackers=[]", "nodes.tasks.params.num_episodes=8"]


def cost(forecast: Forecast, step: str) -> StepCost:
    return next(found for found in forecast.steps if found.step == step)


@pytest.mark.parametrize("name", ["tic_tac_toe", "cartpole_swarm"])
def test_what_is_tried_out_is_what_the_run_then_plays(name: str, tmp_path: Path) -> None:
    graph = load(GAMES / f"{name}.yaml", SMALL)
    forecast = estimate(graph)
    run = play(graph, out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    rounds = [[line for line in lines if line["round"] == number] for number in range(3)]
    steps = [sum(line["play/steps"] for line in lines) for lines in rounds]
    lengths = [sum(line["play/episode_length"] for line in lines) / len(lines) for lines in rounds]
    effort = cost(forecast, "play").effort
    assert effort["environment steps"] == Range.over(*steps)
    assert effort["steps an episode"].low == pytest.approx(min(lengths))
    assert effort["steps an episode"].high == pytest.approx(max(lengths))
    rows = [sum(line["credit/rows"] for line in lines) for lines in rounds]
    assert cost(forecast, "credit").rows == Range.over(*rows)
    for step in forecast.steps:
        assert step.seconds is not None and not step.open
    assert forecast.run_seconds is not None and forecast.memory is not None and forecast.memory.low > 0


def test_a_long_run_is_tried_out_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are played until patience ends, so that a replay buffer may fill; not fewer than a few."""
    graph = load(GAMES / "cartpole_dqn.yaml", [])
    monkeypatch.setattr(tryout, "PATIENCE_S", 0.0)
    assert "in 3 rounds that were tried out" in estimate(graph).assumptions[0]
    monkeypatch.setattr(tryout, "PATIENCE_S", 60.0)
    monkeypatch.setattr(tryout, "MOST", 5)
    forecast = estimate(graph)
    assert "in 5 rounds that were tried out" in forecast.assumptions[0]
    assert "evaluations are not counted" in forecast.assumptions


def test_the_command_prints_steps_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(GAMES / "tic_tac_toe.yaml")
    run = play(load(file, SMALL), out=tmp_path / "run", quiet=True)
    assert run_command(["plan", file, "--compare", str(run.folder), *SMALL]) == 0
    out, err = capsys.readouterr()
    assert err == "trying out rounds of tic_tac_toe (a few seconds)\n"
    head = out.splitlines()[2].split()
    assert head == ["step", "type", "rows", "steps", "an", "episode", "environment", "steps", "seconds"]
    assert "estimate against fact" in out and "?" not in out and "tokens" not in out
    assert run_command(["plan", file, "--run", str(run.folder), "--format", "json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out)
    step = next(step for step in told["steps"] if step["step"] == "play")
    assert set(step["effort"]) == {"steps an episode", "environment steps"}
    assert f"seconds as in {run.folder}" in told["assumptions"]


def test_tokens_are_assumed_only_where_some_are_sampled() -> None:
    with pytest.raises(ParamError, match="completion_tokens: 'cartpole' samples no tokens; leave it out"):
        estimate(load(GAMES / "cartpole.yaml"), completion_tokens=5)


def test_seconds_that_were_timed_are_shown_in_milliseconds() -> None:
    steps = [StepCost("play", "play", "generate.play", Range(4, 4), seconds=Range(0.012, 0.02))]
    text = forecast_text(Forecast("g", 1, 1, tuple(steps), None, None, None, {}, "cpu", ()))
    assert "< 1" in text
    played = StepCost(
        "play", "play", "generate.play", Range(4, 4), seconds=Range(0.012, 0.02), effort={"moves": Range(3, 9)}
    )
    text = forecast_text(Forecast("g", 1, 1, (played,), None, None, None, {}, "cpu", ()))
    assert "0.012 - 0.020" in text and "3 - 9" in text
