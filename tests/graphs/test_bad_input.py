"""Something outside a graph is missing or broken: one line names the node, with an exit code of its own.

The run folder still opens with what was committed, or there is none.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from genrl_graph.cli import run_command
from genrl_graph.store.run_store import RunStore

REWARDS = '''\
"""Reward functions that go wrong from the second round on."""

import os
import time


def pays(completions, **columns):
    return [float(completion[0]["content"].isdigit()) for completion in completions]


def raises(completions, round, **columns):
    if round[0] == 1:
        raise ValueError("no judge\\nat home")
    return pays(completions)


def hangs(completions, round, **columns):
    if round[0] == 1:
        time.sleep(60)
    return pays(completions)


def dies(completions, round, **columns):
    if round[0] == 1:
        os._exit(3)
    return pays(completions)


def too_few(completions, round, **columns):
    return pays(completions)[: -1 if round[0] == 1 else None]


def text(completions, round, **columns):
    return ["1.0" if round[0] == 1 else value for value in pays(completions)]


def judges_nothing(completions, round, **columns):
    return [None if round[0] == 1 else value for value in pays(completions)]


def not_a_number(completions, round, **columns):
    return [float("nan") if round[0] == 1 else value for value in pays(completions)]


def now_and_then(completions, **columns):
    return [None if at % 2 else value for at, value in enumerate(pays(completions))]
'''
BY_FUNCTION = [
    "nodes.score.type=reward.function",
    "~nodes.score.params",
    "nodes.tasks.params.num_tasks=4",
    "nodes.answer.params.num_generations=4",
]
PACKAGE = ["carry.policy.type=policy.causal_lm", "~carry.policy.params"]
"""Overrides of tiny.yaml."""


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error that a failed command printed behind its headline, without the name of the program."""
    printed = capsys.readouterr()
    assert printed.out == ""
    *headline, line = printed.err.splitlines()
    assert all(", folder " in said or said.startswith("loading ") for said in headline), headline
    name, _, text = line.partition(": ")
    assert name == "genrl-graph"
    return text


@pytest.mark.parametrize(
    ("file", "content", "params", "told"),
    [
        ("no.jsonl", None, {}, "no such file or folder; a relative path starts at the graph file"),
        ("a.jsonl", b"", {}, "the data set has no rows"),
        ("a.csv", b"question,answer\n", {}, "the data set has no rows"),
        ("a.jsonl", b'{"question": "1+1=", "answer"\n', {}, r"1: no JSON: Expecting ':' delimiter"),
        ("a.jsonl", b"[1, 2]", {}, "a row must be a JSON object, not '1'"),
        ("a.jsonl", b"\xff\xfe\n", {}, r"a.jsonl:1: not UTF-8 text \(byte 0xff\); save it as UTF-8"),
        ("a.parquet", b"PAR1 and no more", {}, "cannot be read: "),
        ("a.txt", b"1+1=", {}, r"cannot read a \.txt file; give one of \.jsonl, \.json, \.csv, \.parquet"),
        (
            "a.jsonl",
            b'{"questoin": "1+1=", "answer": "2"}\n',
            {},
            r"no column 'question' \(did you mean 'questoin'\?\); it has questoin, answer",
        ),
        (
            "a.jsonl",
            b'{"question": "1+1=", "answer": "2"}\n',
            {"metadata": ["level"]},
            "no column 'level'; it has question, answer",
        ),
        (
            "a.jsonl",
            b'{"question": "1+1=", "answer": "2"}\n{"question": "1+2="}\n',
            {},
            "a.jsonl:2: row 1: no column 'answer'; it has question",
        ),
        ("a.jsonl", b'{"question": "1+1=", "answer": "2"}\n', {}, "num_tasks is 32, but there are 1 rows; lower num_"),
    ],
)
def test_bad_data_is_told_before_anything_is_made(
    file: str,
    content: bytes | None,
    params: dict[str, object],
    told: str,
    graphs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    given = [f"nodes.tasks.params.{name}={json.dumps(value)}" for name, value in ({"path": str(path)} | params).items()]
    assert run_command(["run", str(graphs / "tiny.yaml"), "-o", str(tmp_path / "run"), *given]) == 10
    line = one_line(capsys)
    assert line.startswith("nodes.tasks: ")
    assert re.search(told, line), line
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_reasoning_gym_does_not_have_is_told_before_a_model_is_loaded(
    graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = graphs / "multistage_math" / "reasoning_gym.yaml"
    given = ["nodes.tasks.params.dataset=chain_sums", "-o", str(tmp_path / "run")]
    assert run_command(["run", str(path), *given]) == 10
    assert one_line(capsys).startswith("nodes.tasks: 'chain_sums': no such data set in reasoning_gym (did you mean")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            "package:not_there",
            "package:not_there: not installed; no package 'not-there' is known here; install what holds it",
        ),
        ("package:yaml", "package:yaml: wants exactly one GGUF file in the package; found none"),
        ("./no_model", "policy.causal_lm.model './no_model': no such folder"),
    ],
)
def test_a_model_that_is_not_there_is_told_by_the_name_of_its_carry(
    model: str, told: str, graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*PACKAGE, f"carry.policy.params.model='{model}'", "-o", str(tmp_path / "run")]
    assert run_command(["run", "-q", str(graphs / "tiny.yaml"), *given]) == 10
    assert one_line(capsys) == f"carry.policy: {told}"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    """A script of reward functions with a name of its own."""
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text(REWARDS)
    return path


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("raises", r"ValueError: no judge \(\w+\.py:\d+ in raises\)"),
        ("hangs", "no answer within 1 s"),
        ("dies", "the worker process died with exit code 3"),
        ("too_few", "returned 15 values for 16 completions; return one for each"),
        ("text", r"returned '1\.0'; return finite numbers, or None for what cannot be judged"),
        ("judges_nothing", "returned None"),
        ("not_a_number", "returned NaN"),
    ],
)
def test_a_reward_function_that_fails_ends_the_run_and_keeps_what_was_committed(
    function: str, told: str, graphs: Path, tmp_path: Path, rewards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    given = [*BY_FUNCTION, f"nodes.score.params.function='{rewards.stem}:{function}'", "nodes.score.params.timeout_s=1"]
    options = ["-q", "-o", str(folder), "--import", str(rewards), "run.rounds=3"]
    assert run_command(["run", str(graphs / "tiny.yaml"), *options, *given]) == 21
    line = one_line(capsys)
    assert line.startswith("nodes.score (round 1, peer0000): none of 16 rows could be judged (max_unjudged is 0.99); ")
    assert re.search(f"; the first: {told}", line), line

    store = RunStore.open(folder)
    first_round = ["tasks", "answer", "score", "credit", "update"]
    steps = [(step["round"], step["node"]) for step in store.steps().to_pylist()]
    assert steps == [*((0, node) for node in first_round), (1, "tasks"), (1, "answer")]
    assert store.table("answer").num_rows == 2 * 16
    assert store.table("score").num_rows == 16
    assert set(store.table("score")["reward"].to_pylist()) <= {0.0, 1.0}
    assert [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0]
    assert store.versions["imports"].keys() == {str(rewards)}


def test_some_rows_that_cannot_be_judged_stop_nothing_and_leave_the_baseline(
    graphs: Path, tmp_path: Path, rewards: Path
) -> None:
    folder = tmp_path / "run"
    given = [*BY_FUNCTION, f"nodes.score.params.function='{rewards.stem}:now_and_then'"]
    options = ["-q", "-o", str(folder), "--import", str(rewards), "run.rounds=1"]
    assert run_command(["run", str(graphs / "tiny.yaml"), *options, *given]) == 0
    store = RunStore.open(folder)
    judged = [reward == reward for reward in store.table("score")["reward"].to_pylist()]
    assert judged == [True, False] * 8
    assert [value == value for value in store.table("credit")["advantage"].to_pylist()] == judged
    metrics = json.loads((folder / "metrics.jsonl").read_text())
    assert metrics["score/unjudged"] == 0.5


def test_a_reward_function_without_consent_is_refused_and_not_run(
    graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("from pathlib import Path\n\nPath('was_run').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (graphs / "tiny.yaml").read_text().replace("reward.regex", "reward.function")
    text = re.sub(r"params: \{pattern: .*\}", "params: {function: 'stranger:pays'}", text)
    Path("game.yaml").write_text(text)
    for command in ("check", "plan", "run"):
        assert run_command([command, "game.yaml"]) == 2
        printed = capsys.readouterr()
        assert (
            "game.yaml:22:24 nodes.score.params.function: a graph file may not run 'stranger' by itself; add "
            "`--import stranger`, or `--import` and the path of stranger.py, to allow it, got 'stranger:pays'"
        ) in printed.out + printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["game.yaml", "stranger.py"]
    assert run_command(["check", "game.yaml", "--import", "stranger"]) == 2
    assert "module 'stranger' has no 'pays'" in capsys.readouterr().out
    assert Path("was_run").exists()


def test_a_function_that_the_script_does_not_have_is_told_by_the_check(
    graphs: Path, rewards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*BY_FUNCTION, f"nodes.score.params.function='{rewards.stem}:pay'", "--import", str(rewards)]
    assert run_command(["plan", str(graphs / "tiny.yaml"), *given]) == 2
    assert f"module '{rewards.stem}' has no 'pay' (did you mean 'pays'?)" in one_line(capsys)


def test_a_failed_run_ends_the_process_with_its_code(graphs: Path, tmp_path: Path, rewards: Path) -> None:
    """From the shell: exit code 21, one line, nothing on stdout; the run does not wait for the hung judge."""
    given = [*BY_FUNCTION, f"nodes.score.params.function='{rewards.stem}:hangs'", "nodes.score.params.timeout_s=1"]
    options = ["-q", "-o", "run", "--import", rewards.name, "run.rounds=3"]
    done = subprocess.run(
        [sys.executable, "-m", "genrl_graph", "run", str(graphs / "tiny.yaml"), *options, *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 21
    assert done.stdout == ""
    none = "none of 16 rows could be judged (max_unjudged is 0.99); the first: no answer within 1 s"
    assert done.stderr == f"genrl-graph: nodes.score (round 1, peer0000): {none}\n"
    assert RunStore.open(tmp_path / "run").table("score").num_rows == 16
