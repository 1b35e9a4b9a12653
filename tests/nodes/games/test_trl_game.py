"""Classes for TRL's `environment_factory`: eleven run unchanged, and five malformed ones are a line before round 0."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted import says

from genrl_graph import Log, Tasks
from genrl_graph.contract import registry
from genrl_graph.edge_types.turns import Turns
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "trl_environments.py")


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def environment(name: str, **params: Any) -> Environment:
    return Environment(kind="trl", id=f"trl_environments:{name}", params=params)


def play(
    of: Environment, *replies: str, row: dict[str, Any] | None = None, log: Log | None = None, **params: Any
) -> Turns:
    """Play one episode in which a policy says the replies; a row is one of a data set, with its prompt."""
    metadata = {"environment": of.model_dump(mode="json"), "seed": 7} if row is None else row
    prompt = [{"role": "user", "content": row["question"]}] if row else []
    tasks = Tasks.from_rows([{"id": "tasks/7", "messages": prompt, "answer": "", "metadata": json.dumps(metadata)}])
    node = DialogueGenerator(environment=None if row is None else of, max_new_tokens=256, **params)
    return node.run(tasks, says(*replies), rng=stream(0), log=log or Log(), round=0, peer="peer0000")


def results(rows: Turns) -> list[str]:
    return [message["content"] for row in rows.values("heard")[1:] for message in row]


def paid(rows: Turns) -> float:
    assert rows.values("error") == [""] * len(rows)
    assert rows.values("ending") == [""] * (len(rows) - 1) + ["terminated"]
    return float(rows.numpy("reward").sum())


def test_a_row_says_what_is_wanted_and_the_reward_comes_at_the_end() -> None:
    row = {"question": "Count to 5.", "target": 5}
    rows = play(environment("Counter"), call("add", amount=2) + call("add", amount=3), "done", row=row)
    assert results(rows) == ["count 2", "count 5"] and paid(rows) == 1.0
    assert rows.values("heard")[0] == [{"role": "user", "content": "Count to 5."}]


def test_an_environment_may_bring_its_prompt_and_draw_from_the_global_random_numbers() -> None:
    first = play(environment("Vault"), call("hint", digit="tens"), call("hint", digit="ones"), "?")
    tens, ones = results(first)
    replies = (call("open", code=int(tens + ones)), "open")
    again = play(environment("Vault"), *replies)
    assert results(again) == ["open"] and paid(again) == 1.0  # the same seed has the same code
    assert again.values("heard")[0][0]["content"].startswith("The vault has a code")


def test_errors_of_tools_are_told_as_trl_tells_them_and_rewards_read_environments() -> None:
    pages = environment("Notebook", rewards=["trl_environments:pages_read", "trl_environments:any_row"])
    row, log = {"question": "Solve it."}, Log()
    replies = (call("read", page="third"), call("read", page="second"), call("write", page="solved"), "42")
    rows = play(pages, *replies, row=row, log=log)
    assert results(rows) == ["{'error': \"'third'\"}", "42", "{'pages': 3}"]
    assert paid(rows) == 1.5 and log.metrics["tool_errors/raised"] == 1


def test_async_tools_and_rewards_share_an_event_loop() -> None:
    rows = play(
        environment("Weather"), call("forecast", city="Bern"), "rain", row={"question": "Tell me.", "city": "Bern"}
    )
    assert results(rows) == ["Bern: rain"] and paid(rows) == 1.0
    assert rows.values("heard")[0][0]["content"] == "Tell me. What is the weather in Bern?"


def test_tools_are_functions_of_the_class_inherited_and_static_ones_too() -> None:
    rows = play(environment("Derived"), call("note", text="a") + call("shout", text="b") + call("full"), "c")
    assert results(rows) == ["1", "B", "{'error': \"no tool 'full'; there are note, shout\"}"]
    assert paid(rows) == 1.0
    assert paid(play(environment("Base"), "no reward of its own")) == 0.0


def test_an_environment_without_tools_is_over_with_the_first_reply() -> None:
    assert paid(play(environment("Plain"), "hello")) == 1.0


def test_a_row_without_an_observation_is_its_prompt() -> None:
    rows = play(environment("Silent"), call("finish"), "ok", row={"question": "Done!"})
    assert results(rows) == ["None"] and paid(rows) == 1.0


def test_lists_and_defaults_are_passed_as_the_model_writes_them() -> None:
    replies = (call("buy", items=["pear"]), call("buy", items=["apple"], amount=2), "that is all")
    rows = play(environment("Shop"), *replies)
    assert results(rows) == ["{'error': 'out of pear'}", "2 items"] and paid(rows) == 1.0


def test_arguments_and_columns_may_have_any_name() -> None:
    row = {"question": "Edit.", "function": "f", "name": "x", "completions": 3, "self_check": 1}
    rows = play(environment("Editor", rewards=["trl_environments:any_row"]), call("call", function="g"), "ok", row=row)
    assert results(rows) == ["g(x=f)"] and paid(rows) == 0.5


def test_factories_and_arguments_of_the_constructor() -> None:
    for of in (environment("Configured", scale=2.0), environment("twice")):
        assert paid(play(of, call("press"), call("press"), "enough")) == 4.0


def test_a_truncated_episode_is_paid_as_it_stands() -> None:
    rows = play(environment("Configured"), call("press"), call("press"), max_turns=2)
    assert rows.values("ending") == ["", "truncated"] and rows.numpy("reward").tolist() == [0.0, 2.0]


NAMES = (
    *("Counter", "Vault", "Editor", "Notebook", "Weather", "Base", "Derived"),
    *("Plain", "Silent", "Shop", "Configured"),
)


@pytest.mark.parametrize("name", NAMES)
def test_tools_are_those_that_trl_finds(name: str) -> None:
    instance = getattr(sys.modules["trl_environments"], name)()
    found = [n for n, _ in inspect.getmembers(type(instance), predicate=inspect.isfunction)]
    expected = [n for n in found if n not in ("reset", "get_reward") and not n.startswith("_")]
    assert list(environment(name).open_text().functions) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoReset", "NoReset has no method `reset`; TRL's protocol wants it"),
        (
            "NoDocstring",
            "the model cannot be told of 'act': Cannot generate JSON schema for act because it has no docstring",
        ),
        ("NoTypes", "the model cannot be told of 'act': Argument what is missing a type hint in function act"),
        ("NoArgumentText", "the docstring has no description for the argument 'what'"),
        ("NarrowReset", "`reset` of NarrowReset: got an unexpected keyword argument 'prompt'; TRL passes all columns"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_malformed_class_is_one_line_before_round_0(name: str, message: str) -> None:
    source = EnvironmentSource(environment=environment(name))
    with pytest.raises(DataError) as refused:
        source.prepare()
    (line,) = source.check_data()
    assert message in line == str(refused.value) and "\n" not in line
