"""Files of a run that are read as they grow: metrics, journal, notes."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from toys import Centred, Draw, Numbers, Step, ToyPolicyCarry, toy_game

from genrl_graph import Graph, NodeFailed, Reward, Rollouts, Scored, play
from genrl_graph.errors import StoreError
from genrl_graph.store.journal import Journal, Record
from genrl_graph.store.journal_tail import JournalTail
from genrl_graph.store.metrics_file import MetricsTail, metric_lines
from genrl_graph.store.notes_file import MAX_FILE_BYTES, Waiting, add_note, read_notes, waiting_of
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore
from genrl_graph.view.watched_run import RunName, WatchedRun


class NoIdea(Reward, name="tails_no_idea"):
    """A reward that cannot judge."""

    def run(self, rollouts: Rollouts) -> Scored[Rollouts]:
        raise ValueError("no idea")


def test_new_lines_of_metrics_are_read_once_and_torn_ones_later(tmp_path: Path) -> None:
    file, tail = tmp_path / "metrics.jsonl", MetricsTail(tmp_path)
    assert tail.lines(9) == []
    lines = [json.dumps({"round": at, "peer": "a", "x": at / 2}) + "\n" for at in range(5)]
    file.write_text("".join(lines[:4]) + lines[4][:7])
    assert [line["round"] for line in tail.lines(3) or []] == [0, 1, 2]
    assert [line["round"] for line in tail.lines(3) or []] == [3] and tail.lines(3) == []
    file.write_text("".join(lines))
    assert tail.lines(3) == list(metric_lines(tmp_path))[4:]
    file.write_text(lines[0])
    assert tail.lines(3) is None and [line["round"] for line in tail.lines(3) or []] == [0]
    file.write_text(lines[0] + "[]\n")
    with pytest.raises(StoreError, match=r"metrics.jsonl:2: wants an object"):
        tail.lines(3)


def test_commits_are_followed_by_their_headers_across_segments(tmp_path: Path) -> None:
    folder = RunPath(tmp_path) / "journal"
    folder.make_folder()
    tail, journal = JournalTail(folder), Journal(folder)
    rows = pa.table({"id": ["x"], "round": pa.array([0], pa.int32()), "holder": ["a"]})
    journal.append(Record(0, "answer", "a", {"missing": {"bob": "late"}}, {"answer": rows}))
    journal.append_many([Record(0, "score", "a"), Record(0, "score", "b")])
    steps = tail.steps()
    assert [(step.round, step.node, step.holder) for step in steps] == [
        (0, "answer", "a"),
        (0, "score", "a"),
        (0, "score", "b"),
    ]
    assert steps[0].facts == {"missing": {"bob": "late"}} and tail.steps() == []
    journal.drop_before(journal.roll())
    journal.append(Record(1, "answer", "a"))
    (segment,) = (tmp_path / "journal").iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    assert tail.steps() == [], "a commit that is being written does not count yet"
    segment.write_bytes(whole)
    assert [step.round for step in tail.steps()] == [1]


def test_the_last_steps_are_read_without_the_others(tmp_path: Path) -> None:
    play(toy_game(), out=tmp_path / "run", rounds=3, quiet=True)
    store = RunStore.open(tmp_path / "run")
    assert store.last_steps(5).equals(store.steps().slice(store.steps().num_rows - 5))
    assert store.last_steps(10_000).equals(store.steps())


def test_a_failure_is_noted_and_notes_end_no_run(tmp_path: Path) -> None:
    g = Graph("broken")
    policy = g.carry("policy", ToyPolicyCarry(bias=0))
    answer = g.add("answer", Draw(), tasks=g.add("tasks", Numbers()), policy=policy)
    credit = g.add("credit", Centred(), scored=g.add("score", NoIdea(), rollouts=answer))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credit]))
    with pytest.raises(NodeFailed) as failure:
        play(g, out=tmp_path / "run", rounds=2, quiet=True)
    (note,) = read_notes(tmp_path / "run")
    assert note.text == f"failed: {failure.value}" and "score" in note.text
    run = WatchedRun(RunName(tmp_path / "run", "run", 0))
    run.read_all()
    state = run.state()
    assert state["state"] == "failed" and state["nodes"]["score"]["state"] == "failed"
    assert [state["nodes"][name]["state"] for name in ("tasks", "answer", "update")] == ["done", "done", "later"]
    (tmp_path / "run" / "notes.jsonl").write_bytes(b"x" * MAX_FILE_BYTES)
    add_note(tmp_path / "run", "one more")
    assert (tmp_path / "run" / "notes.jsonl").stat().st_size == MAX_FILE_BYTES
    add_note(tmp_path, "no run here")
    assert not (tmp_path / "notes.jsonl").exists()
    (tmp_path / "run" / "notes.jsonl").unlink()
    (tmp_path / "run" / "notes.jsonl").symlink_to(tmp_path / "elsewhere")
    add_note(tmp_path / "run", "through a link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_note_of_waiting_is_read_back() -> None:
    waiting = Waiting("answers", "bob, carol", 20.4, 60.0)
    assert str(waiting) == "answers: waiting for bob, carol (20 of 60 s)"
    assert waiting_of(str(waiting)) == Waiting("answers", "bob, carol", 20.0, 60.0)
    assert waiting_of("answers: closed without bob (late)") is None
