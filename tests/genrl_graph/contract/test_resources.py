"""Resources that the runner supplies: tasks by id from the peer's own source, and a log."""

import pytest
from toys import Numbers

from genrl_graph import Log, Task, TaskBook
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError


class Counting:
    """A source that counts how often it makes a task."""

    def __init__(self) -> None:
        self.resolved: list[str] = []

    def resolve(self, task_id: str) -> Task:
        self.resolved.append(task_id)
        return Task(task_id, [{"role": "user", "content": task_id}])


def test_a_task_comes_from_the_source_that_its_id_names() -> None:
    book = TaskBook({"tasks": Numbers().placed(Place("tasks")), "more": Numbers().placed(Place("more"))})
    assert book["tasks/7"].answer == "7"
    assert book["more/8"].question == "Say 8."


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("nowhere/1", "task 'nowhere/1': no source named 'nowhere' in this graph; sources: tasks"),
        ("tasks", "task 'tasks': no source named 'tasks' in this graph"),
        ("tasks/", "no source named"),
        ("", "no source named ''"),
        ("tasks/x", "task 'tasks/x': 'x' is no number"),
    ],
)
def test_an_id_that_no_source_made_is_refused(task_id: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TaskBook({"tasks": Numbers().placed(Place("tasks"))})[task_id]


def test_the_last_tasks_are_remembered_and_no_more() -> None:
    source = Counting()
    book = TaskBook({"s": source}, size=2)
    for key in ("s/1", "s/2", "s/1", "s/3", "s/2", "s/1"):
        assert book[key].id == key
    assert source.resolved == ["s/1", "s/2", "s/3", "s/1"]


def test_a_task_without_messages_asks_nothing() -> None:
    assert Task("t", []).question == ""


def test_a_log_keeps_metrics_facts_and_rows() -> None:
    log = Log()
    log.metric("loss", 1)
    log.metric("loss", 2)
    log.fact("late", ["peer0001"])
    log.rows("trained", {"id": ["a"]})
    assert log.metrics == {"loss": 2.0}
    assert isinstance(log.metrics["loss"], float)
    assert log.facts == {"late": ["peer0001"]}
    assert log.tables == {"trained": {"id": ["a"]}}
    with pytest.raises(ValueError, match="abc"):
        log.metric("loss", "abc")  # type: ignore[arg-type]
