"""Digests of local data: recorded in the run folder; a run whose data has changed is not resumed."""

import hashlib
from pathlib import Path

import pytest

from genrl_graph import Graph, load, play, replay
from genrl_graph.errors import GraphError
from genrl_graph.runners.resume import data_digests
from genrl_graph.runners.resume.data_digests import data_digests as digests_of
from genrl_graph.store.run_folder import read_graph

ROWS = '{"question": "1+1=", "answer": "2"}\n{"question": "1+2=", "answer": "3"}\n'
TASKS = "{type: source.hf_dataset, params: {path: sums.jsonl, num_tasks: 1}}"
GAME = """\
graph: sums
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: '0123456789+=', hidden_size: 8, layers: 1, heads: 1}, next: update}
nodes:
  tasks: TASKS
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: '{{ task.question }}', num_generations: 2, max_new_tokens: 1}
  score: {type: reward.regex, inputs: {rollouts: answer}, params: {pattern: '[0-4]'}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
run: {rounds: 1}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "sums.jsonl"
    data.write_text(ROWS)
    return data


def game(folder: Path, tasks: str = TASKS) -> Graph:
    (folder / "sums.yaml").write_text(GAME.replace("TASKS", tasks))
    return load(folder / "sums.yaml")


def sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_a_run_records_the_data_that_it_read(tmp_path: Path, data: Path) -> None:
    run = play(game(tmp_path), out=tmp_path / "run", quiet=True)
    versions = read_graph(run.folder)[1]
    assert versions["data"] == {"tasks": [["sums.jsonl", sha256(ROWS)]]}
    assert versions["python"] and len(versions["lock"]) == 16


def test_members_of_a_mix_and_folders_are_data_too(tmp_path: Path, data: Path) -> None:
    members = "{{one: {0}sums.jsonl}}}}, two: {0}more}}}}}}".format("{type: source.hf_dataset, params: {path: ")
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.jsonl").write_text(ROWS)
    graph = game(tmp_path, f"{{type: source.mix, params: {{members: {members}}}}}")
    before = digests_of(graph)["tasks"]
    assert [name for name, _ in before] == ["sums.jsonl", "more"] and before[0][1] == sha256(ROWS)
    (more / "b.jsonl").write_text(ROWS)
    renamed = digests_of(graph)["tasks"]
    (more / "b.jsonl").rename(more / "c.jsonl")
    assert len({before[1][1], renamed[1][1], digests_of(graph)["tasks"][1][1]}) == 3


def test_a_resume_over_other_data_is_refused(tmp_path: Path, data: Path) -> None:
    run = play(game(tmp_path), out=tmp_path / "run", quiet=True)
    data.write_text(ROWS.replace('"3"', '"4"'))
    what = r"nodes.tasks: sums.jsonl has changed since the run began \(sha256 \w{12} then, \w{12} now\); bring it back"
    with pytest.raises(GraphError, match=what):
        play(game(tmp_path), out=run.folder, rounds=2, quiet=True, resume=True)
    data.write_text(ROWS)
    assert play(game(tmp_path), out=run.folder, rounds=2, quiet=True, resume=True).rounds == 2


def test_a_replay_over_other_data_says_so(tmp_path: Path, data: Path) -> None:
    run = play(game(tmp_path), out=tmp_path / "run", quiet=True)
    assert not replay(run.folder, game(tmp_path), out=tmp_path / "same").notes
    data.write_text(ROWS.replace('"3"', '"4"'))
    (note,) = replay(run.folder, game(tmp_path), out=tmp_path / "other").notes
    assert note.startswith("nodes.tasks: sums.jsonl has changed since the run began")


def test_data_beyond_the_limit_is_told_by_names_and_sizes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_digests, "CONTENT_LIMIT", 10)
    ((_, digest),) = digests_of(game(tmp_path))["tasks"]
    assert digest.startswith("sizes-sha256:")
    data.write_text(ROWS + ROWS)
    assert digests_of(game(tmp_path))["tasks"][0][1] not in (digest, sha256(ROWS + ROWS))
