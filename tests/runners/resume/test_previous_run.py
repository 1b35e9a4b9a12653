"""Resumed runs: bit-identical to a run that was never interrupted, or refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from crash import Left, contents
from toys import Add, Centred, Draw, Numbers, Parity, Step, Total, TotalCarry, ToyPolicyCarry, toy_game

from genrl_graph import Coordinate, Graph, R, Reward, Rollouts, RunConfig, Scored, Tasks, open_run, score
from genrl_graph.cli import run_command
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.errors import GraphError, NodeFailed, ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.level import LevelCarry, RaiseLevel
from genrl_graph.runners.play import Run, play
from genrl_graph.runners.resume.checkpoint import damage
from genrl_graph.store.journal import Record
from genrl_graph.store.manifest import write_manifest
from genrl_graph.store.run_folder import read_graph
from genrl_graph.store.run_store import RunStore

CRASH = Path(__file__).parents[1].joinpath("crash.py")


class Cut(BaseException):
    """Raised instead of the end of a process."""


@contextmanager
def cut_at(commit: int, *, records: int = 0) -> Iterator[None]:
    """Interrupt the run before a commit, of whose records some are already on disk."""
    whole, count = RunStore.commit, 0

    def committing(self: RunStore, given: Sequence[Record]) -> list[str]:
        nonlocal count
        count += 1
        if count < commit:
            return whole(self, given)
        whole(self, given[:records])
        raise Cut

    RunStore.commit = committing  # type: ignore[method-assign,assignment]  # its `records` are called `given`
    try:
        yield
    finally:
        RunStore.commit = whole  # type: ignore[method-assign]


def left(run: Run) -> Left:
    return Left.of(run.folder, {"/".join(key): digest for key, digest in run.after.items()})


class HeldNumbers(Numbers, name="resume_numbers"):
    """Numbers as tasks; those from 1000 on are held out."""

    held: bool = False

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        rows = super().run(rng=rng, round=round)
        if not self.held:
            return rows
        tasks = [self.resolve(self.task_id(1000 + at)) for at in range(self.num_tasks)]
        return Tasks.from_rows(
            [{"id": t.id, "messages": t.messages, "answer": t.answer, "metadata": "{}"} for t in tasks]
        )

    def evaluated(self, how: Evaluation) -> Self:
        return self.model_copy(update={"held": True})


class CountedReward(Reward, name="resume_counted"):
    """Judges half of the rows, and counts its calls."""

    def run(self, rollouts: R, *, round: int, peer: str) -> Scored[R]:
        ASKED.append((round, peer))
        return score(rollouts, {"half": [float("nan") if at % 2 else 1.0 for at in range(len(rollouts))]})


class CountedTell(Coordinate, name="resume_tell"):
    """A coordinator that counts its calls."""

    def run(self, rows: Rollouts, *, round: int, peer: str) -> None:
        ASKED.append((round, peer))


ASKED: list[tuple[int, str]] = []


def game(*, bias: int = 3) -> Graph:
    """An exchange, two stages, a policy, a frozen one, a total, a level, and a reward that judges half of the rows."""
    graph = Graph("resumed", run=RunConfig(rounds=4, peers=2, checkpoint_every=2, trackers=(), block_rounds=2))
    policy, total = graph.carry("policy", ToyPolicyCarry(bias=3)), graph.carry("total", TotalCarry())
    level = graph.carry("level", LevelCarry(highest=3))
    reference = graph.carry("reference", ToyPolicyCarry(bias=bias))
    tasks = graph.add("tasks", HeldNumbers(num_tasks=2))
    answer = graph.add("answer", Draw(), tasks=tasks, policy=policy)
    answers = graph.add("answers", Gather(min_peers=2), rows=answer)
    final = graph.add("final", Draw(), tasks=tasks, policy=reference, seen=answers)
    scored = [graph.add("parity", Parity(), rollouts=answer), graph.add("counted", CountedReward(), rollouts=final)]
    credited = [graph.add(f"credit_{at}", Centred(), scored=rows) for at, rows in enumerate(scored)]
    graph.add("tell", CountedTell(), rows=final)
    graph.next_round(
        policy=graph.add("update", Step(), policy=policy, credited=credited),
        total=graph.add("add", Add(), total=total, rows=[answers]),
        level=graph.add("raise", RaiseLevel(raise_at=0.2), level=level, scored=scored),
    )
    return graph


def evaluated_game() -> Graph:
    graph = game()
    graph.run = graph.run.model_copy(update={"mode": "train_and_evaluate", "eval_every": 2, "eval_temperature": None})
    return graph


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that is never interrupted."""
    return play(evaluated_game(), out=tmp_path_factory.mktemp("resume") / "run", quiet=True)


@pytest.fixture(scope="module")
def whole_game(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the game without evaluations that is never interrupted."""
    return play(game(), out=tmp_path_factory.mktemp("whole") / "run", quiet=True)


def resumed(folder: Path, graph: Graph | None = None, **options: int) -> Run:
    return play(graph or evaluated_game(), out=folder, quiet=True, resume=True, **options)  # type: ignore[arg-type]


STEPS = 12  # committed by a round of the game
EVALUATION = 8


@pytest.mark.parametrize(
    ("commit", "records"),
    [
        (1, 0),
        (4, 1),  # in the baseline
        (EVALUATION + 3, 1),  # one peer has closed the exchange, the other has not
        pytest.param(EVALUATION + STEPS - 3, 1, marks=pytest.mark.long),  # one peer is updated
        (EVALUATION + 2 * STEPS + 5, 0),  # in the evaluation behind the checkpoint
        pytest.param(2 * EVALUATION + 3 * STEPS + 7, 1, marks=pytest.mark.long),
        (3 * EVALUATION + 4 * STEPS - 1, 0),  # in the last evaluation
    ],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    commit: int, records: int, tmp_path: Path, whole: Run
) -> None:
    ASKED.clear()
    with cut_at(commit, records=records), pytest.raises(Cut):
        play(evaluated_game(), out=tmp_path / "run", quiet=True)
    run = resumed(tmp_path / "run")
    assert left(whole).differences(left(run)) == []
    assert (run.before, run.after, run.rounds) == (whole.before, whole.after, 4)


def truncating_game() -> Graph:
    """A tiny language model whose generator truncates the distribution; both peers train on the rows of both."""
    graph = Graph("truncating", run=RunConfig(rounds=3, peers=2, checkpoint_every=2, trackers=(), block_rounds=2))
    model = TinyLM(alphabet="0123456789+=", initializer_range=0.2, hidden_size=16, layers=1)
    policy, reference = graph.carry("policy", model), graph.carry("reference", model)
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
    sampling = {"max_new_tokens": 5, "top_p": 0.8, "top_k": 9, "repetition_penalty": 1.2, "stop": ["3"]}
    node = Answer(template="{{ task.question }}", num_generations=8, **sampling)
    answer = graph.add("answer", node, tasks=tasks, policy=policy)
    rows = graph.add("rows", Gather(min_peers=2), rows=answer)
    score = graph.add("score", RegexReward(pattern=r"(\d)", compare=True, term="correct"), rollouts=rows)
    credit = graph.add("credit", GroupAdvantage(), scored=score)
    update = Grpo(learning_rate=1e-2, minibatches=2, beta=0.1)
    graph.next_round(policy=graph.add("update", update, policy=policy, credited=credit, reference=reference))
    return graph


def test_the_support_of_own_rows_is_stored_and_resumed_and_stays_at_home(tmp_path: Path) -> None:
    whole = play(truncating_game(), out=tmp_path / "whole", quiet=True)
    with cut_at(11), pytest.raises(Cut):
        play(truncating_game(), out=tmp_path / "run", quiet=True)
    assert left(whole).differences(left(resumed(tmp_path / "run", truncating_game()))) == []
    rows = open_run(whole.folder).frame("credit").rows("peer", "completion_ids", "support_counts", "repetition_penalty")
    own = [row for row in rows if row["support_counts"]]
    assert all(len(row["support_counts"]) == len(row["completion_ids"]) for row in own)
    assert {round(row["repetition_penalty"], 3) for row in own} == {1.2}
    assert 0 < len(own) == len(rows) / 2  # each row has its support in the copy of its author
    assert {row["repetition_penalty"] for row in rows if not row["support_counts"]} == {1.0}


def test_nothing_that_was_committed_is_asked_again(tmp_path: Path) -> None:
    ASKED.clear()
    for commit in (7, 5, 9, 20):
        with cut_at(commit), pytest.raises(Cut):
            resumed(tmp_path / "run", game())
    resumed(tmp_path / "run", game())
    store = RunStore.open(tmp_path / "run")
    counts = {key: ASKED.count(key) for key in ASKED}
    assert counts.keys() == {(number, f"peer000{peer}") for number in range(4) for peer in (0, 1)}
    assert max(counts.values()) <= 3  # by the reward, by the coordinator, and where one was cut before its commit
    assert store.steps().num_rows == 4 * 2 * STEPS


def test_rows_that_failed_before_count_in_the_whole_run(tmp_path: Path, whole: Run, whole_game: Run) -> None:
    lines = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["budget/failed_rows"] for line in lines if "budget/failed_rows" in line][-1] > 8
    graph = game()
    graph.run = graph.run.model_copy(update={"max_failed_rows": 15})
    with cut_at(3 * STEPS), pytest.raises(Cut):
        play(graph, out=tmp_path / "run", quiet=True)
    with pytest.raises(NodeFailed, match=r"16 rows of this run failed, but run.max_failed_rows is 15"):
        resumed(tmp_path / "run", graph)
    graph.run = graph.run.model_copy(update={"max_failed_rows": None, "max_retries": 7, "retry_wait_s": 0.5})
    assert left(whole_game).differences(left(resumed(tmp_path / "run", graph))) == []
    changed = {"max_failed_rows": [15, None], "max_retries": [3, 7], "retry_wait_s": [1.0, 0.5]}
    assert read_graph(tmp_path / "run")[1]["resumed"][-1]["run"] == changed


def summary(text: str) -> list[str]:
    """Return what the end of a run says of all of its rounds: the table of stages, without speeds, and the totals."""
    lines = [line.rstrip() for line in text.splitlines()]
    start = next(at for at, line in enumerate(lines) if line.startswith("stage  "))
    rows = [line.rsplit(maxsplit=1)[0] if line.startswith("    ") else line for line in lines[start:]]
    return [line for line in rows if line and not line.startswith(("rollouts", "rewards", "picture"))]


@pytest.mark.parametrize("commit", [2 * STEPS + 5, 3 * STEPS + 7])  # the rounds before are in a checkpoint, or recalled
def test_the_summary_of_a_resumed_run_covers_all_of_its_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], commit: int
) -> None:
    play(game(), out=tmp_path / "whole")
    expected = summary(capsys.readouterr().err)
    assert any("rows that failed or could not be judged: " in line for line in expected)
    with cut_at(commit), pytest.raises(Cut):
        play(game(), out=tmp_path / "run", quiet=True)
    play(game(), out=tmp_path / "run", resume=True)
    assert summary(capsys.readouterr().err) == expected


@pytest.mark.long
def test_rows_that_fail_in_evaluations_are_not_among_those_of_the_training_after_a_resume(tmp_path: Path) -> None:
    def failed_rows(folder: Path) -> list[float]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["budget/failed_rows"] for line in lines if "budget/failed_rows" in line]

    graph = evaluated_game()
    graph.run = graph.run.model_copy(update={"eval_every": 1, "checkpoint_every": 2})
    expected = failed_rows(play(graph, out=tmp_path / "whole", quiet=True).folder)
    with cut_at(4 * EVALUATION + 3 * STEPS + 1), pytest.raises(Cut):
        play(graph, out=tmp_path / "run", quiet=True)
    assert failed_rows(resumed(tmp_path / "run", graph).folder) == expected


def test_lines_of_metrics_are_written_once_and_a_torn_one_again(tmp_path: Path, whole: Run) -> None:
    with cut_at(2 * EVALUATION + 3 * STEPS + 2), pytest.raises(Cut):
        play(evaluated_game(), out=tmp_path / "run", quiet=True)
    file = tmp_path / "run" / "metrics.jsonl"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "000002")
    file.write_bytes(file.read_bytes()[:-20])
    assert left(whole).metrics == left(resumed(tmp_path / "run")).metrics


def test_a_complete_run_says_so_and_changes_nothing(
    tmp_path: Path, whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    before = contents(folder)
    run = play(evaluated_game(), out=folder, resume=True)
    assert "complete after 4 rounds; raise run.rounds to go on" in " ".join(capsys.readouterr().err.split())
    assert (run.rounds, run.before, run.after) == (4, whole.before, whole.after)
    assert contents(folder) == before


def test_a_run_is_extended_as_if_it_had_been_longer_from_the_start(tmp_path: Path) -> None:
    run = play(game(), out=tmp_path / "run", rounds=2, quiet=True)
    longer = resumed(run.folder, game(), rounds=4)
    assert left(play(game(), out=tmp_path / "longer", quiet=True)).differences(left(longer)) == []
    text, versions = read_graph(run.folder)
    assert "rounds: 4" in text
    assert versions["resumed"] == [{"round": 2, "run": {"rounds": [2, 4]}, "versions": {}}]
    with pytest.raises(ParamError, match=r"run.rounds: 3, but round 4 was begun in .*run; give at least 4"):
        resumed(run.folder, game(), rounds=3)


def test_another_game_or_seed_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = play(game(), out=tmp_path / "run", rounds=1, quiet=True)
    before = contents(run.folder)
    text = game().dump().replace("raise_at: 0.2", "raise_at: 0.3")
    other = read_document(parse_document(text, file="other.yaml")).graph
    with pytest.raises(GraphError, match=r"(?s)run: ran another game; only run.checkpoint_every, .*raise_at.*0.3"):
        resumed(run.folder, other, rounds=1)
    with pytest.raises(GraphError, match=r"(?s)ran another game.*seed"):
        resumed(run.folder, game(), rounds=1, seed=1)
    assert contents(run.folder) == before
    with pytest.raises(StoreError, match="holds a run already"):
        play(game(), out=run.folder, rounds=1, quiet=True)
    with pytest.raises(ParamError, match="resume: name the run folder"):
        play(game(), quiet=True, resume=True)


def test_an_update_that_gives_another_result_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cut_at(2 * STEPS), pytest.raises(Cut):
        play(game(), out=tmp_path / "run", quiet=True)
    run = Add.run

    def other(self: Add, total: Total, rows: list[Rollouts]) -> Total:
        return run(self, total, [*rows, *rows])

    monkeypatch.setattr(Add, "run", other)
    with pytest.raises(
        StoreError, match=r"^nodes.add \(round 0, peer0000\): add became \w+, but \w+ in the run; the same"
    ):
        resumed(tmp_path / "run", game())


@pytest.mark.parametrize("rounds", [4, 5])
def test_a_damaged_checkpoint_is_passed_over_and_made_anew(
    rounds: int, tmp_path: Path, whole_game: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run resumes from the checkpoint before it, or from the start, and verifies every update that it repeats."""
    longer = whole_game if rounds == 4 else play(game(), out=tmp_path / "longer", rounds=5, quiet=True)
    for at, serves in enumerate(("the checkpoint after 2 rounds", "the start")):
        folder = tmp_path / f"run-{at}"
        shutil.copytree(whole_game.folder, folder)
        (folder / "checkpoints" / "000004" / "peer0001" / "total" / "total").write_text("7")
        if at:
            (folder / "checkpoints" / "000002" / "files.json").unlink()  # as if it were incomplete
        run = play(game(), out=folder, rounds=rounds, resume=True)
        told = capsys.readouterr().err
        assert told.count("that checkpoint is passed over") == 1 + at
        assert "000004/peer0001/total/total has size and hash" in told and f"goes on from {serves}" in told
        assert left(longer).differences(left(run)) == []
        assert damage(folder / "checkpoints" / f"{rounds:06d}") is None


def test_carries_that_are_not_what_they_were_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = play(game(), out=tmp_path / "run", rounds=2, quiet=True)
    saved = run.folder / "checkpoints" / "000002" / "peer0001" / "total" / "total"
    number = saved.read_text()
    saved.write_text("7")
    write_manifest(run.folder / "checkpoints" / "000002")
    with pytest.raises(StoreError, match=r"carry.total \(peer0001\) is \w+ in .*000002, but was \w+ then; remove that"):
        resumed(run.folder, game(), rounds=3)
    saved.write_text(number)
    write_manifest(run.folder / "checkpoints" / "000002")
    init = ToyPolicyCarry.init
    monkeypatch.setattr(
        ToyPolicyCarry,
        "init",
        lambda self, name, *, seed: init(self.model_copy(update={"bias": 9}), name, seed=seed),
    )
    with pytest.raises(StoreError, match=r"carry.reference \(peer0000\) starts as \w+, but as \w+ when the run began"):
        resumed(run.folder, game(), rounds=3)


def test_other_packages_are_told_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = play(game(), out=tmp_path / "run", rounds=1, quiet=True)
    file = run.folder / "graph.yaml"
    installed = read_graph(run.folder)[1]["numpy"]
    file.write_text(file.read_text().replace(f'"numpy": "{installed}"', '"numpy": "0.1"'))
    play(game(), out=run.folder, rounds=2, resume=True)
    assert f"numpy was 0.1, is {installed}: bits may differ" in capsys.readouterr().err
    assert read_graph(run.folder)[1]["resumed"][0]["versions"] == {"numpy": installed}
    play(game(), out=run.folder, rounds=3, resume=True)
    assert "bits may differ" not in capsys.readouterr().err


def test_the_command_line_resumes(
    tmp_path: Path, toys_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.py").write_text("")
    Path("game.yaml").write_text(toy_game().dump())
    imports = ["--import", str(toys_file), "--import", "more.py"]
    start = ["run", "game.yaml", "-o", "run", "-q", "--resume", "run.rounds=2", *imports]
    with cut_at(14), pytest.raises(Cut):
        run_command(start)
    assert run_command(["resume", "run", *imports[:2]]) == GraphError.exit_code
    assert "run: was given --import more.py; give it again" in capsys.readouterr().err
    assert run_command(start) == 0
    assert run_command(["resume", "run", "run.rounds=3", "-q", *imports]) == 0
    assert RunStore.open(Path("run")).steps().num_rows == 3 * 11
    assert run_command(["resume", "run", "run.seed=3", *imports]) == GraphError.exit_code
    (tmp_path / "more.py").write_text("CHANGED = 1\n")
    capsys.readouterr()
    assert run_command(["resume", "run", *imports]) == GraphError.exit_code
    assert "run: --import more.py: has changed since the run began" in capsys.readouterr().err
    assert run_command(["resume", "nowhere"]) == StoreError.exit_code
    assert run_command(["run", "game.yaml", "--dry", "--resume", *imports[:2]]) == ParamError.exit_code
    assert run_command(["run", "game.yaml", "--resume", *imports[:2]]) == ParamError.exit_code


@pytest.mark.long
def test_kills_in_commits_blocks_and_checkpoints_leave_no_trace() -> None:
    command = [sys.executable, str(CRASH), "--kills", "10", "--rounds", "3"]
    found = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split()[0]) >= 10, found.stdout  # the last run may be killed more than once
