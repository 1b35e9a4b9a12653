"""`source.list`: order, shuffling, evaluation tasks and params."""

import pytest

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.seeds import stream

TASKS = [{"question": f"{n} + 1?", "answer": n + 1, "metadata": {"level": n}} for n in range(5)]


def test_gives_the_tasks_in_order_and_makes_each_again_from_its_id() -> None:
    source = ListSource(tasks=TASKS, num_tasks=2).placed(Place("sums"))
    first, third = (source.run(rng=stream("s"), round=r) for r in (0, 2))
    assert first.values("id") == ["sums/0", "sums/1"]
    assert third.values("answer") == ["5", "1"]
    task = source.resolve("sums/4")
    assert (task.question, task.answer, task.metadata) == ("4 + 1?", "5", {"level": 4})
    assert third.rows()[0]["messages"] == task.messages


def test_all_tasks_a_round_unless_told_and_messages_as_written() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    source = ListSource(tasks=[*TASKS, {"messages": chat}], shuffle=True)
    rows = source.run(rng=stream("s"), round=1)
    assert sorted(rows.values("id")) == [f"source.list/{n}" for n in range(6)]
    assert rows.values("id") != source.run(rng=stream("s"), round=0).values("id")
    assert source.resolve("source.list/5").messages == chat


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tasks": []}, "at least 1"),
        ({"tasks": TASKS, "num_tasks": 0}, "num_tasks"),
        ({"tasks": TASKS, "num_tasks": 6}, "num_tasks is 6, but 5 tasks are listed"),
        ({"tasks": [{"answer": "1"}]}, "either a question or messages"),
        ({"tasks": [{"question": "?", "anwser": "1"}]}, "anwser"),
    ],
)
def test_wrong_params_are_told_before_anything_runs(params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        ListSource(**params)


def test_an_id_beyond_the_list_is_refused() -> None:
    with pytest.raises(DataError, match="there are 5 rows"):
        ListSource(tasks=TASKS).resolve("source.list/5")


def test_params_round_trip() -> None:
    source = ListSource(tasks=TASKS, shuffle=True)
    assert ListSource(**source.plain_params()) == source


def test_an_evaluation_asks_tasks_of_its_own_that_the_original_knows() -> None:
    held_out = [{"question": f"{n}?", "answer": n, "kind": "hard"} for n in (7, 8, 9)]
    source = ListSource(tasks=TASKS, eval_tasks=held_out, num_tasks=2).placed(Place("sums"))
    first = source.evaluated(Evaluation(num_tasks=2)).run(rng=stream("e"), round=0)
    assert (first.values("id"), first.values("answer")) == (["sums/eval-0", "sums/eval-1"], ["7", "8"])
    assert len(source.evaluated(Evaluation(num_tasks=64)).run(rng=stream("e"), round=0)) == 3
    task = source.resolve("sums/eval-2")
    assert (task.answer, task.kind, task.id) == ("9", "hard", "sums/eval-2")
    with pytest.raises(DataError, match="3 rows"):
        source.resolve("sums/eval-3")
    assert source.run(rng=stream("s"), round=0).values("id") == ["sums/0", "sums/1"]


def test_without_eval_tasks_there_is_nothing_to_evaluate_on() -> None:
    with pytest.raises(ParamError, match="list eval_tasks"):
        ListSource(tasks=TASKS).evaluated(Evaluation())
