from fixture_types import Resources, Written

from genrl_graph import Tasks, TextPolicy
from genrl_graph.nodes.generate.revise import Revise


def test_answers_and_critiques_are_read_and_are_the_parents_in_this_order(
    tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/0", "a", "four"), ("tasks/0", "b", "five"), ("tasks/1", "a", "15")])
    critiques = written([("tasks/0", "b", "Choice: Student #1"), ("tasks/1", "b", "Choice: none")])
    rows = Revise(max_new_tokens=3).run(tasks, answers, critiques, policy, **resources())
    prompt = rows.values("messages")[0][-1]["content"]
    places = [
        prompt.index(part) for part in ("2+2=", "Student #1:\nfour", "Student #2:\nfive", "Reader 1:\nChoice", "####")
    ]
    assert places == sorted(places)
    assert rows.values("parent_ids")[0] == ["tasks/0-a-0", "tasks/0-b-1", "tasks/0-b-0"]


def test_what_does_not_fit_leaves_the_longer_list_first(
    tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/0", peer, "w" * 150) for peer in "ab"])
    critiques = written([("tasks/0", peer, "c" * 150) for peer in "abcd"])
    rows = Revise(max_new_tokens=3).run(tasks, answers, critiques, policy, **resources())
    prompt = rows.values("messages")[0][-1]["content"]
    assert "Student #2" in prompt
    assert "Reader 4" not in prompt
    assert len(rows.values("prompt_ids")[0]) <= policy.context_length - 3
    assert "failed" not in rows.values("finish_reason")
