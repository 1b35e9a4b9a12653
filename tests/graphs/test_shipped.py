"""Every shipped graph is valid, comes back from its own dump, equals its Python twin and has the plan that it shows."""

import os
from pathlib import Path

import pytest

import genrl_graph.graphs
from genrl_graph import load
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read
from genrl_graph.graphs.multistage_math.twin import multistage_sums
from genrl_graph.graphs.tiny import tiny

FOLDER = Path(genrl_graph.graphs.__file__).resolve().parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))

THREE_STAGES = [
    "\nstage 0    1. tasks ",
    " 2. answer ",
    " 3. open answers ",
    " 4. close answers ",
    "\nstage 1    5. critique ",
    " 6. open critiques ",
    "\nstage 0    7. score_answer ",
    "runs beside close answers",
    " 8. credit_answer ",
    "\nstage 1    9. close critiques ",
    "\nstage 2   10. final ",
    "\nstage 1   11. score_critique ",
    "runs beside close critiques",
]
PLANS = {
    "tiny.yaml": [
        "tiny: 5 nodes, 1 stage, 0 exchanges, 400 rounds, 1 peer, seed 0",
        "stage 0    1. tasks   source.hf_dataset",
        "           2. answer  generate.answer    reads tasks; weights of policy (round's start)",
        "           5. update  update.grpo        reads credit; weights of policy (round's start); "
        "gives update: new weights",
        "carry policy (policy.tiny_lm): next round update",
    ],
    "tiny_multistage.yaml": [
        "tiny_multistage: 13 nodes, 3 stages, 2 exchanges, 600 rounds, 2 peers, seed 0",
        *THREE_STAGES,
        "generate.critique  reads tasks, answers; weights of policy (round's start)",
        "reads credit_answer, credit_critique, credit_final; weights of policy (round's start); gives update",
    ],
    "multistage_math/gsm8k.yaml": [
        "multistage_math: 13 nodes, 3 stages, 2 exchanges, 100 rounds, 1 peer, seed 0",
        *THREE_STAGES,
        "15. update           update.grpo        reads credit_answer, credit_critique, credit_final; "
        "weights of policy (round's start); gives update: new weights",
        "carry policy (policy.causal_lm): next round update",
    ],
    "multistage_math/dapo.yaml": ["multistage_math_dapo: 13 nodes, 3 stages", *THREE_STAGES],
    "multistage_math/big_math.yaml": ["multistage_math_big_math: 13 nodes, 3 stages", *THREE_STAGES],
    "multistage_math/solver_critic.yaml": [
        "multistage_solver_critic: 15 nodes, 3 stages, 2 exchanges, 20 rounds, 1 peer, seed 0",
        *THREE_STAGES,
        "generate.critique     reads tasks, answers; weights of critic (round's start)",
        "update.grpo           reads credit_critique; weights of critic (round's start); gives update_critique",
        "carry critic (policy.causal_lm): next round update_critique",
    ],
    "multistage_math/reasoning_gym.yaml": [
        "multistage_sums: 15 nodes, 3 stages, 2 exchanges, 20 rounds, 2 peers, seed 0",
        *THREE_STAGES,
        "generate.critique     reads tasks, answers; weights of policy (round's start)",
        "generate.revise       reads tasks, answers, critiques; weights of policy (round's start)",
        "stage 0   13. update_answer    update.grpo           reads credit_answer; weights of policy (round's start)",
        "stage 1   14. update_critique  update.grpo           reads credit_critique; weights of update_answer (this",
        "17. update           update.grpo           reads credit_final; weights of update_critique (this round)",
    ],
    "multistage_math/reasoning_gym_per_stage.yaml": [
        "multistage_sums_per_stage: 15 nodes, 3 stages, 2 exchanges, 20 rounds, 2 peers, seed 0",
        "6. update_answer    update.grpo           reads credit_answer; weights of policy (round's start)",
        "stage 1    8. critique         generate.critique     reads tasks, answers; weights of update_answer (this",
        "12. update_critique  update.grpo           reads credit_critique; weights of update_answer (this round)",
        "stage 2   14. final            generate.revise       reads tasks, answers, critiques; weights of update_crit",
        "17. update           update.grpo           reads credit_final; weights of update_critique (this round)",
    ],
}


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    """A shipped graph file."""
    return FOLDER / str(request.param)


def test_it_passes_the_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: ok (")
    assert line.endswith(f", protocol {compile_graph(load(path)).protocol[:12]})")


def test_it_loads_back_from_its_dump_wherever_that_lies(path: Path, tmp_path: Path) -> None:
    graph = load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(graph.dump())
    again = load(copy)
    assert again == graph
    assert again.dump() == graph.dump()
    assert compile_graph(again).protocol == compile_graph(graph).protocol


def test_it_is_the_same_graph_from_every_working_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load(path)
    monkeypatch.chdir(tmp_path)
    assert load(Path(os.path.relpath(path))) == graph


def test_every_reader_of_a_policy_comes_before_the_update_that_replaces_what_it_reads(path: Path) -> None:
    schedule = compile_graph(load(path))
    replaced = 0
    for at, step in enumerate(schedule.steps):
        for socket in schedule.replaced(step.node).values():
            ref = step.reads.get(socket)
            if ref is None:
                continue  # a value that no update changes in place
            replaced += 1
            assert [later.node for later in schedule.steps[at + 1 :] if ref in later.reads.values()] == []
    assert replaced >= 1


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_stable(name: str, graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", str(graphs / name)]) == 0
    text = capsys.readouterr().out
    assert [line for line in PLANS[name] if line not in text] == []


def test_the_plan_is_the_same_text_every_time(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert run_command(["plan", str(path)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("tiny.yaml", tiny()),
        ("multistage_math/reasoning_gym.yaml", multistage_sums()),
        ("multistage_math/reasoning_gym_per_stage.yaml", multistage_sums(per_stage=True)),
    ],
)
def test_the_python_twin_is_the_same_graph(name: str, twin: object, graphs: Path) -> None:
    graph = load(graphs / name)
    assert twin == graph
    assert twin != load(graphs / name, ["run.seed=1"])
    assert compile_graph(graph).protocol == compile_graph(load(graphs / name, ["run.seed=1"])).protocol


def test_a_twin_differs_from_the_other_game(graphs: Path) -> None:
    assert multistage_sums() != load(graphs / "multistage_math/reasoning_gym_per_stage.yaml")
    assert multistage_sums(model="some/model") != multistage_sums()


def test_a_multistage_file_stands_alone() -> None:
    alone = [
        name
        for name in FILES
        if "defaults" not in parse_document((FOLDER / name).read_text(), file=name).values
        and compile_graph(load(FOLDER / name)).stages > 1
    ]
    assert "multistage_math/gsm8k.yaml" in alone


@pytest.mark.parametrize(
    ("name", "base", "changed"),
    [
        ("dapo.yaml", "gsm8k.yaml", "open-r1/DAPO-Math-17k-Processed"),
        ("big_math.yaml", "gsm8k.yaml", "open-r1/Big-Math-RL-Verified-Processed"),
    ],
)
def test_a_composed_file_changes_the_data_and_nothing_else(name: str, base: str, changed: str, graphs: Path) -> None:
    folder = graphs / "multistage_math"
    composed = load(folder / name)
    assert composed == load(folder / base, [f"graph={composed.name}", f"nodes.tasks.params.path={changed}"])


def test_a_mistake_in_a_composed_file_is_shown_in_the_file_that_holds_it(tmp_path: Path, graphs: Path) -> None:
    folder = graphs / "multistage_math"
    (tmp_path / "gsm8k.yaml").write_text((folder / "gsm8k.yaml").read_text())
    text = (folder / "dapo.yaml").read_text().replace("path: open-r1", "num_task: 4, path: open-r1")
    (tmp_path / "dapo.yaml").write_text(text)
    (line,) = read(tmp_path / "dapo.yaml").lines()
    assert line.startswith(f"{tmp_path / 'dapo.yaml'}:7:14 nodes.tasks.params.num_task: source.hf_dataset: unknown")
