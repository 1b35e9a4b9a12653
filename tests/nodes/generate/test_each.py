"""Branching with `each`: one prompt per row of an upstream input."""

from collections.abc import Callable

import pytest
from fixture_types import ReadGame, Resources, Written

from genrl_graph import ParamError, Rollouts, Tasks, TextPolicy
from genrl_graph.dag.check import check
from genrl_graph.nodes.generate.chat import Chat
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.generate.revise import Revise

TEMPLATE = (
    "{% for c in critiques %}{{ c.number }}={{ c.completion }};{% endfor %}"
    "{% for a in answers %}{{ a.completion }},{% endfor %}"
)


def prompts(rows: Rollouts) -> list[str]:
    return [messages[-1]["content"] for messages in rows.values("messages")]


@pytest.fixture
def answers(written: Written) -> Rollouts:
    return written([("tasks/0", "a", "four"), ("tasks/0", "b", "five"), ("tasks/1", "a", "ten")])


@pytest.fixture
def critiques(written: Written) -> Rollouts:
    """Three valid critiques and a failed one for the first task, one for the second."""
    first = [("tasks/0", "a", "good"), ("tasks/0", "b", None), ("tasks/0", "b", "bad"), ("tasks/0", "c", "bad")]
    return written([*first, ("tasks/1", "c", "so-so")])


def test_every_row_has_a_prompt_of_its_own_and_keeps_its_number(
    tasks: Tasks, policy: TextPolicy, resources: Resources, answers: Rollouts, critiques: Rollouts
) -> None:
    node = Revise(template=TEMPLATE, each="critiques", num_generations=2, max_new_tokens=2)
    rows = node.run(tasks, answers, critiques, policy, **resources())
    texts = ["1=good;four,five,", "2=bad;four,five,", "3=bad;four,five,", "1=so-so;ten,"]
    assert prompts(rows) == [text for text in texts for _ in range(2)]
    assert rows.values("task_id") == ["tasks/0"] * 6 + ["tasks/1"] * 2
    both = ["tasks/0-a-0", "tasks/0-b-1"]
    parents = [[*both, f"tasks/0-{critique}"] for critique in ("a-0", "b-2", "c-3")]
    assert rows.values("parent_ids")[::2] == rows.values("parent_ids")[1::2]
    assert rows.values("parent_ids")[::2] == [*parents, ["tasks/1-a-2", "tasks/1-c-4"]]


def test_samples_count_the_rows_of_a_task_and_ids_differ_where_texts_do_not(
    tasks: Tasks, policy: TextPolicy, resources: Resources, answers: Rollouts, critiques: Rollouts
) -> None:
    template = "{% for c in critiques %}{{ c.completion }}{% endfor %}"
    node = Revise(template=template, each="critiques", num_generations=2, max_new_tokens=1, temperature=0.0)
    rows = node.run(tasks, answers, critiques, policy, **resources())
    assert rows.values("sample") == [0, 1, 2, 3, 4, 5, 0, 1]
    assert rows.values("completion")[2] == rows.values("completion")[5]
    assert len(set(rows.values("id"))) == 8
    groups = rows.values("group_id")
    assert groups[2] == groups[3] == groups[4] == groups[5]  # "bad" twice: to the policy one prompt
    assert len(set(groups)) == 3
    assert node.run(tasks, answers, critiques, policy, **resources()) == rows


def test_quote_limits_the_rows_of_each_peer_before_they_branch(
    tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written
) -> None:
    hints = written([("tasks/0", peer, f"{peer}{at}") for at in range(4) for peer in "ab"])
    node = Chat(template="{% for h in hints %}{{ h.completion }}{% endfor %}!", each="hints", quote=2, max_new_tokens=1)
    rows = node.run(tasks.take([0]), policy, {"hints": hints}, **resources())
    assert sorted(text[0] for text in prompts(rows)) == ["a", "a", "b", "b"]
    assert len(set(prompts(rows))) == 4


def test_a_task_without_a_row_to_branch_on_fails_and_says_so(
    tasks: Tasks, policy: TextPolicy, resources: Resources, answers: Rollouts, critiques: Rollouts
) -> None:
    node = Revise(template=TEMPLATE, each="critiques", num_generations=2, max_new_tokens=2)
    only_second = critiques.where([task == "tasks/1" for task in critiques.values("task_id")])
    rows = node.run(tasks, answers, only_second, policy, **resources())
    assert rows.values("finish_reason")[:2] == ["failed", "failed"]
    assert rows.values("error") == ["no critiques of this task to quote"] * 2 + ["", ""]


def test_a_task_of_which_no_branch_goes_on_is_left_out_where_it_may_end(
    tasks: Tasks, policy: TextPolicy, resources: Resources, answers: Rollouts
) -> None:
    node = Chat(template="{{ a[0].completion }}", each="a", unbranched="skip", num_generations=2, max_new_tokens=2)
    going = answers.where([task == "tasks/1" for task in answers.values("task_id")])
    rows = node.run(tasks, policy, {"a": going}, **resources())
    assert rows.values("task_id") == ["tasks/1"] * 2 and rows.values("error") == ["", ""]
    assert len(node.run(tasks, policy, {"a": answers.take([])}, **resources())) == 0
    with pytest.raises(ParamError, match="unbranched is skip, but each is empty"):
        Chat(template="{{ a }}", unbranched="skip")


def test_a_template_reads_the_prompt_of_a_quoted_row_and_so_all_that_led_to_it(
    tasks: Tasks, policy: TextPolicy, resources: Resources
) -> None:
    path = "{{ step[0].prompt }}{{ step[0].completion }}|"
    step = Chat(template="{{ task.question }}", num_generations=2, max_new_tokens=2).run(tasks, policy, **resources())
    for depth in (1, 2):
        node = Chat(template=path, each="step", num_generations=2, max_new_tokens=2)
        following = node.run(tasks, policy, {"step": step}, **resources(seed=depth))
        whole = {
            id: text + said + "|"
            for id, text, said in zip(step.values("id"), prompts(step), step.values("completion"), strict=True)
        }
        assert prompts(following) == [whole[parent] for (parent,) in following.values("parent_ids")]
        assert len(following) == 2 * len(step) and prompts(following)[0].count("|") == depth
        step = following


def test_the_row_that_a_prompt_is_about_is_never_dropped(
    tasks: Tasks, policy: TextPolicy, resources: Resources, answers: Rollouts, critiques: Rollouts
) -> None:
    node = Revise(template=TEMPLATE, each="critiques", max_new_tokens=2, max_prompt_tokens=12)
    supplied = resources()
    rows = node.run(tasks.take([0]), answers, critiques, policy, **supplied)
    assert prompts(rows) == ["1=good;four,", "2=bad;four,", "3=bad;four,"]
    assert supplied["log"].metrics["quotes_dropped"] == 3
    narrow = node.model_copy(update={"max_prompt_tokens": 6})
    rows = narrow.run(tasks.take([0]), answers, critiques, policy, **resources())
    assert rows.values("error") == ["the prompt has 7 tokens, but at most 6 fit: max_prompt_tokens", "", ""]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Revise(each="critique"), "each is 'critique', which the template does not quote; name one of answers"),
        (lambda: Critique(each="policy"), "each is 'policy', which the template does not quote; name one of answers"),
        (lambda: Chat(each="answers"), "each is 'answers', which .* name an input that the template quotes; it quotes"),
    ],
)
def test_each_names_an_input_that_the_template_quotes(make: Callable[[], Chat], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        make()


def test_what_each_names_is_wired_or_the_check_says_so(read: ReadGame) -> None:
    loaded = read("""
graph: g
version: 1
carry: {policy: {type: policy.tiny_lm, next: update}}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a}]}}
  first: {type: generate.answer, inputs: {tasks: tasks, policy: policy}}
  answer:
    type: generate.chat
    inputs: {tasks: tasks, policy: policy, context: {earlier: first}}
    params: {each: hints, num_generations: 2, template: "{{ hints }}{{ earlier }}"}
  score: {type: reward.regex, inputs: {rollouts: answer}, params: {pattern: a}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
""")
    (problem,) = check(loaded.graph)
    assert str(problem).startswith("nodes.answer: template reads 'hints', but is given task, earlier")
