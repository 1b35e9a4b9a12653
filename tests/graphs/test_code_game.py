"""The code game goes through every door: checked, played dry, played, cut and resumed, verified, replayed."""

import json
from pathlib import Path

import pytest
from crash import Left, killed

import genrl_graph.graphs
from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.records.stored_run import open_run
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.play import play
from genrl_graph.runners.replay.replay import replay

GAMES = Path(genrl_graph.graphs.__file__).resolve().parent / "code_game"
SMALL = [
    "nodes.propose.params.num_generations=12",
    "nodes.solve.params.num_generations=4",
    "nodes.tasks.params.max_answer=[4]",
    "carry.proposer.params.hidden_size=16",
    "carry.solver.params.hidden_size=16",
    "carry.first_proposer.params.hidden_size=16",
    "carry.first_solver.params.hidden_size=16",
    "nodes.solve.params.max_new_tokens=2",
    "run.mode=train",
    "run.eval_every=0",
    "run.trackers=[]",
    "run.checkpoint_every=1",
    "run.block_rounds=2",
    "run.rounds=2",
]
pytestmark = pytest.mark.usefixtures("one_thread", "contained")


@pytest.fixture(scope="module")
def game() -> Graph:
    """The tiny game, with few proposals and few solutions."""
    return load(GAMES / "tiny.yaml", SMALL)


@pytest.fixture(scope="module")
def whole(game: Graph, tmp_path_factory: pytest.TempPathFactory, one_thread: None, contained: None) -> Path:
    """A run that nothing happened to."""
    return play(game, out=tmp_path_factory.mktemp("code_game") / "whole", quiet=True).folder


def test_proposals_become_the_tasks_that_are_solved(whole: Path, game: Graph) -> None:
    assert verify_run(whole).problems == []
    run = open_run(whole)
    proposed = run.frame("propose").values("completion")
    tasks = compile_graph(game).nodes["tasks"]
    solved = set(run.frame("solve").values("task_id"))
    assert solved and solved == set(run.frame("score").values("task_id"))
    assert {tasks.resolve(id).answer for id in solved} <= set(proposed)  # type: ignore[attr-defined]
    for line in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines()):
        dropped = {rule.rpartition("/")[2]: n for rule, n in line.items() if rule.startswith("tasks/dropped/")}
        assert line["tasks/proposed"] == 12 and dropped.keys() <= {"no_code", "trivial", "above_level"}
        assert line["pay/reward_task"] == pytest.approx(1 - sum(dropped.values()) / 12)


@pytest.mark.long
def test_killed_in_the_middle_of_a_round_it_goes_on_to_the_same_bits(whole: Path, game: Graph, tmp_path: Path) -> None:
    commits = len(compile_graph(game).steps)
    assert killed(game, tmp_path / "cut", commits + commits // 2 + 1)
    assert len(open_run(tmp_path / "cut").rounds) == 1
    again = play(game, out=tmp_path / "cut", resume=True, quiet=True)
    after = {"/".join(key): digest for key, digest in again.after.items()}
    assert Left.of(whole, after).differences(Left.of(tmp_path / "cut", after)) == []


@pytest.mark.long
def test_an_edited_reward_is_computed_again_from_stored_rows(whole: Path, tmp_path: Path) -> None:
    found = replay(
        whole, load(GAMES / "tiny.yaml", [*SMALL, "nodes.pay.params.task=0.3"]), out=tmp_path / "r", quiet=True
    )
    recomputed = {name for name, verdict in found.verdicts.items() if verdict.fate == "recomputed"}
    assert recomputed == {"pay", "credit_proposals"}
    paid, again = (open_run(folder).frame("pay") for folder in (whole, found.folder))
    moved = again.numpy("reward") - paid.numpy("reward")
    assert moved == pytest.approx(0.2 * paid.numpy("reward_task"))


def test_an_evaluation_counts_solutions_and_no_proposals(tmp_path: Path) -> None:
    evaluated = [*SMALL, "run.mode=evaluate", "run.eval_tasks=2", "run.eval_samples=2"]
    run = play(load(GAMES / "tiny.yaml", evaluated), out=tmp_path / "run", quiet=True)
    (line,) = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    assert line["eval/score/tasks"] == 2 and "eval/score/pass_at_2" in line
    assert not [name for name in line if name.startswith("eval/pay/pass_at")]


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny", "code_game"])
def test_it_is_checked_and_played_dry(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(GAMES / f"{name}.yaml")]) == 0
    assert run_command(["run", str(GAMES / f"{name}.yaml"), "--dry", "-q"]) == 0
    assert ": ok (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (
            "nodes.tasks.params.max_answer=[]",
            "nodes.tasks: has input `level`, but no max_answer; give both, or neither",
        ),
        ("~nodes.tasks.inputs.level", "nodes.tasks: has max_answer, but no input `level`; give both, or neither"),
        ("nodes.tasks.params.max_answer=[0]", "max_answer"),
        ("nodes.tasks.params.eval_proposals=[]", "has no tasks to evaluate on; give eval_proposals"),
        ("nodes.tasks.params.limits={cpu: 1}", "cpu"),
    ],
)
def test_what_does_not_fit_is_a_line_of_check(edit: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(GAMES / "tiny.yaml"), edit]) != 0
    said = capsys.readouterr()
    assert line in said.out + said.err
