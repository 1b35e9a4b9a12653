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


def test_a_reader_decodes_each_record_of_a_growing_journal_once(tmp_path: Path) -> None:
    def rows(id: str) -> dict[str, pa.Table]:
        return {"answer": pa.table({"id": [id]})}

    def ids(store: RunStore) -> list[str]:
        found: list[str] = store.table("answer").column("id").to_pylist()
        return found

    with RunStore.create(tmp_path / "run", toy_game().record(), {}) as store:
        reader = RunStore.open(tmp_path / "run")
        store.commit([Record(0, "answer", "a", tables=rows("x")), Record(0, "answer", "b", tables=rows("y"))])
        assert ids(reader) == ["x", "y"]
        known = reader._view().pending
        with reader.pinned():
            store.commit([Record(1, "answer", "a", tables=rows("z"))])
            assert ids(reader) == ["x", "y"] and reader.steps().num_rows == 2
        assert ids(reader) == ["x", "y", "z"] and reader._view().pending[:2] == known
        assert all(now is then for now, then in zip(reader._view().pending, known, strict=False))
        (segment,) = (tmp_path / "run" / "journal").iterdir()
        whole = segment.read_bytes()
        segment.write_bytes(whole + whole[:40])  # a commit that is torn, until the run goes on
        assert ids(reader) == ["x", "y", "z"]
        segment.write_bytes(whole)
        store.commit([Record(2, "answer", "a", tables=rows("u"))])
        assert ids(reader) == ["x", "y", "z", "u"]
        store.flush()
        store.commit([Record(3, "answer", "a", tables=rows("v"))])
        assert ids(reader) == ["x", "y", "z", "u", "v"] and len(reader._view().pending) == 1


def test_a_journal_that_another_run_took_over_is_read_anew(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", toy_game().record(), {}) as store:
        store.commit([Record(0, "answer", "a")])
        reader = RunStore.open(tmp_path / "run")
        assert reader.steps().column("holder").to_pylist() == ["a"]
        other = RunPath(tmp_path) / "other"
        other.make_folder()
        journal = Journal(other)
        for round in range(3):
            journal.append(Record(round, "answer", "stranger"))
        (segment,), (new,) = (tmp_path / "run" / "journal").iterdir(), (tmp_path / "other").iterdir()
        own = segment.read_bytes()
        segment.write_bytes(new.read_bytes())  # the same file, with other records
        assert reader.steps().column("holder").to_pylist() == ["stranger"] * 3
        segment.write_bytes(new.read_bytes()[:-1] + b"?")
        assert reader.steps().num_rows == 2
        data = bytearray(new.read_bytes())
        data[60] ^= 1
        segment.write_bytes(bytes(data))
        with pytest.raises(StoreError, match="record at byte 0 is damaged"):
            RunStore.open(tmp_path / "run").steps()
        assert reader.steps().num_rows == 3, "what was read before it was damaged is not read again"
        segment.write_bytes(own)
