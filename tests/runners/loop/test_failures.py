"""Rows that fail or stay unjudged are told in the line of their round, and end the run above a share of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genrl_graph import Graph, Log, R, Reward, RunConfig, Scored, Tasks, play, score
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import TooManyFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.library import Answer, ListSource, Top, WeightedSum
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.runners.loop.failures import FailedRows, failures_of
from genrl_graph.store.run_store import RunStore

registry.import_file(Path(__file__).parents[2] / "corridors.py")

REASON = "the prompt has 6 tokens, but at most 5 fit: max_prompt_tokens"


class Moody(Reward, name="moody"):
    """Leaves the first rows unjudged, and says why."""

    unjudged: int = 0
    term: str = "x"

    def run(self, rollouts: R, *, log: Log) -> Scored[R]:
        values = np.ones(len(rollouts))
        values[: self.unjudged] = np.nan
        ids = rollouts.values("id")[: self.unjudged]
        log.rows("failures", {"id": ids, "reason": [f"not in the mood {at}" for at in range(len(ids))]})
        return score(rollouts, {self.term: values})


def game(*, questions: tuple[str, ...] = ("a?",), limit: int | None = None, **options: object) -> Graph:
    """Return a game of 4 answers to each question."""
    graph = Graph("moods", run=RunConfig(rounds=2, **options))
    policy = graph.carry("policy", TinyLM())
    listed = [{"question": question} for question in questions]
    tasks = graph.add("tasks", ListSource(tasks=listed, eval_tasks=listed))
    template = "{{ task.question }}"
    answer = Answer(template=template, num_generations=4, max_new_tokens=1, max_prompt_tokens=limit)
    graph.add("answer", answer, tasks=tasks, policy=policy)
    return graph


def lines(text: str, start: str = "round ") -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_run_in_which_no_prompt_fits_ends_with_the_reason_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "moods.yaml", tmp_path / "run"
    file.write_text(game(questions=("aaaaaa",), limit=5).dump())
    assert run_command(["run", str(file), "-o", str(folder)]) == TooManyFailed.exit_code == 22
    (line,) = lines(capsys.readouterr().err, "genrl-graph:")
    assert (
        f"nodes.answer (round 0, peer0000): 4 of 4 rows failed, the first because: {REASON} (run.max_failed_s" in line
    )
    with RunStore.open(folder) as store:  # the rows are there to look at
        assert store.table("answer").column("error").to_pylist() == [REASON] * 4
    assert run_command(["resume", str(folder), "run.max_failed_share=1"]) == 0
    told = lines(capsys.readouterr().err)
    assert [f"4 of 4 rows failed (answer: {REASON})" in line for line in told if "/2" in line] == [True, True]


def test_lines_of_rounds_with_failed_rows_are_never_dropped_and_count_all_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(game(questions=("a", "b", "aaaaaa"), limit=5, peers=2, max_failed_share=0.4), out=tmp_path / "run", rounds=5)
    shown = capsys.readouterr().err
    assert [f"8 of 24 rows failed (answer: {REASON})" in line for line in lines(shown)] == [True] * 5
    (total,) = lines(shown, "rows that failed")
    assert total == f"rows that failed or could not be judged: 40, the first because: answer (round 0): {REASON}"


def judged(unjudged: int, **options: object) -> Graph:
    graph = game(**options)  # type: ignore[arg-type]
    scored = graph.add("score", Moody(unjudged=unjudged), rollouts=graph.output("answer"))
    graph.add("best", Top(k=1), rows=scored)
    return graph


def test_rows_without_a_reward_are_limited_with_the_first_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(judged(2), out=tmp_path / "half")
    assert "2 of 4 rows could not be judged (score: not in the mood 0)" in capsys.readouterr().err
    message = r"score \(round 0, peer0000\): 3 of 4 rows could not be judged, the first because: not in the mood 0 \("
    with pytest.raises(TooManyFailed, match=message):
        play(judged(3), out=tmp_path / "most", quiet=True)
    play(judged(3, max_failed_share=0.75), out=tmp_path / "allowed", quiet=True)


def test_of_several_rewards_only_their_sum_is_limited(tmp_path: Path) -> None:
    graph = game()
    few = graph.add("few", Moody(unjudged=3, term="few"), rollouts=graph.output("answer"))
    all_rows = graph.add("all_rows", Moody(term="all_rows"), rollouts=graph.output("answer"))
    total = graph.add("total", WeightedSum(others=1, on_nan="skip_term"), scored=[few, all_rows])
    graph.add("best", Top(k=1), rows=total)
    lines = (play(graph, out=tmp_path / "run", quiet=True).folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["few/failed_rows"] for line in lines] == [3, 3]


def test_an_environment_that_raises_in_every_episode_ends_the_run(tmp_path: Path) -> None:
    broken = Environment(id="test/Corridor-v0", params={"breaks": "raise"})
    graph = Graph("broken", run=RunConfig(rounds=2))
    policy = graph.carry("policy", ActorCriticCarry(environment=broken))
    tasks = graph.add("tasks", EnvironmentSource(environment=broken, num_episodes=3))
    graph.add("play", Play(), tasks=tasks, policy=policy)
    message = r"play \(round 0, peer0000\): 3 of 3 rows failed, the first because: move 2: RuntimeError: the floor gave"
    with pytest.raises(TooManyFailed, match=message):
        play(graph, out=tmp_path / "run", quiet=True)


def test_episodes_count_once_however_long_they_are() -> None:
    frame = Trajectories.empty(marks=[SCORED])
    assert failures_of(Play(), {"play": frame}, Log(), peer="p") == FailedRows()
    policy = ActorCriticCarry(environment=Environment(id="test/Corridor-v0")).init("policy", seed=0)
    rows = [
        {"environment": {"id": "test/Corridor-v0", "params": {"breaks": kind}}, "seed": 1} for kind in ("", "raise")
    ]
    tasks = Tasks.from_rows(
        [{"id": f"t/{at}", "messages": [], "answer": "", "metadata": json.dumps(row)} for at, row in enumerate(rows)]
    )
    steps = Play().run(tasks, policy, rng=np.random.default_rng(0), log=Log(), round=0, peer="p")
    assert len(steps) > 2
    failed = failures_of(Play(), {"play": steps}, Log(), peer="p")
    assert (failed.count, failed.total) == (1, 2)
    assert failures_of(Play(), {"play": steps}, Log(), peer="another") == FailedRows()


def test_only_a_run_that_evaluates_and_nothing_else_is_ended_by_an_evaluation(tmp_path: Path) -> None:
    graph = game(questions=("aaaaaa",), limit=5, mode="evaluate")
    with pytest.raises(TooManyFailed, match=r"answer \(evaluation after 0 rounds, peer0000\): 1 of 1 rows failed"):
        play(graph, out=tmp_path / "evaluated", quiet=True)
    graph.nodes["tasks"] = replace(graph.nodes["tasks"], declared=_half_held_out())
    graph.run = graph.run.model_copy(update={"mode": "train_and_evaluate"})
    play(graph, out=tmp_path / "trained", quiet=True)


def _half_held_out() -> ListSource:
    return ListSource(tasks=[{"question": "a"}], eval_tasks=[{"question": "aaaaaa"}])
