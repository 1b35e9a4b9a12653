import numpy as np
import pytest
import torch
from fixture_types import Resources, Written

from genrl_graph import ParamError, Rollouts, Tasks
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.nodes.generate.chat import Chat
from genrl_graph.nodes.policy.compute.handle import CausalPolicy


def texts(rows: Rollouts) -> list[str]:
    return [row[-1]["content"] for row in rows.values("messages")]


def test_rows_are_in_the_order_of_the_tasks_and_hold_what_was_sampled(
    tasks: Tasks, policy: CausalPolicy, resources: Resources
) -> None:
    node = Chat(num_generations=3, max_new_tokens=5, temperature=0.7).placed(Place("ask", 2, "protocol"))
    rows = node.run(tasks, policy, **resources())
    assert rows.values("task_id") == ["tasks/0"] * 3 + ["tasks/1"] * 3
    assert rows.values("sample") == [0, 1, 2] * 2
    assert set(rows.values("node")) == {"ask"}
    assert set(rows.values("stage")) == {2}
    assert set(rows.values("round")) == {3}
    assert set(rows.values("peer")) == {"peer0000"}
    assert set(rows.values("policy")) == {"policy"}
    assert set(rows.values("policy_version")) == {0}
    assert set(rows.values("tokenizer_fingerprint")) == {policy.tokenizer_fingerprint}
    assert set(rows.values("temperature")) == {np.float32(0.7)}
    assert len(set(rows.values("id"))) == 6
    assert len(set(rows.values("group_id"))) == 2
    for row in rows.rows():
        assert row["messages"] == [
            {"role": "user", "content": "2+2=" if row["task_id"] == "tasks/0" else texts(rows)[3]}
        ]
        assert row["prompt_ids"] == policy.render(row["messages"]).tolist()
        assert row["completion"] == policy.decode(row["completion_ids"])
        assert row["completion_mask"] == [1] * len(row["completion_ids"])
        assert len(row["logprobs"]) == len(row["completion_ids"]) <= 5
        assert row["parent_ids"] == []
        assert row["error"] == ""


def test_ids_differ_between_peers_rounds_nodes_and_protocols_and_repeat_otherwise(
    tasks: Tasks, policy: CausalPolicy, resources: Resources
) -> None:
    def ids(peer: str = "peer0000", place: tuple[str, int, str] = ("ask", 0, "p"), round: int = 3) -> Rollouts:
        node = Chat(max_new_tokens=4).placed(Place(*place))
        return node.run(tasks, policy, **{**resources(peer=peer), "round": round})

    first = ids()
    assert ids() == first
    others = [ids(peer="b"), ids(place=("tell", 0, "p")), ids(place=("ask", 0, "q")), ids(round=4)]
    for other in others:
        assert other.values("completion") == first.values("completion")
        assert not set(other.values("id")) & set(first.values("id"))
        assert not set(other.values("group_id")) & set(first.values("group_id"))


def test_all_completions_come_from_one_call(tasks: Tasks, policy: CausalPolicy, resources: Resources) -> None:
    calls = []
    hook = policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        Chat(num_generations=4, max_new_tokens=1).run(tasks, policy, **resources())
    finally:
        hook.remove()
    assert calls == [(2, len("What is 3 times 5?"))]


def test_the_chat_is_system_examples_earlier_messages_and_the_template(
    policy: CausalPolicy, resources: Resources
) -> None:
    task = Tasks.from_rows(
        [
            {
                "id": "tasks/0",
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "1+1?"},
                ],
                "answer": "2",
                "metadata": '{"level": 7}',
            }
        ]
    )
    node = Chat(
        system="Be brief.",
        examples=({"user": "0+0?", "assistant": "0"},),
        template="Level {{ task.metadata.level }}: {{ task.question }}",
        max_new_tokens=2,
    )
    rows = node.run(task, policy, **resources())
    assert [(m["role"], m["content"]) for m in rows.values("messages")[0]] == [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "0+0?"),
        ("assistant", "0"),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Level 7: 1+1?"),
    ]


def test_named_upstream_rollouts_are_quoted_by_number_without_failed_ones(
    tasks: Tasks, policy: CausalPolicy, resources: Resources, written: Written
) -> None:
    answers = written(
        [("tasks/0", "a", "four"), ("tasks/1", "a", "ten"), ("tasks/0", "b", None), ("tasks/0", "c", "five")]
    )
    node = Chat(
        template="{% for row in answers %}{{ row.number }}{{ row.peer }}={{ row.completion }};{% endfor %}",
        max_new_tokens=2,
    )
    rows = node.run(tasks, policy, {"answers": answers}, **resources())
    assert texts(rows) == ["1a=four;2c=five;", "1a=ten;"]
    assert rows.values("parent_ids") == [["tasks/0-a-0", "tasks/0-c-3"], ["tasks/1-a-1"]]


def test_quote_draws_rows_of_each_peer_and_keeps_their_order(
    tasks: Tasks, policy: CausalPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/0", peer, f"{peer}{at}") for at in range(6) for peer in "ab"])
    node = Chat(template="{{ answers | map(attribute='completion') | join(' ') }}!", quote=2, max_new_tokens=1)
    drawn = [
        texts(node.run(tasks, policy, {"answers": answers}, **resources(seed)))[0][:-1].split() for seed in range(20)
    ]
    assert drawn[0] == texts(node.run(tasks, policy, {"answers": answers}, **resources(0)))[0][:-1].split()
    for quoted in drawn:
        assert [text[0] for text in quoted].count("a") == [text[0] for text in quoted].count("b") == 2
        assert quoted == sorted(quoted, key=lambda text: (int(text[1]), text[0]))
    assert len({tuple(quoted) for quoted in drawn}) > 5


def test_a_prompt_that_does_not_fit_is_a_failed_row_with_the_numbers(
    tasks: Tasks, policy: CausalPolicy, resources: Resources
) -> None:
    supplied = resources()
    rows = Chat(max_prompt_tokens=10, num_generations=2, max_new_tokens=3).run(tasks, policy, **supplied)
    assert [finish == "failed" for finish in rows.values("finish_reason")] == [False, False, True, True]
    assert rows.values("error")[2] == "the prompt has 18 tokens, but at most 10 fit: max_prompt_tokens"
    assert rows.values("completion_ids")[2] == rows.values("logprobs")[2] == rows.values("completion_mask")[2] == []
    assert len(set(rows.values("id"))) == 4
    assert supplied["log"].metrics["failed"] == 0.5
    whole = Chat(max_new_tokens=policy.context_length - 10).run(tasks, policy, **resources())
    assert "fit: context 1024 - max_new_tokens 1014" in whole.values("error")[1]


def test_all_prompts_may_be_refused(tasks: Tasks, policy: CausalPolicy, resources: Resources) -> None:
    supplied = resources()
    rows = Chat(max_prompt_tokens=1).run(tasks, policy, **supplied)
    assert set(rows.values("finish_reason")) == {"failed"}
    assert supplied["log"].metrics["failed"] == 1.0 and "entropy" not in supplied["log"].metrics


def test_cut_left_keeps_the_last_tokens(tasks: Tasks, policy: CausalPolicy, resources: Resources) -> None:
    supplied = resources()
    rows = Chat(max_prompt_tokens=6, too_long="cut_left", max_new_tokens=2).run(tasks, policy, **supplied)
    assert supplied["log"].metrics["prompts_cut"] == sum(cut > 0 for cut in supplied["log"].facts["tokens_cut"]) > 0
    assert policy.decode(rows.values("prompt_ids")[1]) == "mes 5?"
    assert texts(rows)[1] == "What is 3 times 5?"
    assert "failed" not in rows.values("finish_reason")


def test_drop_quoted_leaves_out_the_last_and_keeps_numbers(
    tasks: Tasks, policy: CausalPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/0", peer, peer * 20) for peer in "abcd"])
    supplied = resources()
    node = Chat(
        template="{% for a in answers %}{{ a.number }}{{ a.completion }}{% endfor %}!",
        max_prompt_tokens=50,
        too_long="drop_quoted",
        max_new_tokens=2,
    )
    rows = node.run(tasks, policy, {"answers": answers}, **supplied)
    assert texts(rows)[0] == "1" + "a" * 20 + "2" + "b" * 20 + "!"
    assert rows.values("parent_ids")[0] == ["tasks/0-a-0", "tasks/0-b-1"]
    assert supplied["log"].metrics["quotes_dropped"] == 2


def test_metrics(tasks: Tasks, policy: CausalPolicy, resources: Resources) -> None:
    given = resources()
    rows = Chat(num_generations=4, max_new_tokens=6).run(tasks, policy, **given)
    assert given["log"].metrics == {
        "prompt_tokens": (4 + 18) / 2,
        "entropy": pytest.approx(-np.mean(np.concatenate(rows.ragged("logprobs")))),
        "failed": 0.0,
        "quotes_dropped": 0.0,
        "prompts_cut": 0.0,
    }


def test_entropy_is_that_of_the_distribution_sampled_from(policy: CausalPolicy, resources: Resources) -> None:
    """Compare the estimate with the exact entropy of the first token, at two temperatures."""
    task = Tasks.from_rows(
        [{"id": "tasks/0", "messages": [{"role": "user", "content": "2+2="}], "answer": "", "metadata": "{}"}]
    )
    for temperature in (1.0, 0.02):
        supplied = resources()
        Chat(num_generations=512, max_new_tokens=1, temperature=temperature).run(task, policy, **supplied)
        with torch.no_grad():
            ids = torch.as_tensor(policy.render([{"role": "user", "content": "2+2="}])[None].astype("int64"))
            logits = policy.model(input_ids=ids).logits[0, -1].float() / temperature
        exact = torch.distributions.Categorical(logits=logits).entropy()
        assert supplied["log"].metrics["entropy"] == pytest.approx(float(exact), abs=0.15)


def test_an_evaluation_may_ask_for_samples_and_temperature(
    tasks: Tasks, policy: CausalPolicy, resources: Resources
) -> None:
    node = Chat(num_generations=3, temperature=0.7, max_new_tokens=2).placed(Place("ask", 2, "protocol"))
    assert node.evaluated(Evaluation()) == node
    greedy = node.evaluated(Evaluation(num_tasks=9, num_generations=2, temperature=0.0))
    assert greedy == node.model_copy(update={"num_generations": 2, "temperature": 0.0})
    rows = greedy.run(tasks, policy, **resources())
    assert set(rows.values("node")) == {"ask"}
    assert rows.values("completion")[0] == rows.values("completion")[1]


def test_no_tasks_give_no_rows(policy: CausalPolicy, resources: Resources) -> None:
    assert Chat().run(Tasks.empty(), policy, **resources()) == Rollouts.empty()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in answers %}", "line 1 of the template is not valid Jinja"),
        ("{{ task.answer }}", "reads task.answer; a task shows id, question, metadata, messages"),
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(template: str, message: str) -> None:
    with pytest.raises(ParamError, match=message):
        Chat(template=template)


def test_a_template_that_reads_what_is_not_there_is_refused_before_generation(
    tasks: Tasks, policy: CausalPolicy, resources: Resources, written: Written
) -> None:
    with pytest.raises(ParamError, match="reads 'answrs', but is given task, answers"):
        Chat(template="{{ answrs }}").run(tasks, policy, {"answers": written([])}, **resources())
    with pytest.raises(ParamError, match=r"task 'tasks/0': UndefinedError: .*no attribute 'depth'"):
        Chat(template="{{ task.metadata.depth }}").run(tasks, policy, **resources())


def test_a_template_cannot_reach_python(tasks: Tasks, policy: CausalPolicy, resources: Resources) -> None:
    with pytest.raises(ParamError, match="SecurityError"):
        Chat(template="{{ task.question.__class__.__mro__ }}").run(tasks, policy, **resources())


def test_completions_that_leave_no_room_for_a_prompt_are_refused(
    tasks: Tasks, policy: CausalPolicy, resources: Resources
) -> None:
    with pytest.raises(ParamError, match=r"max_new_tokens: 1024 leave no room .* 1024 tokens of policy 'policy'"):
        Chat(max_new_tokens=1024).run(tasks, policy, **resources())
