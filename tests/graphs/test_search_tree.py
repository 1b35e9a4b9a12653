"""search_tree.yaml: rows that go on branch, leaves pay every step that led to them, and `--tree` shows it."""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from genrl_graph import load, play
from genrl_graph.cli import run_command
from genrl_graph.records.verify import verify_run
from genrl_graph.store.run_store import RunStore

STAGES = ("first", "second", "third")
JUDGES = ("judge_first", "judge_second", "score")


@pytest.fixture(scope="module")
def run(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Two rounds of eight tasks."""
    out = tmp_path_factory.mktemp("tree") / "run"
    return play(load(graphs / "search_tree.yaml"), out=out, rounds=2, quiet=True).folder


@pytest.fixture(scope="module")
def rows(run: Path) -> dict[str, dict[str, Any]]:
    """All rollouts by id, with their reward and, of the first stages, advantage, and the ids of their children."""
    store = RunStore.open(run)
    found = {row["id"]: row | {"children": []} for stage in STAGES for row in store.table(stage).to_pylist()}
    for group in (*JUDGES, "credit_first", "credit_second", "credit_third"):
        for row in store.table(group).to_pylist():
            found[row["id"]] |= {name: row[name] for name in ("reward", "advantage") if name in row}
    for id, row in found.items():
        for parent in row["parent_ids"]:
            found[parent]["children"].append(id)
    return found


def test_numbers_go_on_to_four_branches_and_all_else_ends_there(run: Path, rows: dict[str, dict[str, Any]]) -> None:
    assert verify_run(run).problems == []
    ended = [row for row in rows.values() if row["node"] != "third" and not row["children"]]
    assert ended and {row["reward"] for row in ended} == {0.0}
    for row in rows.values():
        is_number = row["completion"] in set("0123")
        assert len(row["children"]) == (4 if is_number and row["node"] != "third" else 0)
        for child in map(rows.get, row["children"]):
            assert child is not None and child["parent_ids"] == [row["id"]] and child["stage"] == row["stage"] + 1
            assert child["messages"][-1]["content"].startswith(f"{row['completion']}+")


def test_a_step_is_worth_the_mean_of_its_branches_up_to_the_leaves(rows: dict[str, dict[str, Any]]) -> None:
    def value(row: dict[str, Any]) -> float:
        return fmean(value(rows[child]) for child in row["children"]) if row["children"] else row["reward"]

    for node in STAGES:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows.values():
            if row["node"] == node:
                groups.setdefault(row["group_id"], []).append(row)
        for group in groups.values():
            values = np.asarray([value(row) for row in group])
            spread = values.std(ddof=1) + 1e-4 if values.max() > values.min() else 1.0
            expected = (values - values.mean()) / spread if values.max() > values.min() else 0 * values
            np.testing.assert_allclose([row["advantage"] for row in group], expected, atol=1e-9)


def test_the_command_shows_the_tree_of_a_task(
    run: Path, rows: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str, code: int = 0) -> str:
        assert run_command(["rollouts", str(run), "--tree", *arguments]) == code
        out, error = capsys.readouterr()
        return error if code else out

    task = next(row["task_id"] for row in rows.values() if row["round"] == 1 and row["node"] == "third")
    shown = printed("--task", task, "--round", "1")
    wanted = {id: row for id, row in rows.items() if row["task_id"] == task and row["round"] == 1}
    lines = [line for line in shown.splitlines() if "─ " in line]
    assert len(lines) == len(wanted) and f"1 of 1 tasks, {len(wanted)} rollouts" in shown
    above: list[str] = []
    for line in lines:  # every line stands below that of the row that it quotes
        depth, id = line.index("─") // 3, line.partition("─ ")[2][:10]
        (row,) = [row for full, row in wanted.items() if full.startswith(id)]
        assert (
            [parent[:10] for parent in row["parent_ids"]] == above[depth - 1 : depth]
            if depth
            else not row["parent_ids"]
        )
        above[depth:] = [id]
        assert f"reward {row['reward']:.3f}" in line and f"advantage {row['advantage']:+.3f}" in line
        assert ("value " in line) == bool(row["children"])
    assert printed("--limit", "2").count("\ntask ") == 1 and "2 of 8 tasks" in printed("--limit", "2")
    assert "--top: a tree has all rollouts of a task" in printed("--top", "1", code=3)
