"""Broken variants of graphs/multistage_math/gsm8k.yaml: each mistake is told in one good line, where it stands.

Positions are those of the shipped file, whose line numbers are part of what is asserted.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genrl_graph.cli import run_command
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.read import load, read

OWN = "; a type of your own needs --import FILE"

Swap = tuple[str, str]

CRITIQUE_INPUTS = "inputs: {tasks: tasks, answers: answers, policy: policy}"
CHOICE_INPUTS = "inputs: {rollouts: critique, answers: answers}"
FINAL_CRITIQUES = "critiques: critiques, policy: policy}"
ALL_CREDITS = "credited: [credit_answer, credit_critique, credit_final]"
UPDATE_ANSWER = """\
  update_answer:
    type: update.grpo
    inputs: {policy: policy, credited: [credit_answer]}

  critique:
"""
UPDATE_CRITIQUE = """\
  update_critique:
    type: update.grpo
    inputs: {policy: policy, credited: [credit_critique]}

  final:
"""

BROKEN: dict[str, tuple[list[Swap], str]] = {
    "unknown type": (
        [("type: reward.choice", "type: reward.choise")],
        "39:11 nodes.score_critique.type: no type named 'reward.choise' (did you mean 'reward.choice'?)" + OWN,
    ),
    "unknown kind": (
        [
            (
                "type: advantage.group\n    inputs: {scored: score_answer}",
                "type: adv.mean\n    inputs: {scored: score_answer}",
            )
        ],
        "27:11 nodes.credit_answer.type: no type named 'adv.mean'; `genrl-graph nodes` lists them" + OWN,
    ),
    "unknown type of a carry": (
        [("type: policy.causal_lm", "type: policy.casual_lm")],
        "7:11 carry.policy.type: no type named 'policy.casual_lm' (did you mean 'policy.causal_lm'?)" + OWN,
    ),
    "misspelt name": (
        [(FINAL_CRITIQUES, "critiques: critique_s, policy: policy}")],
        "47:57 nodes.final.critiques: no node or carry named 'critique_s' (did you mean 'critiques'?)",
    ),
    "misspelt next": (
        [("next: update", "next: updates")],
        "9:11 carry.policy.next: no node or carry named 'updates' (did you mean 'update'?)",
    ),
    "unknown param": (
        [("params: {num_generations: 4}", "params: {num_generation: 4}")],
        "18:14 nodes.answer.params.num_generation: generate.answer: unknown param 'num_generation' "
        "(did you mean 'num_generations'?)",
    ),
    "misspelt param without a default": (
        [
            (
                "inputs: {rows: critique}\n    params: {min_peers: 1}",
                "inputs: {rows: critique}\n    params: {min_peer: 1}",
            )
        ],
        "37:14 nodes.critiques.params.min_peer: exchange.gather: unknown param 'min_peer' (did you mean 'min_peers'?)",
    ),
    "missing param": (
        [("inputs: {rows: critique}\n    params: {min_peers: 1}\n", "inputs: {rows: critique}\n")],
        "35:5 nodes.critiques.params.min_peers: missing; this param has no default",
    ),
    "wrong type of a param": (
        [("params: {num_generations: 4}", "params: {num_generations: four}")],
        "18:31 nodes.answer.params.num_generations: input should be a valid integer, unable to parse string as an "
        "integer, got 'four'",
    ),
    "param out of its range": (
        [("learning_rate: 1e-6", "learning_rate: -1e-6")],
        "59:29 nodes.update.params.learning_rate: input should be greater than 0, got -1e-06",
    ),
    "missing input": (
        [(FINAL_CRITIQUES, "policy: policy}")],
        "47:5 nodes.final.inputs: input 'critiques' (PeerRollouts) is missing; nodes that give PeerRollouts: answers, "
        "critiques",
    ),
    "unknown input": (
        [(CHOICE_INPUTS, "inputs: {rollouts: critique, answers: answers, judge: policy}")],
        "40:52 nodes.score_critique.judge: reward.choice has no input 'judge'; it has rollouts, answers",
    ),
    "misspelt input": (
        [(CHOICE_INPUTS, "inputs: {rollouts: critique, answer: answers}")],
        "40:34 nodes.score_critique.answer: reward.choice has no input 'answer' (did you mean 'answers'?)",
    ),
    "own answers where those of all peers are wanted": (
        [(CRITIQUE_INPUTS, "inputs: {tasks: tasks, answers: answer, policy: policy}")],
        "32:37 nodes.critique.answers: wants PeerRollouts, but 'answer' gives Rollouts; nodes that give PeerRollouts: "
        "answers, critiques",
    ),
    "update without advantages": (
        [("[credit_answer, credit_critique, credit_final]", "[credit_answer, credit_critique, score_final]")],
        "58:73 nodes.update.credited.2: wants Credited, but 'score_final' gives Scored; nodes that give Credited: "
        "credit_answer, credit_critique, credit_final",
    ),
    "advantage of what is not scored": (
        [("inputs: {scored: score_final}", "inputs: {scored: final}")],
        "54:22 nodes.credit_final.scored: wants Scored[Frame], but 'final' gives Rollouts; nodes that give "
        "Scored[Frame]: score_answer, credit_answer, score_critique, credit_critique, score_final",
    ),
    "cycle": (
        [(CRITIQUE_INPUTS, "inputs: {tasks: tasks, answers: critiques, policy: policy}")],
        "32:37 nodes.critique.answers: a cycle: critique -> critiques -> critique; only a carry links a round to the "
        "next",
    ),
    "two updates of one policy": (
        [
            ("  final:\n", UPDATE_CRITIQUE),
            (FINAL_CRITIQUES, "critiques: critiques, policy: update_critique}"),
            (ALL_CREDITS, "credited: [credit_answer, credit_final]"),
        ],
        "62:22 nodes.update.policy: 'update' and 'update_critique' both replace the weights of 'policy'; chain them "
        "(read 'update_critique') or take a policy.fork of it",
    ),
    "reader that comes after the update": (
        [
            ("  critique:\n", UPDATE_ANSWER),
            (CRITIQUE_INPUTS, "inputs: {tasks: tasks, answers: answers, policy: update_answer}"),
            ("{policy: policy, credited: [credit_answer, ", "{policy: update_answer, credited: ["),
        ],
        "51:76 nodes.final.policy: reads the weights of 'policy', but comes after 'update_answer', which replaces "
        "them; read 'update_answer' instead or take a policy.fork of it before the update",
    ),
    "policy that is updated but not carried": (
        [("    next: update\n", "")],
        "6:3 carry.policy: is frozen without `next`, but updated; write `next: update`, or let the update take a "
        "policy.fork of it",
    ),
    "wrong version": (
        [("version: 1", "version: 2")],
        "4:10 version: this program reads version 1, got 2; write `version: 1`",
    ),
    "no version": (
        [("version: 1\n", "")],
        "3:1 version: missing; this program reads version 1: write `version: 1`",
    ),
    "unused reward": (
        [
            (ALL_CREDITS, "credited: [credit_answer, credit_final]"),
            ("  credit_critique:\n    type: advantage.group\n    inputs: {scored: score_critique}\n", ""),
        ],
        "38:3 nodes.score_critique: this reward is read by nothing; give it to an advantage or remove it",
    ),
    "exchange that nothing reads": (
        [(FINAL_CRITIQUES, "critiques: answers, policy: policy}")],
        "34:3 nodes.critiques: nothing reads this exchange; peers would wait for it in vain: remove it",
    ),
    "unknown run option": (
        [("run: {rounds: 100}", "run: {round: 100}")],
        "60:7 run.round: unknown option 'round' (did you mean 'rounds'?)",
    ),
    "wrong value of a run option": (
        [("run: {rounds: 100}", "run: {rounds: 100, peers: 0}")],
        "60:27 run.peers: input should be greater than or equal to 1, got 0",
    ),
    "unknown key of the file": (
        [("run: {rounds: 100}", "runs: {rounds: 100}")],
        "60:1 runs: unknown key 'runs' (did you mean 'run'?)",
    ),
    "unknown key of a node": (
        [("    params: {num_generations: 4}\n", "    param: {num_generations: 4}\n")],
        "18:5 nodes.answer.param: unknown key 'param' (did you mean 'params'?)",
    ),
    "answer in a prompt": (
        [("    params: {num_generations: 4}\n", "    params: {template: '{{ task.answer }}'}\n")],
        "18:13 nodes.answer.params: the template reads task.answer; a task shows id, question, metadata, messages",
    ),
    "carry where a node belongs": (
        [("    type: reward.choice\n", "    type: policy.tiny_lm\n")],
        "39:11 nodes.score_critique.type: 'policy.tiny_lm' belongs under `carry:`, not under `nodes:`",
    ),
}
MALFORMED: dict[str, tuple[list[Swap], str]] = {
    "broken YAML": (
        [("run: {rounds: 100}\n", "run: {rounds: 100\n")],
        "61:1: while parsing a flow mapping, did not find expected ',' or '}'; mend the YAML here",
    ),
    "one name twice": (
        [("  critiques:\n", "  answers:\n")],
        "34:3: the key 'answers' is given twice, first at {path}:19:3; keep one of them",
    ),
}

SEVERAL = [
    ("version: 1", "version: 3"),
    ("type: source.hf_dataset", "type: source.hf_datasets"),
    ("params: {num_generations: 4}", "params: {num_generation: 4}"),
    ("inputs: {rows: critique}\n    params: {min_peers: 1}", "inputs: {rows: critique}\n    params: {min_peers: 0}"),
    (CHOICE_INPUTS, "inputs: {rollouts: critique, answers: answer}"),
    (FINAL_CRITIQUES, "critiques: critique_s, policy: policy}"),
    ("credit_critique, credit_final]", "score_critique, credit_final]"),
    ("run: {rounds: 100}", "run: {round: 100}"),
]
SEVERAL_LINES = [
    "4:10 version: this program reads version 1, got 3; write `version: 1`",
    "12:11 nodes.tasks.type: no type named 'source.hf_datasets' (did you mean 'source.hf_dataset'?)" + OWN,
    "18:14 nodes.answer.params.num_generation: generate.answer: unknown param 'num_generation' (did you mean "
    "'num_generations'?)",
    "37:25 nodes.critiques.params.min_peers: input should be greater than or equal to 1, got 0",
    "40:43 nodes.score_critique.answers: wants PeerRollouts, but 'answer' gives Rollouts; nodes that give "
    "PeerRollouts: answers, critiques",
    "47:57 nodes.final.critiques: no node or carry named 'critique_s' (did you mean 'critiques'?)",
    "58:56 nodes.update.credited.1: wants Credited, but 'score_critique' gives Scored; nodes that give Credited: "
    "credit_answer, credit_critique, credit_final",
    "60:7 run.round: unknown option 'round' (did you mean 'rounds'?)",
]


@pytest.fixture(scope="module")
def gsm8k(graphs: Path) -> str:
    """The text of the shipped file."""
    return (graphs / "multistage_math" / "gsm8k.yaml").read_text()


def broken(text: str, changes: list[Swap]) -> str:
    """The text with changes, each of which changes one place."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("name", [*BROKEN, *MALFORMED])
def test_a_mistake_is_told_in_one_line(
    name: str, gsm8k: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, expected = (BROKEN | MALFORMED)[name]
    path = tmp_path / "gsm8k.yaml"
    path.write_text(broken(gsm8k, changes))
    assert run_command(["plan", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"genrl-graph: {path}:{expected.replace('{path}', str(path))}\n"
    with pytest.raises(GraphError):
        load(path)


@pytest.mark.parametrize("name", BROKEN)
def test_the_caret_stands_under_what_is_wrong(name: str, gsm8k: str, tmp_path: Path) -> None:
    changes, expected = BROKEN[name]
    path = tmp_path / "gsm8k.yaml"
    path.write_text(broken(gsm8k, changes))
    (told,) = read(path).lines(caret=True)
    _, shown, caret = told.split("\n")
    line, column = map(int, expected.partition(" ")[0].split(":"))
    assert shown == path.read_text().splitlines()[line - 1]
    assert caret == " " * (column - 1) + "^"
    assert shown[column - 1] != " "


def test_several_mistakes_are_told_in_one_go_and_in_the_order_of_the_file(
    gsm8k: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gsm8k.yaml"
    path.write_text(broken(gsm8k, SEVERAL))
    assert run_command(["check", str(path)]) == 2
    printed = capsys.readouterr()
    told = [line for line in printed.out.splitlines() if line.startswith(str(path))]
    assert told == [f"{path}:{line}" for line in SEVERAL_LINES]
    assert printed.err == f"{path}: 8 problems\n"


def test_the_shipped_file_itself_is_correct(graphs: Path) -> None:
    assert read(graphs / "multistage_math" / "gsm8k.yaml").lines() == []


def test_an_override_on_the_command_line_is_judged_like_the_file(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = graphs / "multistage_math" / "gsm8k.yaml"
    overrides = ["nodes.answer.params.num_generation=8", "nodes.final.inputs.critiques=critique_s"]
    assert run_command(["plan", str(path), *overrides]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"genrl-graph: command line: {overrides[0]} {BROKEN['unknown param'][1].partition(' ')[2]}",
        f"genrl-graph: command line: {overrides[1]} {BROKEN['misspelt name'][1].partition(' ')[2]}",
    ]


def test_broken_files_are_refused_without_torch_and_before_any_model(gsm8k: str, tmp_path: Path) -> None:
    """One process checks several files, as a stranger to this test run would: exit code 2, heavy packages unloaded."""
    paths = []
    for at, name in enumerate(["unknown type", "cycle", "two updates of one policy", "wrong version", "unused reward"]):
        paths.append(tmp_path / f"{at}.yaml")
        paths[-1].write_text(broken(gsm8k, BROKEN[name][0]))
    code = (
        "import json, sys\n"
        "from genrl_graph.cli import run_command\n"
        "codes = [run_command([command, path]) for path in sys.argv[1:] for command in ('check', 'plan', 'run')]\n"
        "heavy = [name for name in ('torch', 'transformers', 'trl', 'datasets', 'zarr') if name in sys.modules]\n"
        "print(json.dumps([codes, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert codes == [2] * 15
    assert heavy == []
    assert not (tmp_path / "runs").exists()


def test_the_command_ends_with_exit_code_2(gsm8k: str, tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.yaml"
    path.write_text(broken(gsm8k, BROKEN["misspelt name"][0]))
    done = subprocess.run(
        [sys.executable, "-m", "genrl_graph", "check", "gsm8k.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"gsm8k.yaml:{BROKEN['misspelt name'][1]}",
        "    inputs: {tasks: tasks, answers: answers, critiques: critique_s, policy: policy}",
        " " * 56 + "^",
    ]
    assert done.stderr == "gsm8k.yaml: 1 problem\n"
