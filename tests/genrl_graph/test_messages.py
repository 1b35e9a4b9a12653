"""Hints for misspelt names cost a bounded time, however many names a file misspells."""

import time
from pathlib import Path

import pytest

from genrl_graph import messages
from genrl_graph.cli import run_command
from genrl_graph.messages import closest

CARRY = "graph: g\nversion: 1\ncarry:\n  policy: {type: policy.tiny_lm}\nnodes:\n"
TASKS = "  tasks: {type: source.list, params: {tasks: [{question: a}]}}\n"
FILES = {
    "references": CARRY
    + TASKS
    + "".join(
        f"  answer{at}: {{type: generate.answer, inputs: {{tasks: taks{at}, policy: polcy}}}}\n" for at in range(1500)
    ),
    "types": CARRY + "".join(f"  answer{at}: {{type: generate.anwser{at}}}\n" for at in range(3000)),
    "inputs": CARRY
    + TASKS
    + "  answer:\n    type: generate.answer\n    inputs:\n"
    + "".join(f"      tsks{at}: tsks{at}\n" for at in range(3000)),
    "params": CARRY + TASKS.replace("}}\n", ", " + ", ".join(f"tasls{at}: 1" for at in range(4000)) + "}}\n"),
    "long names": CARRY + TASKS.replace("}}", "}, " + ", ".join(f"{'inputs' * 15}{at}: 1" for at in range(500)) + "}"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_misspelt_names_is_checked_in_seconds(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "game.yaml").write_text(FILES[kind])
    began = time.process_time()
    assert run_command(["check", str(tmp_path / "game.yaml")]) != 0
    assert time.process_time() - began < 8.0
    out = capsys.readouterr().out
    assert len(out.splitlines()) >= 500 and len(out) < 5 * 10**6


def test_hints_return_after_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(messages, "_allowance", messages._Allowance())
    known = [f"critique{at}" for at in range(1000)]
    hints = [closest(f"crtique{at}", known) for at in range(60)]
    assert hints[0] == "critique0" and hints[-1] is None
    now[0] = 3600.0
    assert closest("crtique7x", known) is not None
