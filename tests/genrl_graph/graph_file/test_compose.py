"""A graph file, its defaults list and overrides become one document; every value has its source position."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import OmegaConf

from genrl_graph.errors import GraphError, ParamError, UserError
from genrl_graph.graph_file.compose import load_document
from genrl_graph.graph_file.document import Document

GAME = """\
graph: demo
version: 1
nodes:
  answer:
    type: generate.answer
    params: {num_generations: 4}
  judge:
    params:
run: {rounds: 10}
"""

COMPOSED = {
    "game.yaml": """\
defaults:
  - policy: small
  - tasks@nodes.tasks: [gsm8k, hard]
  - base
  - _self_
graph: demo
hydra: {job: {name: other}}
carry:
  policy:
    next: update
run:
  rounds: 10
""",
    "base.yaml": "graph: base\nrun:\n  rounds: 1\n  seed: 0\nlist: [1, 2]\n",
    "policy/small.yaml": "# @package carry.policy\ntype: policy.causal_lm\nparams:\n  model: small\n  lr: 1e-6\n",
    "policy/tiny.yaml": "# @package carry.policy\ntype: policy.causal_lm\nnext: never\nparams: {model: tiny}\n",
    "policy/none.yaml": "# @package _global_\n",
    "policy/loud.yaml": "# @package _global_\nlist: [3]\ngraph: '???'\nrun: {seed: 7}\n",
    "policy/with_prompt.yaml": "# @package nodes.answer\nparams: {template: 'solve ${x^2} at ${a b'}\n",
    "tasks/gsm8k.yaml": "type: source.hf_dataset\nparams: {path: openai/gsm8k, defaults: [kept]}\n",
    "tasks/hard.yaml": "defaults: [/tasks/level@params]\nparams: {name: main}\n",
    "tasks/level.yaml": "level: 3\n",
}

Load = Callable[..., Document]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that writes files into the working directory and loads game.yaml (or `file`)."""
    monkeypatch.chdir(tmp_path)

    def load(files: dict[str, str] | str, *overrides: str, file: str = "game.yaml") -> Document:
        for name, text in ({"game.yaml": files} if isinstance(files, str) else files).items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text, encoding="utf-8")
        return load_document(Path(file), overrides)

    return load


def refused(load: Load, error: type[UserError], *args: Any, file: str = "game.yaml") -> str:
    with pytest.raises(error) as caught:
        load(*args, file=file)
    message = str(caught.value)
    assert "\n" not in message
    return message


def composed_by_hydra(folder: Path, *overrides: str) -> Any:
    """Compose game.yaml with Hydra itself, as an independent reference."""
    with hydra.initialize_config_dir(config_dir=str(folder), version_base=None):
        return OmegaConf.to_container(hydra.compose("game", list(overrides)), resolve=False)


# --- plain files


def test_a_plain_file_is_read_as_it_stands(load: Load) -> None:
    document = load(GAME)
    assert document.values["nodes"]["answer"]["params"] == {"num_generations": 4}
    assert document.files == ("game.yaml",)
    assert str(document.key_at(("nodes", "answer", "params", "num_generations"))) == "game.yaml:6:14"


def test_a_plain_file_without_overrides_never_imports_hydra(load: Load) -> None:
    load(GAME)
    code = """
import pathlib, sys
from genrl_graph.graph_file.compose import load_document
load_document(pathlib.Path("game.yaml"))
print(sorted({"hydra", "omegaconf", "torch"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_files_are_named_as_the_user_sees_them(load: Load, tmp_path: Path) -> None:
    load({"sub/game.yaml": GAME}, file="sub/game.yaml")
    assert load_document(tmp_path / "sub" / "game.yaml").files == ("sub/game.yaml",)
    outside = load_document(Path("../") / tmp_path.name / "sub/game.yaml")
    assert outside.files == (f"../{tmp_path.name}/sub/game.yaml",)


@pytest.mark.parametrize("template", ["${x^2}", "cost ${ a b }", "${oc.env:HOME}", "{{ task.question }} ${run.rounds}"])
def test_templates_are_not_interpolated(load: Load, template: str) -> None:
    document = load(f"graph: demo\ntemplate: '{template}'\n", "run.rounds=1", "other='${run.rounds}'")
    assert document.values["template"] == template
    assert document.values["other"] == "${run.rounds}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gane.yaml", None, "gane.yaml:1:1: no such file (did you mean 'game.yaml'?)"),
        ("x/y.yaml", None, "x/y.yaml:1:1: no such file; name a YAML file"),
        (".", None, ".:1:1: cannot be read: Is a directory"),
        ("latin.yaml", "graph: é".encode("latin-1"), "latin.yaml:1:1: not UTF-8 text (byte 0xe9 at offset 7)"),
        ("empty.yaml", b"", "empty.yaml:1:1: the file is empty"),
        ("list.yaml", b"- 1", "list.yaml:1:1: not a mapping at the top"),
        ("defaults.yml", b"graph: x\ndefaults: []", "defaults.yml:2:1: only a .yaml file can have 'defaults'"),
    ],
)
def test_an_unusable_file_is_one_line(load: Load, name: str, content: bytes | None, message: str) -> None:
    load(GAME)
    if content is not None:
        Path(name).write_bytes(content)
    assert message in refused(load, GraphError, GAME, file=name)


# --- overrides


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_overrides_set_keys_that_the_file_leaves_at_their_default(load: Load, prefix: str) -> None:
    text = f"{prefix}nodes.answer.params.temperature=0.7"
    document = load(GAME, text)
    assert document.values["nodes"]["answer"]["params"] == {"num_generations": 4, "temperature": 0.7}
    place = document.value_at(("nodes", "answer", "params", "temperature"))
    assert (place.file, place.line, place.column, place.text) == ("command line", 0, 0, text)
    assert document.value_at(("nodes", "answer", "params", "num_generations")).line == 6


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("3", 3),
        ("1e-6", 1e-6),
        ("true", True),
        ("null", None),
        ("", ""),
        ("some words", "some words"),
        ("'a, b'", "a, b"),
        ('"${x^2}"', "${x^2}"),
        ("[1, 'x', {y: 2}]", [1, "x", {"y": 2}]),
        ("{a: {b: [1]}, 2: z}", {"a": {"b": [1]}, 2: "z"}),
        ("policy.causal_lm", "policy.causal_lm"),
    ],
)
def test_override_values_are_read_by_hydras_grammar(load: Load, value: str, parsed: Any) -> None:
    document = load(GAME, f"new.key={value}")
    got = document.values["new"]["key"]
    assert got == parsed and type(got) is type(parsed)
    assert document.key_at(("new", "key", "a", "b", 0)).file == "command line"


def test_overrides_pass_through_a_key_without_a_value(load: Load) -> None:
    assert load(GAME, "nodes.judge.params.lr=1").values["nodes"]["judge"] == {"params": {"lr": 1}}


def test_a_mapping_merges_and_any_other_value_replaces(load: Load) -> None:
    document = load(GAME, "run={seed: 1}", "nodes.answer=[1]", "graph={a: 1}", "nodes.judge={params: {x: 1}}")
    assert document.values["run"] == {"rounds": 10, "seed": 1}
    assert document.values["nodes"] == {"answer": [1], "judge": {"params": {"x": 1}}}
    assert document.values["graph"] == {"a": 1}
    assert ("nodes", "answer", "type") not in document.positions
    assert document.value_at(("nodes", "answer", "type")).text == "nodes.answer=[1]"
    assert document.value_at(("run", "rounds")).line == 9


def test_later_overrides_win_and_may_build_on_earlier_ones(load: Load) -> None:
    document = load(GAME, "run.rounds=1", "a.b=1", "a.c=2", "~a.b", "run.rounds=2")
    assert document.values["run"]["rounds"] == 2 and document.values["a"] == {"c": 2}
    assert document.value_at(("run", "rounds")).text == "run.rounds=2"


def test_deleting_takes_the_value_and_its_positions(load: Load) -> None:
    document = load(GAME, "~nodes.answer.params", "~run.rounds=10", "~graph")
    assert document.values["nodes"]["answer"] == {"type": "generate.answer"}
    assert document.values["run"] == {} and "graph" not in document.values
    assert not [path for path in document.positions if "params" in path and "answer" in path]
    assert not [path for path in document.keys if path[:1] == ("graph",)]


def test_a_key_of_digits_is_the_number_that_the_file_has(load: Load) -> None:
    document = load("weights: {1: 0.5}\n", "weights.1=2", "weights.3=1")
    assert document.values == {"weights": {1: 2, "3": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("graph.x=1", "command line: graph.x=1: 'graph' is 'demo' and has no keys; set it whole: graph=..."),
        ("run.rounds.x.y=1", "'run.rounds' is 10 and has no keys"),
        ("~run.rounds.x", "'run.rounds' is 10 and has no keys"),
        ("l.0=1", "'l' is a list and has no keys; set it whole: l=..."),
        ("~run.sed", "command line: ~run.sed: there is no 'run.sed' to delete; keys that 'run' has: rounds"),
        ("~nope", "there is no 'nope' to delete; keys that the graph has: graph, version, nodes, run"),
        ("~run.rounds=3", "'run.rounds' is 10, not 3"),
        ("run.rounds", "command line: run.rounds: has no value; write key=value"),
        ("run.rounds=[1", "command line: run.rounds=[1: "),
        ("=3", "there is no key"),
        ("", "command line: : "),
        ("a\nb=1", "command line: a b=1: "),
        ("a=int(x)", "ValueError while evaluating"),
        ("a={1.5: x}", "the key 1.5 is not text; quote it"),
        ("a=[{true: x}]", "the key True is not text; quote it"),
        (
            "run.rounds=1,2",
            "`genrl-graph sweep` plays one run per value (a list is key=[1,2]",
        ),
        ("run.rounds=range(1,3)", "a sweep over several values"),
        ("run.rounds=choice(1,3)", "a sweep over several values"),
        ("policy=glob(*)", "a sweep over several values"),
        ("hydra.job.name=x", "'hydra.job.name' is no key of a graph"),
        ("hydra/launcher=x", "'hydra/launcher' is no key of a graph"),
        ("defaults=[]", "'defaults' is no key of a graph"),
        ("a/b=1", "there is no group 'a/b' to choose from"),
        ("a@b=1", "there is no group 'a' to choose from"),
        ("nodes={answer: [1]}", "'nodes.answer' is a list here and a mapping at game.yaml:4:3"),
    ],
)
def test_an_override_that_cannot_be_used_is_one_line(load: Load, override: str, message: str) -> None:
    extra = ["l=[1]"] if override.startswith("l.") else []
    line = refused(load, ParamError, GAME, *extra, override)
    assert line.startswith("command line: ") and message in line


# --- composition


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["policy=tiny"],
        ["policy=none"],
        ["policy=[none,loud]"],
        ["~policy"],
        ["run.rounds=3", "+run.peers=2", "~list"],
        ["tasks@nodes.tasks=hard", "carry.policy.next=null"],
        ["+tasks@carry.more=gsm8k", "++list=[4]"],
    ],
)
def test_composition_gives_what_hydra_composes(load: Load, tmp_path: Path, overrides: list[str]) -> None:
    document = load(COMPOSED, *overrides)
    expected = composed_by_hydra(tmp_path, *overrides)
    assert document.values == expected
    assert list(document.values) == list(expected)


def test_steering_keys_do_not_leak_but_keys_of_the_same_name_below_stay(load: Load) -> None:
    document = load(COMPOSED)
    assert not {"hydra", "defaults"} & set(document.values)
    assert document.values["nodes"]["tasks"]["params"]["defaults"] == ["kept"]
    assert "hydra" not in load("hydra: {job: {name: x}}\ngraph: x\n").values
    assert not [path for path in document.positions if path[:1] in (("hydra",), ("defaults",))]


def test_positions_are_those_of_the_file_with_the_last_word(load: Load) -> None:
    document = load(COMPOSED, "run.peers=2")
    assert str(document.value_at(("run", "rounds"))) == "game.yaml:12:11"
    assert str(document.value_at(("run", "seed"))) == "base.yaml:4:9"
    assert str(document.value_at(("graph",))) == "game.yaml:6:8"
    assert str(document.key_at(("carry", "policy", "params", "lr"))) == "policy/small.yaml:5:3"
    assert str(document.key_at(("carry", "policy", "next"))) == "game.yaml:10:5"
    assert str(document.value_at(("nodes", "tasks", "params", "level"))) == "tasks/level.yaml:1:8"
    assert str(document.key_at(("nodes", "tasks", "nothing"))) == "tasks/gsm8k.yaml:1:1"
    assert document.value_at(("run", "peers")).file == "command line"
    assert document.value_at(()).file == "game.yaml"
    assert load(COMPOSED, "policy=tiny").value_at(("carry", "policy", "params")).file == "policy/tiny.yaml"


def test_every_value_of_a_composed_document_has_its_own_position(load: Load) -> None:
    def walk(value: Any, path: tuple[str | int, ...]) -> None:
        assert path in document.positions
        assert not path or path in document.keys
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in children:
            walk(child, (*path, key))

    document = load(COMPOSED, "policy=loud", "a.b={c: [1, {d: 2}]}")
    walk(document.values, ())


def test_the_files_that_took_part_are_listed(load: Load) -> None:
    taken = ["policy/small.yaml", "tasks/gsm8k.yaml", "tasks/level.yaml", "tasks/hard.yaml", "base.yaml"]
    assert load(COMPOSED).files == ("game.yaml", *taken)
    assert load(COMPOSED, "~policy").files == ("game.yaml", *taken[1:])


def test_templates_in_composed_files_are_not_interpolated(load: Load) -> None:
    document = load(COMPOSED, "policy=with_prompt", "run.note='${x^2'")
    assert document.values["nodes"]["answer"]["params"]["template"] == "solve ${x^2} at ${a b"
    assert document.values["run"]["note"] == "${x^2"


def test_one_file_at_two_places_gives_two_independent_values(load: Load) -> None:
    document = load(COMPOSED, "+tasks@nodes.other=gsm8k", "nodes.other.params.path=mine")
    assert document.values["nodes"]["tasks"]["params"]["path"] == "openai/gsm8k"
    assert document.values["nodes"]["other"]["params"]["path"] == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"game.yaml": "defaults: [{policy: smal}]"},
            "game.yaml:1:21: no file 'policy/smal.yaml' (did you mean 'small'?)",
        ),
        (
            {"game.yaml": "defaults: [{polcy: small}]"},
            "game.yaml:1:20: no group folder 'polcy'; available: policy, tasks",
        ),
        ({"game.yaml": "defaults:\n- _self_\n- bse"}, "game.yaml:3:3: no file 'bse.yaml' (did you mean 'base'?)"),
        (
            {"tasks/hard.yaml": "defaults: [nope]"},
            "tasks/hard.yaml:1:12: no file 'tasks/nope.yaml'; available in tasks: gsm8k",
        ),
        ({"game.yaml": "defaults: [{policy: '???'}]"}, "Available options: loud none small tiny"),
        ({"game.yaml": "a: 1\ndefaults: 3"}, "game.yaml:2:11: defaults is 3; write a list"),
        ({"game.yaml": "defaults: [1]"}, "game.yaml:1:12: 1 is no default"),
        ({"game.yaml": "defaults: [{1: a}]"}, "{1: 'a'} is no default"),
        (
            {"game.yaml": "defaults: [{policy: tiny, tasks: hard}]"},
            "is no default; write a file name or 'group: option'",
        ),
        ({"base.yaml": "defaults: [null]"}, "base.yaml:1:12: None is no default"),
        ({"base.yaml": "a: [1"}, "base.yaml:2:1: while parsing a flow sequence"),
        ({"base.yaml": "- 1"}, "base.yaml:1:1: not a mapping at the top"),
        ({"base.yaml": "# @package a b\nx: 1"}, "base.yaml:1:1: Too many components"),
        (
            {"base.yaml": "list: {a: 1}", "game.yaml": "defaults: [base]\nlist: [1]"},
            "game.yaml:2:1: 'list' is a list here",
        ),
        ({"base.yaml": "defaults: [game]"}, "game.yaml:1:1: the defaults lists include one another in a circle"),
        ({"game.yaml": "defaults: [_self_, _self_]"}, "Duplicate _self_"),
        (
            {"game.yaml": "defaults: [base]\nhydra: {searchpath: [pkg://os]}"},
            "game.yaml:2:9: hydra.searchpath is not followed",
        ),
    ],
)
def test_a_composition_that_fails_is_one_line_with_its_place(load: Load, changes: dict[str, str], message: str) -> None:
    assert message in refused(load, GraphError, {**COMPOSED, **changes})


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("policy=tinny", GraphError, "command line: policy=tinny: no file 'policy/tinny.yaml' (did you mean 'tiny'?)"),
        ("policy=[tiny,nope]", GraphError, "command line: policy=[tiny,nope]: no file 'policy/nope.yaml'"),
        ("policy=3", ParamError, "3 is no option of this group; available: loud, none, small, tiny"),
        ("policy=tiny,small", ParamError, "a sweep over several values"),
        ("+policy=tiny", ParamError, "Multiple values for policy"),
        ("++policy=tiny", ParamError, "force-add of config groups is not supported"),
        ("~policy=tiny", ParamError, "Could not delete 'policy=tiny'"),
        ("tasks=hard", ParamError, "Could not override 'tasks'"),
    ],
)
def test_a_group_choice_that_fails_names_the_override(
    load: Load, override: str, error: type[UserError], message: str
) -> None:
    line = refused(load, error, COMPOSED, override)
    assert line.startswith(f"command line: {override}: ") and message in line


def test_the_callers_hydra_is_left_as_it_was(load: Load, tmp_path: Path) -> None:
    load(COMPOSED)
    assert not GlobalHydra.instance().is_initialized()
    with hydra.initialize_config_dir(config_dir=str(tmp_path), version_base="1.2", job_name="mine"):
        before = GlobalHydra.instance(), GlobalHydra.instance().hydra, VersionBase.instance().version_base
        load(COMPOSED, "policy=tiny")
        refused(load, GraphError, COMPOSED, "policy=nope")
        refused(load, ParamError, COMPOSED, "policy=3")
        after = GlobalHydra.instance(), GlobalHydra.instance().hydra, VersionBase.instance().version_base
        assert all(x is y for x, y in zip(before, after, strict=True))
        assert JobRuntime.instance().get("name") == "mine"
        assert hydra.compose("game", ["policy=tiny"]).carry.policy.params.model == "tiny"
