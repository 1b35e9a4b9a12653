"""Parsing gives the values of a YAML text and the position of each."""

import math
import re
import threading
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import MAX_DEPTH, Document, Position, parse_document

GAME = """\
graph: demo  # a comment
nodes:
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {temperature: 0.7}
  update:
    inputs:
      scored: [answer, judge]
"""

OURS_ONLY = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+")  # numbers to us, texts to the dumper
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff")
).filter(lambda text: not OURS_ONLY.fullmatch(text))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(below for key, child in children for below in paths_of(child, (*path, key)))]


def parse(text: str) -> Document:
    return parse_document(text, file="game.yaml")


@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=5), flow=st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_was_dumped_comes_back_with_the_line_of_every_key(values: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, default_flow_style=flow, width=40)
    document = parse(text)
    assert document.values == values
    for path in paths_of(values):
        place = document.value_at(path)
        assert path in document.positions and place.text == text.splitlines()[place.line - 1]
        if path and isinstance(path[-1], str):
            key = document.key_at(path)
            written = key.text[key.column - 1 :].lstrip("'\"?! ")  # `on` and its like are dumped in quotes
            assert written.startswith(path[-1])


@pytest.mark.parametrize(
    "scalar",
    [
        *("1e-6", "1E5", "-2.5e+3", ".5", ".5e-3", "1.", "1.e-3", "+.5", "-.5", ".5e3", "-.inf", ".NaN", "nan"),
        *("1_000", "1_0.5", "_1", "0o17", "0", "-0", "+7", "2024-01-01"),
        *("on", "off", "Yes", "no", "TRUE", "y", "n", "~", "null", "Null", "1e", "1e+", "e5", "+", "'1e-6'", '"on"'),
    ],
)
def test_scalars_resolve_as_in_omegaconf(scalar: str) -> None:
    expected: Any = OmegaConf.to_container(OmegaConf.create(f"x: {scalar}\n"))["x"]  # type: ignore[index, call-overload]
    got = parse(f"x: {scalar}\n").values["x"]
    assert type(got) is type(expected)
    assert got == expected or (math.isnan(got) and math.isnan(expected))


BY_BASE_OR_COLON = re.compile(r"[-+]?(?:0[0-9_xb].*|.*:.*|.*__.*|.*_(?:\..*)?|\.?_.*|.*_[eE].*|.*\._.*)")


@given(st.from_regex(r"[-+]?[0-9_.:eE+-]{1,8}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_decimal_numbers_resolve_as_in_omegaconf_and_others_are_text(scalar: str) -> None:
    try:
        expected = OmegaConf.to_container(OmegaConf.create(f"x: {scalar}\n"))["x"]  # type: ignore[index, call-overload]
    except (yaml.YAMLError, ValueError):
        return
    try:
        got = parse(f"x: {scalar}\n").values["x"]
    except GraphError:
        return
    if BY_BASE_OR_COLON.fullmatch(scalar):
        assert got in (expected, scalar)
    else:
        assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize("scalar", ["12:30", "1:30.5", "0123", "007", "-007", "0x1F", "0b101", "00.5", "1__0", "0_1"])
def test_numbers_by_base_or_colon_are_the_text_that_was_written(scalar: str) -> None:
    assert parse(f"x: {scalar}\n").values["x"] == scalar


def test_a_learning_rate_is_a_number() -> None:
    assert parse("x: {learning_rate: 1e-6}").values == {"x": {"learning_rate": 1e-6}}


@pytest.mark.parametrize("text", ["${x^2}", "a ${b", "${oc.env:HOME}", "{{ task.question }} costs ${ 5 }"])
def test_templates_are_never_interpolated(text: str) -> None:
    assert parse(f"template: '{text}'").values == {"template": text}


def test_positions_name_line_column_and_source() -> None:
    document = parse(GAME)
    assert document.value_at(("nodes", "answer", "type")) == Position("game.yaml", 4, 11, "    type: generate.answer")
    assert document.key_at(("nodes", "answer", "inputs", "policy")) == Position(
        "game.yaml", 5, 28, "    inputs: {tasks: tasks, policy: policy}"
    )
    assert str(document.value_at(("nodes", "update", "inputs", "scored", 1))) == "game.yaml:9:24"
    assert document.key_at(("nodes", "update", "inputs", "scored", 1)).column == 24
    assert document.files == ("game.yaml",)


def test_what_is_not_written_is_placed_at_its_nearest_parent() -> None:
    document = parse(GAME)
    missing = ("nodes", "answer", "inputs", "critiques", "deeper")
    assert document.key_at(missing) == document.key_at(("nodes", "answer", "inputs"))
    assert document.value_at(missing) == document.value_at(("nodes", "answer", "inputs"))
    assert str(document.key_at(("nothing",))) == "game.yaml:1:1"


def test_the_caret_stands_under_the_column() -> None:
    source, caret = parse("a: 1\nb:\t'é' \nc: 2").value_at(("b",)).caret().split("\n")
    assert source[len(caret) - 1] == "'" and caret == "  \t^"
    assert Position("command line", 0, 0, "a=1").caret() == "a=1\n^"


def test_aliases_give_independent_copies_placed_at_the_anchor() -> None:
    document = parse("base: &base {n: [1]}\nuse: *base\n")
    assert document.values == {"base": {"n": [1]}, "use": {"n": [1]}}
    document.values["use"]["n"].append(2)
    assert document.values["base"]["n"] == [1]
    assert document.value_at(("use", "n")).line == 1 and document.key_at(("use",)).line == 2


BASES = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3, z: 4}\n"


@pytest.mark.parametrize(
    ("merged", "expected"),
    [
        ("{<<: *a, y: 5}", {"x": 1, "y": 5}),  # an own key wins
        ("{y: 5, <<: *a}", {"x": 1, "y": 5}),  # wherever the merge stands
        ("{<<: *b}", {"x": 3, "y": 2, "z": 4}),  # what a base merged in is part of it
        ("{<<: *b, w: 1}", {"x": 3, "y": 2, "z": 4, "w": 1}),
        ("{<<: [*a, *b]}", {"x": 1, "y": 2, "z": 4}),  # of several the first wins
        ("{<<: [*b, *a]}", {"x": 3, "y": 2, "z": 4}),
        ("{w: 0, <<: [*a, *b], y: 6}", {"x": 1, "y": 6, "z": 4, "w": 0}),
        ("{<<: {q: 7}, x: 8}", {"q": 7, "x": 8}),  # a mapping written in place
        ("{x: {v: 2}, <<: {x: {u: 1}}}", {"x": {"v": 2}}),  # values are replaced, never joined
    ],
)
def test_merged_keys_come_first_and_own_keys_win(merged: str, expected: dict[str, object]) -> None:
    document = parse(f"{BASES}c: {merged}\n")
    assert document.values["c"] == expected and list(document.values["c"]) == list(expected)
    assert {path[1] for path in document.positions if len(path) == 2 and path[0] == "c"} == set(expected)
    assert document.values["b"] == {"x": 3, "y": 2, "z": 4}, "a merge leaves its base as it is"


def test_a_merged_value_is_placed_where_it_was_written() -> None:
    document = parse("a: &a\n  x: 1\nb:\n  <<: *a\n  y: 2\n")
    assert str(document.key_at(("b", "x"))) == "game.yaml:2:3" and document.key_at(("b", "y")).line == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "game.yaml:1:1: the file is empty"),
        ("# nothing\n", "game.yaml:1:1: the file is empty"),
        ("- 1\n", "game.yaml:1:1: not a mapping at the top"),
        ("\n\njust text", "game.yaml:3:1: not a mapping"),
        ("a: 1\nb:\n  x: 1\n  y: 2\n  x: 3\n", "game.yaml:5:3: the key 'x' is given twice, first at game.yaml:3:3"),
        ("a: é b: c\n", "game.yaml:1:7: mapping values are not allowed"),
        ("a:\n\t- x\n", "game.yaml:2:1:"),
        ("a: [1,\n", "game.yaml:2:1:"),
        ("a: *nowhere", "game.yaml:1:4: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "game.yaml:2:1:"),
        ("a: 1\nb: \x07\n", "game.yaml:2:4: the character U+0007"),
        ("a: \ud800", "game.yaml:1:4: half a surrogate pair"),
        ("a: !!python/object/apply:os.system [ls]", "game.yaml:1:4: the tag !!python/object/apply:os.system"),
        ("a: !!python/name:os.system", "game.yaml:1:4: the tag !!python/name:os.system is not allowed"),
        ("a: !mine {x: 1}", "game.yaml:1:4: the tag !mine is not allowed"),
        ("!!set {a: null}", "game.yaml:1:1: the tag !!set is not allowed"),
        ("a: !!binary aGk=", "game.yaml:1:4: the tag !!binary"),
        ("a: !!int many", "game.yaml:1:4: 'many' is no int"),
        ("nodes:\n  on: {}\n", "game.yaml:2:3: the key 'on' reads as true or false, not as text; quote it"),
        ("a: {1e-6: x}", "game.yaml:1:5: the key '1e-6' reads as a fraction"),
        ("a: {~: x}", "game.yaml:1:5: the key '~' reads as null"),
        ("a: {[1, 2]: x}", "game.yaml:1:5: the key of several values"),
        ("1: x", "game.yaml:1:1: the key 1 at the top is a number; quote it"),
        ("a: &a [1, *a]", "game.yaml:1:4: an alias leads back to this value"),
        ("a: &a {<<: *a}", "game.yaml:1:4: a merge (<<) leads back"),
        ("a: {<<: 3}", "game.yaml:1:9: << merges mappings only"),
        ("a: " + "[" * 99 + "]" * 99, ""),
        ("a: " + "[" * 1_050, "game.yaml:1:103: nested deeper than 100 levels"),
        ("a: " + "[" * 100_000, "game.yaml:1:103: nested deeper than 100 levels"),
        ("a: " + "{x: " * 120 + "1" + "}" * 120, "nested deeper than 100 levels"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(text: str, message: str) -> None:
    if not message:
        assert len(parse(text).positions) == 101 - 1
        return
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "; " in str(caught.value)


def test_deep_text_does_not_overflow_the_small_stack_of_a_thread() -> None:
    failures: list[str] = []

    def read() -> None:
        with pytest.raises(GraphError) as caught:
            parse("a: " + "- " * 300_000)
        failures.append(str(caught.value))

    before = threading.stack_size(256 * 1024)
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    threading.stack_size(before)
    assert len(failures) == 1


@pytest.mark.parametrize("item", ["{x: *a%d, y: *a%d}", "[*a%d, *a%d]"])
def test_aliases_that_multiply_are_refused_in_time(item: str) -> None:
    lines = ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {item % (i - 1, i - 1)}" for i in range(1, 40))]
    with pytest.raises(GraphError, match="aliases repeat more than"):
        parse("\n".join(lines))


def test_merges_that_multiply_are_read_in_time() -> None:
    lines = ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60))]
    assert parse("\n".join(lines)).values["a59"] == {"k": 1}


def test_an_alias_below_the_depth_limit_counts_with_its_place() -> None:
    deep = "{x: " * (MAX_DEPTH - 10) + "1" + "}" * (MAX_DEPTH - 10)
    with pytest.raises(GraphError, match="nested deeper"):
        parse(f"a: &a {deep}\nb: {'[' * 20}*a{']' * 20}")


def test_numbers_may_be_keys_below_the_top_and_a_mark_may_open_the_text() -> None:
    document = parse("\ufeffweights: {1: 0.5, 2: 1}\n")
    assert document.values == {"weights": {1: 0.5, 2: 1}}
    assert str(document.key_at(("weights", 2))) == "game.yaml:1:19"


def test_an_empty_text_is_an_empty_mapping_where_that_is_meant() -> None:
    document = parse_document("# none\n", file="none.yaml", empty_ok=True)
    assert document.values == {} and str(document.value_at(("x",))) == "none.yaml:1:1"
