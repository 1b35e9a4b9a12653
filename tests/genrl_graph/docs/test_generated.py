"""The parts of the reference that are generated: what they say of a type, a command, an error, a metric."""

import re

import pytest

from genrl_graph.docs.commands import command_index, commands_reference
from genrl_graph.docs.games import game_index, game_page, games_by_type
from genrl_graph.docs.markdown import code, code_block, in_cell, linked_papers
from genrl_graph.docs.pictures import with_pictures
from genrl_graph.docs.tables import column_tables, error_table, metric_tables
from genrl_graph.docs.types import kind_page, kinds, run_options, shipped_types, type_index
from genrl_graph.errors import GraphError

GAME = """\
graph: letters
version: 1
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a?, answer: b}]}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}}
carry:
  policy: {type: policy.tiny_lm}
"""


def rows(markdown: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    lines = [line.removeprefix("|").removesuffix("|") for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_a_type_is_told_with_its_sockets_params_and_games() -> None:
    page = kind_page("update", {"update.grpo": ["tiny"]})
    section = page.partition("## update.grpo ")[2].partition("\n## ")[0]
    table = rows(section)
    assert table["`policy`"][0] == "[`TextPolicy`](../python.md#genrl_graph.TextPolicy)"
    assert table["`reference`"] == [
        "[`TextPolicy`](../python.md#genrl_graph.TextPolicy), optional",
        "frozen policy of the KL, needed if `beta` is above 0",
    ]
    assert "**Output** [`TextPolicy`](../python.md#genrl_graph.TextPolicy): Return the policy after" in section
    assert table["`every`"][:2] == ["`int`<br>≥ 1", "`1`"]
    assert table["`importance`"][:2] == ["`token`, `sequence` or `null`", "`null`"]
    assert "[arXiv 2402.03300](https://arxiv.org/abs/2402.03300)" in section
    assert "`from genrl_graph.nodes.library import Grpo`" in section
    assert "[tiny](../games/tiny.md)" in section


def test_nested_params_have_paths_and_long_defaults_stand_below() -> None:
    page = kind_page("source", {})
    assert rows(page)["`tasks[].question`"][0] == "`str`"
    needed = "peers that the exchange needs, this one included"
    assert rows(kind_page("exchange", {}))["`min_peers`"] == ["`int`<br>≥ 1", "*required*", needed]
    assert "`members.<name>.weight`" in rows(page)
    assert rows(kind_page("generate", {}))["`template`"][1] == "*see below*"
    assert "Default of `template`:\n\n```{ .jinja .prose }\n" in kind_page("generate", {})


@pytest.mark.parametrize("kind", kinds())
def test_every_param_and_input_of_a_shipped_type_has_a_meaning(kind: str) -> None:
    for section in kind_page(kind, {}).split("\n## ")[1:]:
        name = section.partition(" ")[0]
        assert section.splitlines()[2].strip(), f"{name}: no docstring"
        for first, cells in rows(section).items():
            assert cells[-1], f"{name}: {first} has no meaning"
        assert not re.search(r"^\*\*Output\*\* [^:]*$", section, re.MULTILINE), f"{name}: its output has no meaning"


def test_every_run_option_has_a_meaning() -> None:
    assert len(rows(run_options())) > 15
    assert all(cells[-1] for cells in rows(run_options()).values())


def test_every_argument_and_option_has_a_meaning() -> None:
    sections = commands_reference().split("\n## ")
    assert len(sections) > 15
    for section in sections:
        assert section.splitlines()[2].strip(), section
        for option, cells in rows(section).items():
            assert cells[-1], f"{section.partition(' ')[0]}: {option} has no help"


def test_toys_of_the_tests_are_not_shipped_and_every_kind_has_its_page() -> None:
    assert "generate.toy_draw" not in shipped_types()
    assert sum(map(len, kinds().values())) == len(shipped_types())
    assert list(kinds())[:2] == ["policy", "carry"]
    assert "[`update.grpo`](update.md#update.grpo)" in type_index()
    assert rows(run_options())["`rounds`"] == ["`int`<br>≥ 0", "`10`", "how many rounds to play"]


def test_commands_are_told_with_usage_arguments_and_options() -> None:
    text = commands_reference()
    section = text.partition("## plan ")[2].partition("\n## ")[0]
    assert "genrl-graph plan [-h] [--import FILE|MODULE]" in section
    assert rows(section)["`--completion-tokens N`"] == ["mean length of completions to assume"]
    assert "## swarm bootstrap {: #swarm-bootstrap }" in text
    assert "[`store`](#store)" in command_index()


def test_errors_metrics_and_columns_are_those_of_the_code() -> None:
    assert rows(error_table())["&emsp;&emsp;`StoreError`"][0] == "12"
    assert rows(metric_tables())["`<reward>/reward`"] == ["mean over the rows that could be judged"]
    assert rows(column_tables())["`completion_ids`"] == ["`list<item: int32>`"]


def test_games_name_their_types_and_types_their_games() -> None:
    assert "tiny_multistage" in games_by_type()["exchange.gather"]
    assert rows(game_index())["[tiny_multistage](tiny_multistage.md)"][0] == "3"
    page = game_page("games/cartpole")
    assert "<svg" in page
    assert "[`update.ppo`](../../types/update.md#update.ppo)" in page


@pytest.mark.parametrize(
    "page",
    [
        f"```graph\n{GAME}```\n",
        f"```yaml\n# letters.yaml\n{GAME}```\n\n```graph\nletters.yaml run.rounds=2\n```\n",
    ],
)
def test_a_block_graph_becomes_the_picture_of_its_game(page: str) -> None:
    drawn = with_pictures(page)
    assert "```graph" not in drawn
    assert "<title>letters: " in drawn
    assert drawn.count("<svg") == 1


def test_a_shipped_game_is_drawn_with_overrides_and_shown_blocks_are_left_alone() -> None:
    change = "nodes.critique.inputs.policy=update_answer nodes.final.inputs.policy=update_critique"
    before, after = (
        with_pictures(f"```graph\nmultistage_math/reasoning_gym {override}\n```\n") for override in ("", change)
    )
    assert before != after
    shown = "````markdown\n```graph\ntiny\n```\n````\n"
    assert with_pictures(shown) == shown


def test_a_block_graph_with_problems_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^picture\.yaml:5:\d+ nodes\.answer\.policy: .*did you mean 'policy'"):
        with_pictures(f"```graph\n{GAME.replace('policy: policy}', 'policy: polcy}')}```\n")


def test_cells_hold_any_text() -> None:
    assert code("a | b") == "<code>a &#124; b</code>"
    assert in_cell("x < y | z\n of doi:10.1038/nature14236.") == (
        "x &lt; y \\| z of [doi:10.1038/nature14236](https://doi.org/10.1038/nature14236)."
    )
    assert linked_papers("PPO (arXiv 1707.06347)") == "PPO ([arXiv 1707.06347](https://arxiv.org/abs/1707.06347))"
    assert code_block("```\nx\n```", "md").startswith("````md\n")
