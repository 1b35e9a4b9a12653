"""The schema of graph files refuses the local errors that the check refuses, and nothing else."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, field_validator

import genrl_graph.graphs
from genrl_graph import Graph, Rollouts, Select
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.contract.node import Carry, Node
from genrl_graph.contract.tool import Tool
from genrl_graph.dag.check import RESERVED
from genrl_graph.dag.graph import Part
from genrl_graph.errors import ParamError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.json_schema import graph_schema, schema_text
from genrl_graph.graph_file.read import load, read_document

GRAPHS = Path(genrl_graph.graphs.__file__).resolve().parent
FILES = sorted(GRAPHS.rglob("*.yaml"))
ROOT = Path(__file__).parents[3]
README = re.findall(r"^```yaml\n(# \w+\.yaml\n.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
BROKEN = runpy.run_path(str(ROOT / "tests" / "graphs" / "test_broken.py"))["BROKEN"]
ONLY_CHECK = {
    "advantage of what is not scored",
    "answer in a prompt",
    "cycle",
    "exchange that nothing reads",
    "misspelt name",
    "misspelt next",
    "own answers where those of all peers are wanted",
    "policy that is updated but not carried",
    "reader that comes after the update",
    "two updates of one policy",
    "unused reward",
    "update without advantages",
}
"""Broken files whose mistake lies between two places, or in what a validator of a node says."""


class Limits(BaseModel):
    """Nested params."""

    low: float = 0.0


class Odd(Select, name="test_schema_odd"):
    """Has params that JSON Schema can describe only in part."""

    call: Callable[..., Any] | None = None
    either: str | Callable[..., Any] = "x"
    limits: Limits | None = None
    far: float = float("inf")
    short: int = 0

    @field_validator("short", mode="before")
    @classmethod
    def _length(cls, value: object) -> object:
        return len(value) if isinstance(value, list) else value

    def run(self, rows: Rollouts) -> Rollouts:
        return rows


def errors(text: str) -> list[str]:
    return problems(parse_document(text, file="game.yaml").values)


def problems(values: dict[str, Any]) -> list[str]:
    violations = validator(tuple(registry.types())).iter_errors(values)
    return [f"{error.json_path}: {error.message}" for error in violations]


@cache
def validator(types: tuple[str, ...]) -> Draft202012Validator:
    return Draft202012Validator(graph_schema())


def with_params(params: object, kind: str = "select.test_schema_odd") -> dict[str, Any]:
    entry = {"type": kind, "inputs": {"rows": "x"}, "params": params}
    return {"graph": "g", "version": 1, "nodes": {"odd": entry}}


def test_it_is_a_schema_and_the_same_text_every_time() -> None:
    Draft202012Validator.check_schema(graph_schema())
    assert schema_text() == schema_text()
    assert json.loads(schema_text()) == graph_schema()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_files_are_accepted_and_name_the_shipped_schema(path: Path) -> None:
    text = path.read_text()
    assert errors(text) == []
    head = text[: text.index("\ngraph:")].splitlines()
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
    assert (path.parent / named).resolve() == GRAPHS / "graph.schema.json"
    assert f"# yaml-language-server: $schema={named}" in head[1:], "the description comes first"


@pytest.mark.parametrize("text", README, ids=lambda text: text.partition("\n")[0])
def test_the_files_in_the_readme_are_accepted_but_for_types_of_their_own(text: str) -> None:
    own = [kind for kind in re.findall(r"type: ([\w.]+)", text) if registry.lookup(kind) is None]
    assert all(any(repr(kind) in error for kind in own) for error in errors(text))
    assert own or errors(text) == []


def test_the_shipped_schema_is_that_of_the_library_and_made_without_torch() -> None:
    code = (
        "import sys; from genrl_graph.cli import run_command; assert run_command(['schema']) == 0; "
        "assert not {'torch', 'transformers', 'trl', 'datasets', 'zarr', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path = GRAPHS / "graph.schema.json"
    assert path.read_text() == done.stdout, f"write it anew: genrl-graph schema -o {path.relative_to(ROOT)}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_unless_only_the_check_can_see_it(name: str) -> None:
    text = (GRAPHS / "multistage_math" / "gsm8k.yaml").read_text()
    for old, new in BROKEN[name][0]:
        text = text.replace(old, new)
    assert read_document(parse_document(text, file="game.yaml")).problems
    assert bool(errors(text)) == (name not in ONLY_CHECK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("graph: a b", "$.graph: 'a b' does not match"),
        ("version: 2", "$.version: 1 was expected"),
        ("nodes: {}", "$.nodes: {} should be non-empty"),
        ("nodes:", "$.nodes: None is not of type 'object'"),
        ("nodes: {1a: {type: source.toy_numbers}}", "$.nodes: '1a' does not match"),
        ("nodes: {eval: {type: source.toy_numbers}}", "$.nodes: 'eval' should not be valid"),
        ("nodes: {a: }", "$.nodes.a: None is not of type 'object'"),
        ("nodes: {a: {type: source.toy_numbers, next: a}}", "$.nodes.a: Additional properties are not allowed"),
        ("nodes: {a: {type: exchange.gather, inputs: {rows: a}}}", "$.nodes.a: 'params' is a required property"),
        ("nodes: {a: {type: select.toy_same, inputs: }}", "$.nodes.a.inputs: None is not of type 'object'"),
        ("nodes: {a: {type: select.toy_same, inputs: {rows: [a]}}}", "$.nodes.a.inputs.rows: ['a'] is not of type"),
        ("nodes: {a: {type: select.toy_same, inputs: {rows: a b}}}", "$.nodes.a.inputs.rows: 'a b' does not match"),
        ("nodes: {a: {type: select.toy_named, inputs: {rows: a}}}", "$.nodes.a.inputs.rows: 'a' is not of type"),
        ("nodes: {a: {type: select.toy_named, inputs: {rows: {}}}}", "$.nodes.a.inputs.rows: {} should be non-empty"),
        ("carry: {policy: {type: policy.toy, next: [a]}}", "$.carry.policy.next: ['a'] is not valid"),
        ("carry: {policy: {type: policy.toy, inputs: {}}}", "$.carry.policy: Additional properties are not allowed"),
        ("run: {mode: play}", "$.run.mode: 'play' is not one of"),
        ("defaults: base", "$.defaults: 'base' is not of type 'array'"),
        ("defaults: [{a: b, c: d}]", "$.defaults[0]: {'a': 'b', 'c': 'd'} is not valid"),
    ],
)
def test_what_the_check_refuses_in_one_place_is_refused_there(text: str, expected: str) -> None:
    values = {"graph": "g", "version": 1, "nodes": {"a": {"type": "source.toy_numbers"}}}
    values |= parse_document(text, file="game.yaml").values
    assert [error for error in problems(values) if error.startswith(expected)]
    if "defaults" not in values:
        lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
        assert read_document(parse_document(lines, file="game.yaml")).problems


def test_a_file_that_is_laid_over_others_may_lack_anything_but_holds_nothing_wrong() -> None:
    assert errors("defaults: [base, {policy: tiny}, {data: [a, null]}, _self_]\nnodes: {a: {inputs: {rows: b}}}") == []
    assert errors("defaults: [base]\nnodes: {a: {type: exchange.gather, params: {timeout_s: 3}}}") == []
    assert errors("nodes: {a: {inputs: {rows: b}}}") != []
    assert errors("defaults: [base]\nnodes: {a: {type: exchange.gather, params: {timeout: 3}}}") != []
    assert errors("defaults: [base]\nnodes: {a: {type: exchange.gathr}}") != []


def test_types_are_completed_with_what_they_are_and_params_with_their_defaults() -> None:
    schema = graph_schema()
    kinds = schema["$defs"]["node"]["properties"]["type"]
    about = dict(zip(kinds["enum"], kinds["enumDescriptions"], strict=True))
    assert about["select.toy_best"] == "Keeps the best half."
    assert "policy.toy" not in about and "policy.toy_fork" in about
    assert "policy.toy" in schema["$defs"]["carry"]["properties"]["type"]["enum"]
    gather = schema["$defs"]["exchange.gather"]["properties"]
    rows = "Frame: rows of this peer, which all others receive"
    assert gather["inputs"]["properties"] == {"rows": {"description": rows, "$ref": "#/$defs/output"}}
    assert gather["params"]["properties"]["timeout_s"]["default"] == 60.0
    assert gather["params"]["properties"]["max_peers"]["description"].startswith("how many other peers' rows")
    assert gather["type"]["description"].startswith("Share rows with all peers")


def test_editors_show_the_meaning_of_every_param_input_and_run_option_that_is_shipped() -> None:
    schema = json.loads((ROOT / "graphs/graph.schema.json").read_text())
    shown = {"run": schema["properties"]["run"]}
    for name, definition in schema["$defs"].items():
        for part in ("params", "inputs"):
            shown[f"{name}.{part}"] = definition.get("properties", {}).get(part, {})
        if re.fullmatch(r"\w+\.\w+\.\w+", name):  # nested params, such as source.list.Message
            shown[name] = definition
    described = {
        f"{where}.{name}": field.get("description", "")
        for where, part in shown.items()
        for name, field in part.get("properties", {}).items()
    }
    assert len(described) > 300
    assert [name for name, text in described.items() if not text] == []
    assert described["source.list.Message.role"] == "author of the message: system, user or assistant"


def test_params_that_a_schema_cannot_say_are_left_to_the_check() -> None:
    accepted = [{"call": "anything"}, {"either": "y"}, {"short": [1, 2]}, {"limits": {"low": 1}}, {"far": ".inf"}]
    for params in (*accepted[:-1], {"far": "1e3"}, {"short": "1_000"}, None, {}):
        assert problems(with_params(params)) == []
    for params in ({"either": 3}, {"limits": 3}, {"far": "much"}, {"shorts": 1}, [1]):
        assert problems(with_params(params)) != []


SCALARS = st.one_of(
    st.none(),
    st.integers(-3, 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["1", " -2 ", "1_000", "4.0", ".5", "1e-6", "1.", "inf", "-NaN", "yes", "Off", "T", "", "a"]),
    st.text("aZ1é._- \n", max_size=3),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from(["a", "low"]), SCALARS, max_size=2)
)


@given(data=st.data(), value=VALUES)
def test_no_value_of_a_param_that_the_check_accepts_is_refused(data: st.DataObject, value: object) -> None:
    """The schema asks for true and false instead of 0 and 1; these are left out."""
    known = [cls for cls in registry.types().values() if cls.model_fields and not issubclass(cls, Tool)]
    cls = data.draw(st.sampled_from(known))
    name = data.draw(st.sampled_from(list(cls.model_fields)))
    assume(not (isinstance(value, int | float) and isinstance(cls.model_fields[name].default, bool)))
    section = "carry" if issubclass(cls, Carry) else "nodes"
    values = {"graph": "g", "version": 1, section: {"part": {"type": cls.type_name, "params": {name: value}}}}
    document = parse_document(json.dumps(values), file="game.yaml")
    reported = read_document(document).problems
    path = (section, "part", "params", name)
    if not any(problem.path[: len(path)] == path or problem.path == path[:-1] for problem in reported):
        assert not [error for error in problems(document.values) if f".params.{name}" in error.partition(":")[0]]


def known_parts() -> list[Part]:
    """Return parts of many types: all of the shipped graphs, and each type that needs no params."""
    graphs = [load(path) for path in FILES]
    parts = [part for graph in graphs for part in (*graph.carries.values(), *graph.nodes.values())]
    for cls in (cls for cls in registry.types().values() if not issubclass(cls, Tool)):
        if not any(field.is_required() for field in cls.model_fields.values()):
            with suppress(ParamError):  # a validator wants one of several params
                parts.append(Part("part", cls.type_name, cls, cls()))
    return parts


PARTS = known_parts()


@given(data=st.data())
def test_graphs_of_valid_parts_are_accepted(data: st.DataObject) -> None:
    graph = Graph(data.draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,5}", fullmatch=True)))
    name = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,5}", fullmatch=True).filter(lambda text: text not in RESERVED)
    ref = name | st.builds("{}.{}".format, name, name)
    for part_name in data.draw(st.lists(name, min_size=1, max_size=4, unique=True)):
        part = data.draw(st.sampled_from(PARTS))
        assert part.cls is not None
        shapes: dict[str, st.SearchStrategy[Any]] = {"one": ref, "list": ref | st.lists(ref, min_size=1).map(tuple)}
        shapes["dict"] = st.dictionaries(name, ref, min_size=1)
        sockets = part.cls.signature.inputs if issubclass(part.cls, Node) else ()
        wired = [socket for socket in sockets if not socket.optional or data.draw(st.booleans())]
        inputs = {socket.name: data.draw(shapes[socket.many]) for socket in wired}
        follows = data.draw(st.none() | ref) if issubclass(part.cls, Carry) else None
        section = graph.carries if issubclass(part.cls, Carry) else graph.nodes
        section[part_name] = Part(part_name, part.type_name, part.cls, part.declared, inputs, follows)
    assume(graph.nodes)
    assert errors(graph.dump()) == []


@given(text=st.text(st.sampled_from("aZ09_.- é"), max_size=4))
def test_names_are_judged_as_by_the_check(text: str) -> None:
    values = {"graph": text, "version": 1, "nodes": {text: {"type": "source.toy_numbers"}}}
    reported = {problem.path for problem in read_document(parse_document(json.dumps(values), file="g.yaml")).problems}
    refused = {error.partition(":")[0] for error in problems(values)}
    assert (("graph",) in reported) == ("$.graph" in refused)
    assert (("nodes", text) in reported) == ("$.nodes" in refused)


def test_the_schema_of_ones_own_nodes_is_written_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], toys_file: Path
) -> None:
    out = tmp_path / "mine.json"
    assert run_command(["schema", "-o", str(out), "--import", str(toys_file)]) == 0
    assert capsys.readouterr().out == ""
    assert "select.toy_best" in json.loads(out.read_text())["$defs"]
    assert run_command(["schema", "-o", str(tmp_path)]) == 3
    assert capsys.readouterr().err == f"genrl-graph: -o {tmp_path}: cannot write: Is a directory; name another file\n"
