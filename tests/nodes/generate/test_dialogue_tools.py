"""Tools in dialogues: how calls are read, what their results become, and that nothing of a tool is trained."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from scripted import Scripted, says

from genrl_graph import Log, Tasks
from genrl_graph.contract import registry
from genrl_graph.edge_types.turns import Turns
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.tool_tokens import tool_tokens
from genrl_graph.nodes.policy.loading.stub import stub_policy
from genrl_graph.nodes.tool.schemas import schema_of
from genrl_graph.seeds import stream

SCRIPT = Path(__file__).parents[2] / "tool_script.py"
registry.import_file(SCRIPT)

TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def tools(*names: str, **params: Any) -> dict[str, Any]:
    named = [{"type": "tool.function", "params": {"function": f"tool_script:{name}"}} for name in names]
    return {"tools": named, "max_new_tokens": 400, **params}


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def play(node: DialogueGenerator, policy: Scripted, *, log: Log | None = None, count: int = 1) -> Turns:
    environment = {"kind": "text", "id": "arithmetic"}
    rows = [
        {
            "id": f"tasks/{seed}",
            "messages": [],
            "answer": "",
            "metadata": json.dumps({"environment": environment, "seed": seed}),
        }
        for seed in range(count)
    ]
    return node.run(Tasks.from_rows(rows), policy, rng=stream(0), log=log or Log(), round=0, peer="peer0000")


def heard(rows: Turns) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for row in rows.values("heard")[1:] for message in row]


def test_a_call_is_a_turn_whose_result_is_heard_and_never_trained() -> None:
    policy, log = says(call("divide", left=9, right=2), "4.5"), Log()
    rows = play(DialogueGenerator(**tools("divide"), extract=r"[\d.]+", system="Compute."), policy, log=log)
    assert rows.values("action") == ["", "4.5"] and rows.values("ending") == ["", "terminated"]
    assert rows.values("turn") == rows.values("move") == [0, 1]
    assert heard(rows) == [("tool divide", "4.5")]
    assert rows.values("messages")[0][0]["content"].startswith(
        "Compute.\n\nYou can call these tools:\ndivide: Divide numbers."
    )
    assert rows.values("messages")[1][-2:] == [
        {"role": "assistant", "content": call("divide", left=9, right=2)},
        {"role": "user", "content": "4.5\n"},
    ]
    (first, second), said = rows.ragged("prompt_ids"), rows.ragged("completion_ids")
    assert second[: len(first) + len(said[0])].tolist() == [*first.tolist(), *said[0].tolist()]
    assert [policy.decode(ids.tolist()) for ids in said] == rows.values("completion")
    assert log.metrics["tool_calls"] == 1 and log.metrics["tool_errors"] == 0


@pytest.mark.parametrize(
    ("reply", "expected", "kind"),
    [
        (
            call("multiply", a=1),
            "{'error': \"no tool 'multiply'; there are divide, repeat, hang\"}",
            "unknown",
        ),
        (call("divide", left=1), "{'error': \"missing a required argument: 'right'\"}", "arguments"),
        (
            call("divide", left=1, right=2, top=3),
            "{'error': \"got an unexpected keyword argument 'top'\"}",
            "arguments",
        ),
        (call("divide", left=1, right=0), "{'error': 'division by zero'}", "raised"),
        (
            call("divide", left="1", right=2),
            "{'error': \"unsupported operand type(s) for /: 'str' and 'int'\"}",
            "raised",
        ),
        ("<tool_call>divide 1 by 2</tool_call>", "{'error': 'the call is no JSON'}", "malformed"),
        ("<tool_call>" + "[" * 500, "{'error': 'the call is no JSON'}", "malformed"),
        ("<tool_call>[]</tool_call>", "{'error': 'the list holds no call'}", "malformed"),
        (
            r'<tool_call>{"name": "\ud800"}</tool_call>',
            "{'error': \"no tool '\\\\ud800'; there are divide, repeat, hang\"}",
            "unknown",
        ),
        ("<tool_call>[1]</tool_call>", '{\'error\': \'a call is {"name": "...", "arguments": {...}}\'}', "malformed"),
        (
            '<tool_call>{"name": "divide", "arguments": 1}',
            "{'error': 'the arguments of a call are an object'}",
            "malformed",
        ),
        (call("hang"), "{'error': 'the environment did not return within 0.5 s'}", "timeout"),
        (call("repeat", text="ab", times=30), "ab" * 20 + "... [60 characters, cut to 40]", "oversized"),
    ],
)
def test_errors_are_messages_to_the_policy_and_counted(reply: str, expected: str, kind: str) -> None:
    limits = {"step_timeout_s": 0.5 if kind == "timeout" else 60, "max_new_tokens": 1000}
    log, most = Log(), 40 if kind == "oversized" else 200
    node = DialogueGenerator(**tools("divide", "repeat", "hang", **limits), max_result_characters=most)
    try:
        rows = play(node, says(reply, "1"), log=log)
    finally:
        _let_go()
    assert [text for _, text in heard(rows)] == [expected]
    assert rows.values("error") == ["", ""]
    assert {name: value for name, value in log.metrics.items() if name.startswith("tool_")} == {
        "tool_calls": 1,
        "tool_errors": 1,
        f"tool_errors/{kind}": 1,
    }


def _let_go() -> None:
    import sys

    script = sys.modules["tool_script"]
    script.HANGING.set()
    script.HANGING.clear()


def test_calls_of_one_turn_run_in_order_within_a_limit() -> None:
    reply = (
        call("repeat", text="a")
        + call("repeat", text="b", times=1)
        + call("divide", left=1, right=4)
        + call("repeat", text="c")
    )
    log = Log()
    rows = play(DialogueGenerator(**tools("repeat", "divide", max_tool_calls=3)), says(reply, "1"), log=log)
    assert [text for _, text in heard(rows)] == ["aa", "b", "0.25", "{'error': 'at most 3 calls a turn'}"]
    assert log.metrics["tool_errors/too_many"] == 1


@pytest.mark.parametrize("parallel", [False, True])
def test_what_a_tool_does_ends_no_run(parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.lookup("tool.leaving"), "parallel", parallel)
    node, log = DialogueGenerator(**tools("shapeless")), Log()
    node = node.model_copy(update={"tools": (*node.tools, *DialogueGenerator(tools=[{"type": "tool.leaving"}]).tools)})
    rows = play(node, says(call("leaving") + call("shapeless"), "1"), log=log)
    assert [text for _, text in heard(rows)] == ["{'error': 'SystemExit: 3'}", "{'error': 'no words'}"]
    assert log.metrics["tool_errors/raised"] == 2


def test_a_model_chooses_no_speaker() -> None:
    rows = play(DialogueGenerator(**tools("divide")), says(call("game", x=1), "1"))
    assert [role for role, _ in heard(rows)] == ["tool"]


def test_what_a_class_keeps_is_forgotten_with_the_episode() -> None:
    policy = says()
    policy.script = lambda prompt: "9" if prompt.count("<tool_call>") > 2 else call("total", amount=2)
    rows = play(DialogueGenerator(**tools("Total")), policy, count=2)
    assert [text for _, text in heard(rows) if len(text) < 4] == ["2", "4", "2", "4"]


@pytest.mark.usefixtures("contained")
def test_a_block_is_a_program_that_runs_in_the_sandbox() -> None:
    node = DialogueGenerator(tools=[{"type": "tool.python"}], tool_format="block", extract=r"-?\d+", max_new_tokens=200)
    node.prepare()
    log = Log()
    policy = says("So:\n```python\nprint(2 ** 70)\n```\n", "```text\nno tool\n```\n1180591620717411303424")
    rows = play(node, policy, log=log)
    assert heard(rows) == [("tool python", "1180591620717411303424")]
    assert rows.values("action") == ["", "1180591620717411303424"]
    failed = play(node, says("```python\nprint(1)\nx = 1 / 0", "1"), log=log)
    ((_, text),) = heard(failed)
    assert text.startswith("1\nTraceback") and text.endswith("ZeroDivisionError: division by zero\n[exit code 1]")
    assert log.metrics["tool_errors/failed"] == 1


def test_a_truncated_episode_counts_its_calls() -> None:
    log = Log()
    rows = play(DialogueGenerator(**tools("divide"), max_turns=1), says(call("divide", left=1, right=1)), log=log)
    assert rows.values("ending") == ["truncated"] and log.metrics["tool_calls"] == 1


@cache
def words() -> Any:
    return stub_policy("policy", seed=0).hf_tokenizer


def tokens(template: str) -> ChatTokens:
    """Tokens of a shipped chat template, with the special tokens that it writes."""
    text = (TEMPLATES / f"{template}.jinja").read_text()
    tokenizer = copy.deepcopy(words())
    marks = (
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|user|>",
        "<|observation|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [mark for mark in marks if mark in text]})
    return ChatTokens(tokenizer, chat_template=text, where=template)


@pytest.mark.parametrize(
    ("template", "reply"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "double", "arguments": {"value": 21}}\n</tool_call>'),
        ("qwen3", '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "double", "arguments": {"value": 21}}\n</tool_call>'),
        ("llama3_1", '{"name": "double", "parameters": {"value": 21}}'),
        (
            "qwen3_5_nothink",
            "<tool_call>\n<function=double>\n<parameter=value>\n21\n</parameter>\n</function>\n</tool_call>",
        ),
    ],
)
def test_a_chat_template_with_tools_tells_of_them_and_its_calls_are_read(template: str, reply: str) -> None:
    own = tokens(template)
    schema = schema_of("double", registry.lookup("tool.double")().run, where="test")  # type: ignore[misc,union-attr]
    chat = tool_tokens(own, [schema], ends=[own.end_of_turn])
    assert chat is not None
    chat.prove_extend()
    question, said = {"role": "user", "content": "Double 21."}, {"role": "assistant", "content": reply}
    prompt = chat.render([question])
    assert "Double a number." in own.tokenizer.decode(prompt.tolist())
    completion = own.encode(reply, ended=True)
    (found,) = chat.read(prompt, completion)
    assert (found.name, found.arguments, found.problem) == ("double", {"value": 21}, "")
    half = chat.read(prompt, own.encode(reply[: len(reply) // 2], ended=True))
    assert all(one.problem or not one.arguments for one in half)
    assert chat.read(prompt, own.encode("It is 42.", ended=True)) == []
    ids = np.concatenate([prompt, completion])
    longer = chat.extend(ids, [question, said], [{"role": "tool", "content": "42"}])
    assert longer[: len(ids)].tolist() == ids.tolist()
    assert "42" in own.tokenizer.decode(longer[len(ids) :].tolist())


def test_a_chat_template_without_tools_needs_a_convention() -> None:
    policy = says()
    node = DialogueGenerator(tools=[{"type": "tool.double"}], tool_format="template")
    assert list(node.check_carries({"policy": policy})) == [
        "`policy`: its chat template takes no tools, or one that TRL cannot read calls of; set tool_format: json"
    ]
    assert list(node.model_copy(update={"tool_format": "auto"}).check_carries({"policy": policy})) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tools": [{"type": "tool.pyton"}]}, "no tool named 'tool.pyton' (did you mean 'tool.python'?)"),
        ({"tools": ["tool.python"]}, "a tool is {type: tool.python, params: {...}}, not 'tool.python'"),
        ({"tools": [{"type": "tool.python", "params": {"limits": {"cpu_s": 0}}}]}, "tool.python.limits.cpu_s"),
        ({"tools": [{"type": "tool.double"}], "history": "none"}, "history is none"),
        ({"tool_prompt": "{{ tool }}"}, "the template reads 'tool'; it may read task, tools"),
    ],
)
def test_tools_that_cannot_be_are_refused_with_the_graph(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError) as refused:
        DialogueGenerator(**params)
    assert message in str(refused.value) and str(refused.value).count(", got ") <= 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (tools("divide", tool_format="block"), "divide: has the required arguments left, right, and a block is one"),
        (tools("Calling"), "cannot be made: TypeError"),
        (
            tools("unnamed"),
            "a model cannot call 'unnamed': a call names each argument; make *texts: str an ordinary one",
        ),
        ({"tools": [{"type": "tool.odd", "params": {"gives": "none"}}]}, "tool.odd: `functions` gives none"),
        ({"tools": [{"type": "tool.odd", "params": {"gives": "number"}}]}, "the tool 'three' is 3, not a function"),
        ({"tools": [{"type": "tool.odd", "params": {"gives": "spaces"}}]}, "cannot write the name 'my tool' of a tool"),
        ({"tools": [{"type": "tool.odd", "params": {"gives": "error"}}]}, "cannot be made: KeyError: 'error'"),
    ],
)
def test_tools_that_do_not_load_end_the_run_before_round_0(params: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as refused:
        DialogueGenerator(**params).prepare()
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_two_tools_of_one_name_end_the_run_before_round_0() -> None:
    with pytest.raises(ParamError, match="two tools are named 'divide'; rename one"):
        DialogueGenerator(**tools("divide", "divide", tool_format="json")).prepare()


def test_tools_are_dumped_as_a_graph_file_has_them() -> None:
    written = [{"type": "tool.python", "params": {"limits": {"cpu_s": 3}}}, {"type": "tool.double"}]
    node = DialogueGenerator(tools=written)
    assert node.plain_params()["tools"] == written
    assert DialogueGenerator(**node.plain_params()) == node


def test_tasks_of_any_source_are_questions() -> None:
    tasks = Tasks.from_rows(
        [{"id": "list/0", "messages": [{"role": "user", "content": "6 x 7?"}], "answer": "42", "metadata": ""}]
    )
    node = DialogueGenerator(**tools("divide"), environment=Environment(kind="text", id="question"), extract=r"\d+")
    policy = says(call("divide", left=42, right=1), "It is 42.")
    rows = node.run(tasks, policy, rng=stream(0), log=Log(), round=0, peer="peer0000")
    assert rows.values("action") == ["", "42"] and rows.values("task_id") == ["list/0"] * 2
    assert rows.values("heard")[0] == [{"role": "user", "content": "6 x 7?"}]
