"""Evaluations: held-out tasks without updates, measured as pass@k, which leave the training unchanged."""

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from toys import Centred, Draw, Matches, Numbers, Step, ToyPolicyCarry

from genrl_graph import (
    Coordinate,
    Eval,
    Graph,
    Log,
    R,
    Reward,
    Rollouts,
    RunConfig,
    Scored,
    Source,
    Task,
    TaskBook,
    Tasks,
    open_run,
    play,
    replay,
    score,
)
from genrl_graph.cli import run_command
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.weighted_sum import TermWeight, WeightedSum
from genrl_graph.runners.dry import dry_play
from genrl_graph.runners.loop.evaluate import Tally, pass_at_k
from genrl_graph.runners.play import Run
from genrl_graph.store.run_store import RunStore


class Held(Source, name="held"):
    """Small numbers as tasks; those from 1000 on are held out, and of two kinds."""

    num_tasks: int = 2
    first: int = 0

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        keys = [self.first + (round * self.num_tasks + at) % 10 for at in range(self.num_tasks)]
        tasks = [self.resolve(self.task_id(key)) for key in keys]
        return Tasks.from_rows(
            [{"id": t.id, "messages": t.messages, "answer": t.answer, "metadata": "{}"} for t in tasks]
        )

    def resolve(self, task_id: str) -> Task:
        number = int(task_id.rpartition("/")[2])
        kind = "" if number < 1000 else ["even", "odd"][number % 2]
        return Task(task_id, [{"role": "user", "content": "?"}], str(number % 1000), kind=kind)

    def evaluated(self, how: Evaluation) -> Self:
        return self.model_copy(update={"first": 1000, "num_tasks": min(how.num_tasks or 4, 4)})


class Teller(Coordinate, name="held_teller"):
    """A coordinator that counts its calls."""

    def run(self, rows: Rollouts) -> None:
        TOLD.append(len(rows))


TOLD: list[int] = []


class Spread(Eval, name="held_spread"):
    """Measures how many answers differ."""

    def run(self, rows: Rollouts, *, log: Log) -> None:
        log.metric("distinct", len(set(rows.values("completion"))))


class Say(Draw, name="held_say"):
    """Draws small numbers, as many per task as an evaluation wants."""

    def evaluated(self, how: Evaluation) -> Self:
        return self.model_copy(update={"num_generations": how.num_generations or self.num_generations})


def held_game(**options: Any) -> Graph:
    graph = Graph("held", run=RunConfig(**({"rounds": 4, "eval_temperature": None} | options)))
    policy = graph.carry("policy", ToyPolicyCarry(bias=0))
    answer = graph.add("answer", Say(high=3), tasks=graph.add("tasks", Held()), policy=policy)
    answers = graph.add("answers", Gather(min_peers=2), rows=answer)
    graph.add("tell", Teller(), rows=answers)
    credit = graph.add("credit", Centred(), scored=graph.add("score", Matches(), rollouts=answer))
    graph.next_round(policy=graph.add("update", Step(), policy=policy, credited=[credit]))
    return graph


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four rounds with an evaluation after every second."""
    TOLD.clear()
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    graph = held_game(mode="train_and_evaluate", eval_every=2, eval_samples=8, peers=2)
    return play(graph, out=folder, quiet=True)


def test_the_baseline_is_recorded_and_the_last_round_too(run: Run) -> None:
    found = [line for line in lines(run) if "eval/score/pass_at_1" in line]
    assert [(line["round"], line["peer"]) for line in found] == [
        (number, peer) for number in (0, 2, 4) for peer in ("peer0000", "peer0001")
    ]
    assert all(
        {"eval/score/pass_at_2", "eval/score/pass_at_8", "eval/score/reward", "eval/time"} <= set(f) for f in found
    )
    assert all(f["eval/score/tasks"] == 4 for f in found)
    kinds = [name for name in found[0] if name.endswith("/pass_at_1")]
    assert kinds == ["eval/score/pass_at_1", "eval/score/even/pass_at_1", "eval/score/odd/pass_at_1"]


def test_rows_go_to_groups_of_their_own(run: Run) -> None:
    root: Any = zarr.open(str(run.rollouts), mode="r")
    ids = root["eval/answer/task_id"][:]
    assert set(ids) == {f"tasks/{1000 + at}" for at in range(4)}
    assert set(root["eval/answer/round"][:]) == {0, 2, 4}
    assert not set(ids) & set(root["answer/task_id"][:])
    assert len(root["eval/answers/id"][:]) == 0  # every peer is alone


def test_an_evaluation_leaves_the_training_alone(run: Run, tmp_path: Path) -> None:
    plain = play(held_game(peers=2), out=tmp_path / "plain", quiet=True)
    assert plain.after == run.after
    with RunStore.open(plain.folder) as without, RunStore.open(run.folder) as store:
        for group in without.groups():
            assert without.table(group).equals(store.table(group))
    assert len(TOLD) == 16  # nobody outside is told about evaluations: 4 rounds x 2 peers, twice


def test_the_same_weights_give_the_same_evaluation(tmp_path: Path) -> None:
    graph = held_game(mode="evaluate", eval_samples=4, peers=2)
    first = play(graph, out=tmp_path / "a", quiet=True)
    assert first.rounds == 0 and first.before == first.after
    second = play(graph, out=tmp_path / "b", quiet=True)
    shown = [[{k: v for k, v in line.items() if "time" not in k} for line in lines(run)] for run in (first, second)]
    numbers = [[{k: v for k, v in line.items() if "memory" not in k} for line in found] for found in shown]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 2
    assert not (first.folder / "checkpoints" / "000001").exists()


def test_the_shares_are_those_of_the_stored_rows(run: Run) -> None:
    with RunStore.open(run.folder) as store:
        rows = store.table("eval/answer").to_pylist()
    mine = [row for row in rows if row["holder"] == "peer0001" and row["round"] == 2]
    by_task: dict[str, list[bool]] = {}
    for row in mine:
        answer = str(int(row["task_id"].rpartition("/")[2]) % 1000)
        by_task.setdefault(row["task_id"], []).append(row["completion"] == answer)
    assert {len(found) for found in by_task.values()} == {8}
    line = next(f for f in lines(run) if "eval/time" in f and (f["round"], f["peer"]) == (2, "peer0001"))
    pairs = [np.mean([any(pair) for pair in combinations(found, 2)]) for found in by_task.values()]
    assert line["eval/score/pass_at_1"] == pytest.approx(np.mean([np.mean(found) for found in by_task.values()]))
    assert line["eval/score/pass_at_2"] == pytest.approx(np.mean(pairs))


def test_a_source_that_holds_nothing_out_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    graph = Graph("open", run=RunConfig(mode="evaluate"))
    graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=graph.carry("policy", ToyPolicyCarry()))
    with pytest.raises(GraphError, match=r"nodes\.tasks: source\.toy_numbers: has no tasks to evaluate on"):
        play(graph, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_check_finds_such_a_source_too() -> None:
    text = """\
graph: open
version: 1
carry:
  policy: {type: policy.toy}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
run: {mode: evaluate}
"""
    (line,) = read_document(parse_document(text, file="open.yaml")).lines()
    assert line.startswith("open.yaml:6:3 nodes.tasks: source.toy_numbers: has no tasks to evaluate on")
    assert line.endswith("(run.mode is evaluate)")


class Odd(Held, name="held_odd"):
    """Kinds of task that look like rich markup."""

    def resolve(self, task_id: str) -> Task:
        return replace(super().resolve(task_id), kind=["[/red]", "[bold]hard"][int(task_id[-1]) % 2])


def test_kinds_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph("odd", run=RunConfig(mode="evaluate", eval_temperature=None))
    policy = graph.carry("policy", ToyPolicyCarry(bias=0))
    answer = graph.add("answer", Say(high=3), tasks=graph.add("tasks", Odd()), policy=policy)
    graph.add("credit", Centred(), scored=graph.add("score", Matches(), rollouts=answer))
    play(graph, out=tmp_path / "run")
    shown = capsys.readouterr().err
    assert "[/red]" in shown and "[bold]hard" in shown


def test_a_sum_that_warms_up_in_training_has_its_full_weights(tmp_path: Path) -> None:
    graph = Graph("warm", run=RunConfig(rounds=2, mode="train_and_evaluate", eval_temperature=None))
    policy = graph.carry("policy", ToyPolicyCarry(bias=0))
    answer = graph.add("answer", Say(high=3), tasks=graph.add("tasks", Held()), policy=policy)
    terms = {"match": TermWeight(weight=2.0, warmup_rounds=5, start_round=1)}
    total = graph.add("total", WeightedSum(terms=terms), scored=[graph.add("score", Matches(), rollouts=answer)])
    graph.add("credit", Centred(), scored=total)
    found = [line for line in lines(play(graph, out=tmp_path / "run", quiet=True)) if "eval/time" in line]
    assert [line["eval/total/weight_match"] for line in found] == [2.0, 2.0]
    assert [line["eval/total/reward"] for line in found] == [2 * found[0]["eval/score/reward"]] * 2


def test_what_fails_in_an_evaluation_costs_the_training_nothing(tmp_path: Path) -> None:
    graph = held_game(mode="train_and_evaluate", eval_every=1, max_failed_rows=0, peers=2)
    graph.add("picky", Centred(), scored=graph.add("fails", FailsHeldOut(), rollouts=graph.output("answer")))
    found = lines(play(graph, out=tmp_path / "run", quiet=True))
    assert any(line.get("eval/fails/failed_rows") for line in found)
    assert all(line["budget/failed_rows"] == 0 for line in found if "budget/failed_rows" in line)


class FailsHeldOut(Reward, name="held_fails"):
    """Cannot judge one kind of held-out task."""

    def run(self, rollouts: R, *, tasks: TaskBook) -> Scored[R]:
        kinds = [tasks[task].kind for task in rollouts.values("task_id")]
        return score(rollouts, {"x": [np.nan if kind == "odd" else 1.0 for kind in kinds]})


def test_eval_every_needs_a_mode_that_evaluates() -> None:
    with pytest.raises(ValueError, match="eval_every is 2, but mode is train; set mode to train_and_evaluate"):
        RunConfig(eval_every=2)


def test_greedy_samples_are_all_alike() -> None:
    with pytest.raises(ValueError, match="eval_samples is 4, but greedy samples are all alike"):
        RunConfig(eval_samples=4)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_success(passed: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(passed)))
    draws = list(combinations(passed, k))
    assert pass_at_k(len(passed), sum(passed), k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_failed_samples_did_not_pass_and_unjudged_ones_do_not_count(make_scored: "MakeScored") -> None:
    tally = Tally()
    rows = make_scored(["t/1"] * 4 + ["t/2"], [1.0, np.nan, 0.0, np.nan, np.nan], failed=[3])
    tally.take(rows, threshold=1.0)
    assert tally.passed == {"t/1": [True, False, False]}
    assert tally.at(1) == pytest.approx(1 / 3)
    assert tally.at(4) is None
    book = TaskBook({"t": Held()})
    assert tally.by_kind(book) == {"t": ["t/1"]}


class MakeScored:
    """Makes scored rollouts of some tasks."""

    def __call__(self, tasks: list[str], rewards: list[float], *, failed: list[int]) -> Rollouts:
        rows = Draw(num_generations=1).run(
            Tasks.from_rows([{"id": t, "messages": [], "answer": "", "metadata": "{}"} for t in tasks]),
            ToyPolicyCarry(bias=0).init("policy", seed=0),
            rng=np.random.default_rng(0),
            log=Log(),
            round=0,
            peer="p",
        )
        values = rows.rows()
        for at in failed:
            values[at] = values[at] | {"finish_reason": "failed"}
        return score(Rollouts.from_rows(values), {"correct": rewards})


@pytest.fixture
def make_scored() -> MakeScored:
    """Scored rollouts with chosen rewards."""
    return MakeScored()


def measured_game(**options: Any) -> Graph:
    """The game with an eval between its nodes."""
    graph = held_game(**options)
    graph.add("spread", Spread(), rows=graph.output("answer"))
    return graph


def test_an_eval_measures_evaluations_and_changes_no_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"mode": "train_and_evaluate", "eval_samples": 4, "peers": 2, "rounds": 2}
    assert compile_graph(measured_game(**options)).protocol == compile_graph(held_game(**options)).protocol
    plain = play(held_game(**options), out=tmp_path / "plain", quiet=True)
    run = play(measured_game(**options), out=tmp_path / "run")
    assert "spread/distinct" in capsys.readouterr().err
    found = lines(run)
    assert [sorted(name for name in line if "spread" in name) for line in found if "eval/time" in line] == [
        ["eval/spread/distinct", "eval/stage0/spread/distinct"]
    ] * 4
    assert not any("spread" in name for line in found if "eval/time" not in line for name in line)
    with RunStore.open(plain.folder) as without, RunStore.open(run.folder) as store:
        assert {group: without.table(group).to_pydict() for group in without.groups()} == {
            group: store.table(group).to_pydict() for group in store.groups()
        }
    assert plain.after == run.after


def test_a_run_with_an_eval_is_whole_resumes_and_is_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = measured_game(mode="train_and_evaluate", eval_samples=4, peers=2, rounds=1, trackers=())
    run = play(graph, out=tmp_path / "run", quiet=True)
    assert run_command(["store", "verify", str(run.folder)]) == 0
    assert open_run(run.folder).rounds == [0]
    resumed = play(measured_game(**RESUMED), out=tmp_path / "run", quiet=True, resume=True)
    assert resumed.after == play(measured_game(**RESUMED), out=tmp_path / "whole", quiet=True).after
    again = replay(run.folder, graph, out=tmp_path / "replay")
    assert list(again.rounds) == [0, 1] and "spread" not in again.verdicts


RESUMED: dict[str, Any] = {"mode": "train_and_evaluate", "eval_samples": 4, "peers": 2, "rounds": 2, "trackers": ()}


def test_an_eval_is_drawn_and_planned_with_its_place(tmp_path: Path) -> None:
    graph = measured_game(mode="train_and_evaluate")
    assert re.search(r"spread +eval.held_spread +reads answer; in evaluations only", graph.plan())
    assert re.search(r"tell +coordinate.held_teller .*; in rounds only", graph.plan())
    graph.draw(tmp_path / "game.mmd")
    assert '[/"<b>spread</b>' in (tmp_path / "game.mmd").read_text()


def test_an_eval_is_played_dry(capsys: pytest.CaptureFixture[str]) -> None:
    dry_play(measured_game(mode="train_and_evaluate", peers=2))
    assert "spread (evaluation)" in capsys.readouterr().err
