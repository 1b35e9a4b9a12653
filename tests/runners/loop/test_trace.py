"""The profile of a run: a Chrome trace of its steps, a new file after each resume, and the operators of a round."""

import json
from pathlib import Path
from typing import Any

import pytest

from genrl_graph.cli import run_command

GAME = Path(__file__).resolve().parents[3] / "graphs" / "tiny_multistage.yaml"
SMALL = ["run.rounds=2", "run.trackers=[]", "nodes.tasks.params.num_tasks=2"]


def run(folder: Path, *arguments: str) -> None:
    assert run_command(["run", str(GAME), "-q", "-o", str(folder), *SMALL, *arguments]) == 0


def events(file: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(file.read_text())
    assert all({"name", "ph", "pid", "tid", "args"} <= set(event) for event in found)
    return [event for event in found if event.get("cat") == kind]


def test_every_step_of_every_peer_is_in_the_trace(tmp_path: Path) -> None:
    run(tmp_path / "run", "--profile")
    file = tmp_path / "run" / "profile.json"
    steps = events(file, "step")
    named = {event["args"]["name"]: event["pid"] for event in json.loads(file.read_text()) if event["ph"] == "M"}
    assert {"peer0000", "peer0001"} <= set(named)
    for peer in ("peer0000", "peer0001"):
        own = [event for event in steps if event["pid"] == named[peer]]
        steps_thread, background = ([event for event in own if event["tid"] == tid] for tid in (0, 1))
        order = [event["name"] for event in steps_thread if event["args"]["round"] == 0]
        assert order[0] == "tasks" and order[-1] == "update" and "open answers" in order and "close answers" in order
        assert [event["name"] for event in steps_thread if event["args"]["round"] == 1] == order
        assert [event["name"] for event in background] == 2 * ["score_answer", "score_critique"]
    final = next(event for event in steps if event["name"] == "final")
    assert final["args"] == {"node": "final", "round": 0, "stage": 2, "rows": 16, "tokens": 16}


def test_what_a_step_consists_of_lies_within_it(tmp_path: Path) -> None:
    run(tmp_path / "run", "--profile")
    file = tmp_path / "run" / "profile.json"
    steps = {(event["pid"], event["args"]["round"], event["name"]): event for event in events(file, "step")}
    waits, reads, commits = (events(file, kind) for kind in ("wait", "inputs", "commit"))
    assert len(reads) == len(steps)
    for wait in waits:
        step = steps[wait["pid"], wait["args"]["round"], f"close {wait['args']['node']}"]
        assert step["ts"] <= wait["ts"] and wait["ts"] + wait["dur"] <= step["ts"] + step["dur"] + 1
    assert {event["args"]["node"] for event in waits} == {"answers", "critiques"}
    assert {event["args"]["node"] for event in commits} >= {"tasks", "answers", "final", "update"}


def test_a_run_that_goes_on_begins_another_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "--profile")
    first = (folder / "profile.json").read_bytes()
    assert run_command(["resume", str(folder), "-q", "run.rounds=3", "--profile"]) == 0
    assert (folder / "profile.json").read_bytes() == first
    after = events(folder / "profile-2.json", "step")
    assert {event["args"]["round"] for event in after} == {2}
    assert min(event["ts"] for event in after) > max(event["ts"] for event in events(folder / "profile.json", "step"))


def test_a_step_that_fails_is_the_last_of_its_trace(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("def paid(completions, **columns):\n    raise ValueError('no judge')\n")
    taken_out = [f"~nodes.score_final.params.{name}" for name in ("pattern", "compare")]
    given = [*taken_out, "nodes.score_final.type=reward.function", "nodes.score_final.params.function=fails:paid"]
    code = run_command(
        ["run", str(GAME), "-q", "-o", str(tmp_path / "run"), *SMALL, *given, "--import", str(script), "--profile"]
    )
    assert code != 0
    last = events(tmp_path / "run" / "profile.json", "step")[-1]
    assert (last["name"], last["args"]["error"]) == ("score_final", "RewardFailed")


def test_no_file_unless_it_is_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("profile*"))


def test_the_operators_of_the_second_round(tmp_path: Path) -> None:
    run(tmp_path / "run", "--profile", "ops")
    recorded = json.loads((tmp_path / "run" / "profile-ops.json").read_text())["traceEvents"]
    assert {"aten::mm", "aten::embedding"} <= {event.get("name") for event in recorded}
    assert events(tmp_path / "run" / "profile.json", "step")


def test_a_dry_run_has_no_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", str(GAME), "--dry", "--profile"]) != 0
    assert "--profile: the times of a dry run say nothing" in capsys.readouterr().err
