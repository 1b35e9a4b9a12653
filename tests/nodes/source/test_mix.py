"""`source.mix`: shares by weight, levels, evaluation and errors of members."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genrl_graph
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.dag.fingerprint import protocol_fingerprint
from genrl_graph.dag.graph import Graph
from genrl_graph.errors import DataError, GraphError, ParamError
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.source.mix import Mix
from genrl_graph.nodes.update.level import Level
from genrl_graph.seeds import stream


def listed(name: str, count: int, **params: object) -> dict[str, object]:
    tasks = [{"question": f"{name} {n}?", "answer": n} for n in range(count)]
    return {"type": "source.list", "params": {"tasks": tasks, "eval_tasks": tasks[:4], **params}}


def mix(**params: object) -> Mix:
    members = {"easy": listed("easy", 9), "hard": listed("hard", 8, shuffle=True) | {"level": 1}}
    return Mix(**({"members": members} | params)).placed(Place("tasks"))


@settings(deadline=None)
@given(
    num_tasks=st.integers(1, 8),
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    round=st.integers(0, 10**6),
    seed=st.integers(0, 2**32),
)
def test_no_id_comes_twice_and_each_makes_its_task_again(
    num_tasks: int, weights: list[float], round: int, seed: int
) -> None:
    members = {f"m{n}": listed(f"m{n}", 8 + n, shuffle=n % 2 == 0) | {"weight": w} for n, w in enumerate(weights)}
    source = Mix(num_tasks=num_tasks, members=members).placed(Place("tasks"))
    for rows, original in (
        (source.run(rng=stream(seed), round=round), source),
        (source.evaluated(Evaluation(num_tasks=5)).run(rng=stream(seed), round=0), source),
    ):
        ids = rows.values("id")
        assert len(set(ids)) == len(ids) > 0
        for row in rows.rows():
            task = original.resolve(row["id"])
            assert (task.id, task.messages, task.answer) == (row["id"], row["messages"], row["answer"])
            assert task.kind == row["id"].split("/")[1] and task.question.startswith(task.kind)
    assert len(source.run(rng=stream(seed), round=round)) == num_tasks


def test_members_are_drawn_by_weight_and_all_their_tasks_come() -> None:
    members = {"a": listed("a", 8) | {"weight": 3}, "b": listed("b", 8)}
    source = mix(members=members)
    ids = [id for r in range(300) for id in source.run(rng=stream("s"), round=r).values("id")]
    share = np.mean([id.startswith("tasks/a/") for id in ids])
    assert abs(share - 0.75) < 0.04 and len(set(ids)) == 16


def test_a_member_above_the_level_is_not_drawn() -> None:
    source = mix()
    for level, expected in ((Level(0), {"easy"}), (Level(1), {"easy", "hard"}), (None, {"easy", "hard"})):
        ids = [id for r in range(5) for id in source.run(level, rng=stream("s"), round=r).values("id")]
        assert {id.split("/")[1] for id in ids} == expected


def test_an_evaluation_asks_held_out_tasks_of_all_members_by_weight_at_any_level() -> None:
    members = {"a": listed("a", 8) | {"weight": 3}, "b": listed("b", 8) | {"level": 5}}
    rows = mix(members=members).evaluated(Evaluation(num_tasks=5)).run(Level(0), rng=stream("e"), round=0)
    assert rows.values("id") == [f"tasks/a/eval-{n}" for n in range(4)] + ["tasks/b/eval-0"]
    with pytest.raises(ParamError, match=r"members.b: source.list: .* list eval_tasks"):
        mix(members={"a": listed("a", 8), "b": listed("b", 8, eval_tasks=[])}).evaluated(Evaluation())


def test_prepare_and_dry_reach_the_members() -> None:
    gone = {"type": "source.hf_dataset", "params": {"path": "gone/away.jsonl"}}
    with pytest.raises(DataError, match=r"members.b: .*no such file"):
        mix(members={"a": listed("a", 8), "b": gone}).prepare()
    hub = {"type": "source.hf_dataset", "params": {"path": "openai/gsm8k"}}
    stand_in = mix(members={"b": hub}).dry()
    assert isinstance(stand_in, Mix)
    ids = stand_in.run(rng=stream("s"), round=0).values("id")
    assert len(ids) == 8 and stand_in.resolve(ids[0]).kind == "b"


@pytest.mark.parametrize("key", ["easy", "easy/", "soft/1", "/1", "easy/99", "easy/x", "easy/1/2"])
def test_ids_of_others_are_refused(key: str) -> None:
    for id in (f"tasks/{key}", f"other/{key}"):
        with pytest.raises(DataError):
            mix().resolve(id)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"params": {"taks": []}}, r"members.a.params.taks: unknown param 'taks' \(did you mean 'tasks'\?\)"),
        ({"params": {"tasks": [{"question": "x", "anwser": "1"}]}}, r"tasks.0.anwser: .*did you mean 'answer'"),
        ({"params": {}}, r"members.a.params.tasks: missing"),
        ({"params": {"tasks": [{"question": "x"}]}}, r"members.a.params: num_tasks is 8, but 1 tasks are listed"),
        ({"params": {"num_tasks": 3}}, r"members.a.params.num_tasks: the mix sets this"),
        ({"type": "source.lst"}, r"members.a.type: no source of this name \(did you mean 'source.list'\?\)"),
        ({"type": "source.folder"}, r"members.a.type: does not give plain Tasks"),
        ({"type": "source.mix"}, r"members.a.type: reads edges"),
        ({"weight": 0}, r"members.a.weight: .*greater than 0, got 0"),
        ({"level": 1}, r"no member has level 0"),
    ],
)
def test_a_wrong_member_is_told_at_its_place(member: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message) as raised:
        mix(members={"a": listed("a", 9) | member})
    assert "\n" not in str(raised.value)


MIXED = """\
graph: mixed
version: 1
nodes:
  tasks:
    type: source.mix
    params:
      members:
        near: {type: source.hf_dataset, params: {path: near.jsonl}}
        far: {type: source.list, params: {tasks: [{question: a}, {question: b, anwser: c}]}, level: 1}
"""


def test_a_file_points_at_the_wrong_param_and_paths_are_the_file_s(tmp_path: Path) -> None:
    (tmp_path / "near.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    (tmp_path / "mixed.yaml").write_text(MIXED)
    with pytest.raises(GraphError, match=r"mixed.yaml:9:\d+ .*unknown param 'tasks.1.anwser'") as raised:
        genrl_graph.load(tmp_path / "mixed.yaml")
    assert "did you mean 'answer'" in str(raised.value)
    (tmp_path / "mixed.yaml").write_text(
        MIXED.replace("anwser", "answer").replace("params:\n", "params:\n      num_tasks: 1\n", 1)
    )
    with pytest.raises(GraphError, match=r"members.far has a level, but no input `level` is read"):
        genrl_graph.load(tmp_path / "mixed.yaml")


def test_what_is_dumped_loads_to_an_equal_graph(tmp_path: Path) -> None:
    (tmp_path / "near.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    text = MIXED.replace("anwser", "answer").replace(", level: 1", "")
    (tmp_path / "mixed.yaml").write_text(text.replace("params:\n", "params:\n      num_tasks: 1\n", 1))
    graph = genrl_graph.load(tmp_path / "mixed.yaml")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "dumped.yaml").write_text(graph.dump())
    assert genrl_graph.load(tmp_path / "else" / "dumped.yaml") == graph
    source = graph.nodes["tasks"].node
    assert isinstance(source, Mix) and isinstance(source.members["far"].source, ListSource)
    source.prepare()


def test_where_the_files_of_members_lie_is_no_part_of_the_game(tmp_path: Path) -> None:
    prints = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "near.jsonl").write_text('{"question": "q", "answer": "1"}\n')
        near = {"type": "source.hf_dataset", "params": {"path": str(folder / "near.jsonl")}}
        g = Graph("mixed")
        g.add("tasks", mix(members={"near": near}))
        prints.append(protocol_fingerprint(g))
    assert prints[0] == prints[1]
