"""Reading YAML: every mistake of shape is reported once, at its place, and a dumped graph reads back equal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict
from toys import TOY_GAME, Add, Best, Centred, Draw, Named, Numbers, Parity, Same, Split, TotalCarry, ToyPolicyCarry

from genrl_graph import Graph, R, Select, load
from genrl_graph.contract.node import Source
from genrl_graph.dag.graph import Handle
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.dump import dump
from genrl_graph.graph_file.read import Loaded, read, read_document
from genrl_graph.nodes.exchange.gather import Gather

OWN = "; a type of your own needs --import FILE"

Read = Callable[[str], Loaded]

HEAD = "graph: g\nversion: 1\n"
SMALL = HEAD + "nodes:\n  tasks: {type: source.toy_numbers}\n"
CHAIN = """\
graph: g
version: 1
carry:
  policy:
    type: policy.toy
    next: policy
nodes:
  tasks:
    type: source.toy_numbers
  answer:
    type: generate.toy_draw
    inputs: {tasks: tasks, policy: policy}
  score:
    type: reward.toy_parity
    inputs:
      rollouts: answer
  credit:
    type: advantage.toy_centred
    inputs:
      scored: score
"""


class Anything(Select, name="test_anything"):
    """Takes any params."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    text: str = ""
    number: float = 0.0
    whole: int = 0
    flag: bool = False
    many: list[str | float | int | bool | None] = []
    table: dict[str, Any] = {}
    far: float | None = None

    def run(self, rows: R) -> R:
        return rows


class FromFile(Source, name="test_from_file"):
    """Reads a file beside the graph."""

    path: str
    folder: str = ""

    def run(self) -> Tasks:
        return Tasks.empty()

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


def test_a_correct_graph_has_no_problems(read: Read) -> None:
    for text in (TOY_GAME, SMALL, CHAIN):
        assert read(text).lines() == []


def lines(read: Read, text: str) -> list[str]:
    """Return the problems; assert that each source line and caret match the position."""
    loaded = read(text)
    source = text.splitlines()
    for problem in loaded.lines(caret=True):
        first, shown, caret = problem.split("\n")
        _, line, column = first.partition(" ")[0].split(":")
        assert source[int(line) - 1] == shown
        assert len(caret) == int(column)
        assert caret.endswith("^")
    return loaded.lines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "version: 1\nnodes:\n  tasks: {type: source.toy_numbers}\n",
            ["game.yaml:1:1 graph: wants the name of the graph; write `graph: my_game`"],
        ),
        (
            "graph: 3\nversion: 1\nnodes:\n  tasks: {type: source.toy_numbers}\n",
            ["game.yaml:1:8 graph: wants the name of the graph, got 3"],
        ),
        (
            "graph: ../up\nversion: 1\nnodes:\n  tasks: {type: source.toy_numbers}\n",
            ["game.yaml:1:8 graph: '../up' cannot name a run folder; use letters, digits and . _ -"],
        ),
        (
            "graph: g\nnodes:\n  tasks: {type: source.toy_numbers}\n",
            ["game.yaml:1:1 version: missing; this program reads version 1: write `version: 1`"],
        ),
        (
            SMALL.replace("version: 1", "version: 2"),
            ["game.yaml:2:10 version: this program reads version 1, got 2; write `version: 1`"],
        ),
        (
            SMALL.replace("version: 1", "version: true"),
            ["game.yaml:2:10 version: this program reads version 1, got True; write `version: 1`"],
        ),
        (HEAD, ["game.yaml:1:1 nodes: the graph has no nodes; add at least one"]),
        (HEAD + "nodes:\n", ["game.yaml:3:7 nodes: the graph has no nodes; add at least one"]),
        (HEAD + "nodes: {}\n", ["game.yaml:3:8 nodes: the graph has no nodes; add at least one"]),
        (HEAD + "nodes: []\n", ["game.yaml:3:8 nodes: wants `key: value` lines, got []"]),
        (HEAD + "nodes: 3\n", ["game.yaml:3:8 nodes: wants `key: value` lines, got 3"]),
        (HEAD + "node:\n  tasks: {}\n", ["game.yaml:3:1 node: unknown key 'node' (did you mean 'nodes'?)"]),
        (
            SMALL + "extra: 1\n",
            ["game.yaml:5:1 extra: unknown key 'extra'; there are carry, graph, nodes, run, version"],
        ),
        (SMALL + "carry: [1]\n", ["game.yaml:5:8 carry: wants `key: value` lines, got [1]"]),
        (SMALL + "carry:\n  policy: 3\n", ["game.yaml:6:11 carry.policy: wants `key: value` lines, got 3"]),
        (
            SMALL + "carry:\n  p: {type: policy.toy, inputs: {a: tasks}}\n",
            ["game.yaml:6:25 carry.p.inputs: unknown key 'inputs'; there are next, params, type"],
        ),
        (
            SMALL + "carry:\n  p: {type: policy.toy, next: [update]}\n",
            ["game.yaml:6:31 carry.p.next: wants the name of a node, got ['update']"],
        ),
        (SMALL + "run: 3\n", ["game.yaml:5:6 run: wants `key: value` lines, got 3"]),
        (SMALL + "run: 0\n", ["game.yaml:5:6 run: wants `key: value` lines, got 0"]),
        (
            SMALL + "run: {rounds: -1, sed: 3}\n",
            [
                "game.yaml:5:15 run.rounds: input should be greater than or equal to 0, got -1",
                "game.yaml:5:19 run.sed: unknown option 'sed' (did you mean 'seed'?)",
            ],
        ),
        (
            SMALL + "run: {rounds: many}\n",
            [
                "game.yaml:5:15 run.rounds: input should be a valid integer, unable to parse string as an integer, "
                "got 'many'"
            ],
        ),
        (SMALL + "  a:\n", ["game.yaml:5:3 nodes.a.type: has no `type`"]),
        (SMALL + "  a: {}\n", ["game.yaml:5:3 nodes.a.type: has no `type`"]),
        (SMALL + "  a: [x]\n", ["game.yaml:5:6 nodes.a: wants `key: value` lines, got ['x']"]),
        (
            SMALL + "  a: {tpye: select.toy_same}\n",
            ["game.yaml:5:7 nodes.a.tpye: unknown key 'tpye' (did you mean 'type'?)"],
        ),
        (SMALL + "  a: {type: 3}\n", ["game.yaml:5:13 nodes.a.type: wants the name of a type, got 3"]),
        (
            SMALL + "  a: {type: source.toy_nmubers}\n",
            [
                "game.yaml:5:13 nodes.a.type: no type named 'source.toy_nmubers' (did you mean 'source.toy_numbers'?)"
                + OWN
            ],
        ),
        (
            SMALL + "  a: {type: zzzzz.qqqqq}\n",
            ["game.yaml:5:13 nodes.a.type: no type named 'zzzzz.qqqqq'; `genrl-graph nodes` lists them" + OWN],
        ),
        (
            SMALL + "  a: {type: policy.toy}\n",
            ["game.yaml:5:13 nodes.a.type: 'policy.toy' belongs under `carry:`, not under `nodes:`"],
        ),
        (
            SMALL + "carry:\n  p: {type: select.toy_same}\n",
            ["game.yaml:6:13 carry.p.type: 'select.toy_same' belongs under `nodes:`, not under `carry:`"],
        ),
        (
            SMALL + "  a: {type: source.toy_numbers, params: [1]}\n",
            ["game.yaml:5:41 nodes.a.params: wants `key: value` lines, got [1]"],
        ),
        (
            SMALL + "  a: {type: source.test_from_file, params: 3}\n",
            ["game.yaml:5:44 nodes.a.params: wants `key: value` lines, got 3"],
        ),
        (
            SMALL + "  a: {type: source.toy_numbers, params: {1: 2}}\n",
            ["game.yaml:5:42 nodes.a.params.1: keys should be strings, got 1"],
        ),
        (
            SMALL + "  a: {type: source.test_from_file}\n",
            ["game.yaml:5:6 nodes.a.params.path: missing; this param has no default"],
        ),
        (
            SMALL + "  a: {type: source.toy_numbers, params: {num_task: 2}}\n",
            [
                "game.yaml:5:42 nodes.a.params.num_task: source.toy_numbers: unknown param 'num_task' "
                "(did you mean 'num_tasks'?)"
            ],
        ),
        (
            SMALL + "  a: {type: source.toy_numbers, params: {num_tasks: 0, high: x}}\n",
            [
                "game.yaml:5:53 nodes.a.params.num_tasks: input should be greater than or equal to 1, got 0",
                "game.yaml:5:62 nodes.a.params.high: input should be a valid integer, unable to parse string as an "
                "integer, got 'x'",
            ],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: 3}\n",
            ["game.yaml:5:38 nodes.a.inputs: wants `key: value` lines, got 3"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: [tasks]}\n",
            ["game.yaml:5:38 nodes.a.inputs: wants `key: value` lines, got ['tasks']"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {rows: 3}}\n",
            ["game.yaml:5:45 nodes.a.rows: wants the name of a node, a list of names or names by key, got 3"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {rows: null}}\n",
            ["game.yaml:5:45 nodes.a.rows: wants the name of a node, a list of names or names by key, got None"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {rows: [tasks, 3]}}\n",
            [
                "game.yaml:5:45 nodes.a.rows: takes one output, not a list of 1; write one name",
                "game.yaml:5:53 nodes.a.rows.1: wants the name of a node, got 3",
            ],
        ),
        (
            SMALL + "  a: {type: select.toy_same, input: {rows: tasks}}\n",
            ["game.yaml:5:30 nodes.a.input: unknown key 'input' (did you mean 'inputs'?)"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {rwos: tasks}}\n",
            ["game.yaml:5:39 nodes.a.rwos: select.toy_same has no input 'rwos' (did you mean 'rows'?)"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {zzzzzz: tasks}}\n",
            ["game.yaml:5:39 nodes.a.zzzzzz: select.toy_same has no input 'zzzzzz'; it has rows"],
        ),
        (
            SMALL + "  a: {type: select.toy_same}\n",
            ["game.yaml:5:3 nodes.a.inputs: input 'rows' (Frame) is missing; nodes that give Frame: tasks"],
        ),
        (
            SMALL + "  a:\n    type: select.toy_same\n    inputs: {}\n",
            ["game.yaml:7:5 nodes.a.inputs: input 'rows' (Frame) is missing; nodes that give Frame: tasks"],
        ),
        (
            SMALL + "  a: {type: select.toy_same, inputs: {rows: task}, next: b}\n",
            [
                "game.yaml:5:45 nodes.a.rows: no node or carry named 'task' (did you mean 'tasks'?)",
                "game.yaml:5:52 nodes.a.next: unknown key 'next'; there are inputs, params, role, type",
            ],
        ),
        (
            SMALL
            + "  a.b: {type: select.toy_same, inputs: {rows: tasks}}\n"
            + "  c: {type: select.toy_same, inputs: {rows: a.b}}\n",
            ["game.yaml:5:3 nodes.a.b: 'a.b' is no name; use letters, digits and underscores, a letter first"],
        ),
        (
            SMALL + "  7: {type: select.toy_same, inputs: {rows: tasks}}\n",
            ["game.yaml:5:3 nodes.7: '7' is no name; use letters, digits and underscores, a letter first"],
        ),
        (
            SMALL + "  7: {type: source.toy_numbers}\n  '7': {type: source.toy_numbers}\n",
            [
                "game.yaml:6:3 nodes.7: given twice, as text and as a number; rename one",
                "game.yaml:6:3 nodes.7: '7' is no name; use letters, digits and underscores, a letter first",
            ],
        ),
        (
            SMALL + "carry:\n  tasks: {type: carry.toy_total}\n",
            ["game.yaml:4:3 nodes.tasks: 'tasks' is also the name of a carry; rename one of them"],
        ),
        (
            SMALL + "  eval: {type: source.toy_numbers}\n",
            ["game.yaml:5:3 nodes.eval: 'eval' is taken by the store or the metrics; rename it"],
        ),
        (
            CHAIN.replace("source.toy_numbers", "source.toy_numbres"),
            [
                "game.yaml:9:11 nodes.tasks.type: no type named 'source.toy_numbres' "
                "(did you mean 'source.toy_numbers'?)" + OWN
            ],
        ),
        (
            CHAIN.replace("scored: score", "scored: scoer"),
            ["game.yaml:20:15 nodes.credit.scored: no node or carry named 'scoer' (did you mean 'score'?)"],
        ),
        (
            CHAIN.replace("scored: score", "scored: 3"),
            [
                "game.yaml:20:15 nodes.credit.scored: wants the name of a node, a list of names or names by key, got 3",
            ],
        ),
    ],
)
def test_a_mistake_is_told_once_and_where_it_is(read: Read, text: str, expected: list[str]) -> None:
    assert lines(read, text) == expected


def test_design_examples_are_told_word_by_word(read: Read) -> None:
    text = TOY_GAME.replace("seen: answers}", "seen: answer_s}")
    assert lines(read, text) == [
        "game.yaml:11:81 nodes.final.seen: no node or carry named 'answer_s' (did you mean 'answers'?)"
    ]
    text = (
        TOY_GAME.replace("seen: answers}", "seen: answer}")
        + "  more: {type: select.toy_same, inputs: {rows: answers}}\n"
    )
    assert [line.partition(" ")[2] for line in lines(read, text)] == [
        "nodes.final.seen: wants PeerRollouts, but 'answer' gives Rollouts; nodes that give PeerRollouts: answers, more"
    ]


def test_many_mistakes_are_told_at_once_in_the_order_of_the_file(read: Read) -> None:
    text = (
        TOY_GAME.replace("policy.toy,", "policy.toi,")
        .replace("num_tasks: 3", "num_tasks: none")
        .replace("rollouts: final", "rollouts: finale")
        .replace("select.toy_best", "select.toy_bets")
        .replace("credited:", "credit:")
    )
    reported = lines(read, text)
    assert [line.split(" ")[1].rstrip(":") for line in reported] == [
        "carry.policy.type",
        "nodes.tasks.params.num_tasks",
        "nodes.score_final.rollouts",
        "nodes.best.type",
        "nodes.update.credit",
    ]
    numbers = [int(line.split(":")[1]) for line in reported]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "a: [", "graph: g\ngraph: h\n", "null: 1\n", "graph: !!python/name:os.system x\n"]
)
def test_what_is_no_graph_file_at_all_is_a_graph_error(text: str) -> None:
    with pytest.raises(GraphError, match=r"^game.yaml:\d+:\d+: "):
        read_document(parse_document(text, file="game.yaml"))


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from(["tasks", "answer"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["type", "inputs", "params", "next", "rows", "tasks", "x"])
PARTS = st.dictionaries(
    st.one_of(st.sampled_from(["tasks", "answer", "a.b", "eval"]), st.text(max_size=4), st.integers(0, 9)),
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["generate.toy_draw", "select.toy_same", "policy.toy", "update.toy_step", "x", 3]
                )
            },
            optional={"inputs": VALUES, "params": VALUES, "next": VALUES},
        ),
        st.dictionaries(KEYS, VALUES, max_size=3),
    ),
    max_size=4,
)


@given(
    st.one_of(VALUES, st.just("g")),
    st.one_of(VALUES, st.just(1)),
    st.one_of(VALUES, PARTS),
    st.one_of(VALUES, PARTS),
    VALUES,
)
def test_no_values_whatever_break_the_reader(graph: Any, version: Any, carry: Any, nodes: Any, run: Any) -> None:
    document = parse_document("graph: g\n", file="game.yaml")
    document.values.update(graph=graph, version=version, carry=carry, nodes=nodes, run=run)
    loaded = read_document(document)
    for line in loaded.lines(caret=True):
        assert line.count("\n") == 2
    if not loaded.problems:
        assert loaded.graph.nodes


TEXTS = st.one_of(
    st.lists(st.sampled_from(["a", "  b", "", "- c: #", "\td", "e "]), max_size=5).map("\n".join),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        [
            "1e-6",
            "1.0",
            "0x1F",
            "true",
            "no",
            "~",
            "null",
            "2020-01-01",
            "=",
            "<<",
            "12:30",
            "- a",
            "a: b",
            "#",
            "é\n\nb ",
            "{{ x }}",
            "1_000",
            ".5",
            "+1",
            "0o7",
            "\ufeff",
            "\x85",
            "\u2028",
        ]
    ),
)


@given(
    text=TEXTS,
    number=st.floats().map(lambda number: number + 0.0),  # -0.0 is equal to the default
    whole=st.integers(-(2**70), 2**70),
    many=st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS), max_size=4),
    table=st.dictionaries(TEXTS, st.one_of(TEXTS, st.lists(TEXTS, max_size=2)), max_size=3),
    far=st.one_of(st.none(), st.floats(allow_nan=False)),
)
def test_any_params_come_back_from_the_dump(**params: Any) -> None:
    graph = Graph("g")
    tasks = graph.add("tasks", Numbers())
    graph.add("any", Anything(**params), rows=tasks)
    loaded = read_document(parse_document(graph.dump(), file="game.yaml"))
    assert loaded.lines() == []
    assert repr(loaded.graph.nodes["any"].declared) == repr(graph.nodes["any"].declared)
    assert loaded.graph.dump() == graph.dump()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw any graph of toy nodes that the builder accepts."""
    graph = Graph("random", run=RunConfig(rounds=draw(st.integers(0, 9)), seed=draw(st.integers(0, 9))))
    policy = graph.carry("policy", ToyPolicyCarry(bias=draw(st.none() | st.integers(-3, 3))))
    total = graph.carry("total", TotalCarry())
    tasks = graph.add("tasks", Numbers(num_tasks=draw(st.integers(1, 4))))
    rows: list[Handle] = [graph.add("n0", Draw(), tasks=tasks, policy=policy)]
    scored: list[Handle] = []
    for at in range(1, draw(st.integers(1, 12))):
        name, some = f"n{at}", draw(st.sampled_from(rows))
        kind = draw(st.sampled_from(["draw", "same", "gather", "named", "parity", "best", "split"]))
        if kind == "draw":
            rows.append(graph.add(name, Draw(num_generations=draw(st.integers(1, 4))), tasks=tasks, policy=policy))
        elif kind == "gather":
            rows.append(graph.add(name, Gather(min_peers=1, timeout_s=draw(st.floats(1e-9, 1e9))), rows=some))
        elif kind == "named":
            keys = draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
            more = draw(st.none() | st.lists(st.sampled_from(rows), max_size=3))
            rows.append(graph.add(name, Named(), rows={key: draw(st.sampled_from(rows)) for key in keys}, more=more))
        elif kind == "parity":
            scored.append(graph.add(name, Parity(weight=draw(st.floats(-1e20, 1e20))), rollouts=some))
        elif kind == "split":
            rows.append(graph.add(name, Split(), rows=some).low)
        elif kind == "best" and scored:
            scored.append(graph.add(name, Best(), scored=draw(st.sampled_from(scored))))
        else:
            rows.append(graph.add(name, Same(), rows=some))
    for at, handle in enumerate(scored):
        graph.add(f"credit{at}", Centred(), scored=handle)
    graph.next_round(total=graph.add("add", Add(), total=total, rows=[rows[-1]]))
    return graph


@settings(max_examples=50)
@given(graphs())
def test_a_graph_comes_back_from_its_dump(graph: Graph) -> None:
    loaded = read_document(parse_document(graph.dump(), file="game.yaml"))
    assert loaded.graph == graph
    assert loaded.graph.dump() == graph.dump() == dump(graph)
    assert [edge.ref for edge in loaded.graph.edges()] == [edge.ref for edge in graph.edges()]


def test_floats_are_written_so_that_every_reader_takes_them_for_numbers() -> None:
    import yaml

    graph = Graph("g")
    for at, number in enumerate([1e-6, 1e22, -2.5e-300, float("inf"), float("-inf"), 0.1]):
        graph.add(f"a{at}", Anything(number=number), rows=graph.add(f"t{at}", Numbers()))
    text = graph.dump()
    assert "number: 1.0e-06" in text
    plain = yaml.safe_load(text)["nodes"]
    assert [plain[f"a{at}"]["params"]["number"] for at in range(6)] == [
        1e-6,
        1e22,
        -2.5e-300,
        float("inf"),
        float("-inf"),
        0.1,
    ]


def test_a_graph_with_a_param_that_has_no_yaml_form_is_not_dumped() -> None:
    class Opaque(Select, name="test_opaque"):
        thing: object = None

        def run(self, rows: R) -> R:
            return rows

    graph = Graph("g")
    graph.add("odd", Opaque(thing=object()), rows=graph.add("tasks", Numbers()))
    with pytest.raises(ParamError, match=r"nodes.odd: select.test_opaque: a param has no YAML form"):
        graph.dump()


def test_overrides_are_judged_like_the_file(tmp_path: Path) -> None:
    file = tmp_path / "game.yaml"
    file.write_text(TOY_GAME)
    graph = load(file, ["nodes.answer.params.num_generations=5", "run.rounds=2", "nodes.update.params.rate=1e-3"])
    assert (graph.nodes["answer"].node.num_generations, graph.run.rounds) == (5, 2)  # type: ignore[attr-defined]
    assert graph.nodes["update"].node.rate == 1e-3  # type: ignore[attr-defined]
    loaded = read(file, ["nodes.answer.params.num_generation=5", "run.rounds=-1"])
    assert sorted(loaded.lines(caret=True)) == [
        "command line: nodes.answer.params.num_generation=5 nodes.answer.params.num_generation: generate.toy_draw: "
        "unknown param 'num_generation' (did you mean 'num_generations'?)",
        "command line: run.rounds=-1 run.rounds: input should be greater than or equal to 0, got -1",
    ]
    with pytest.raises(GraphError) as caught:
        load(file, ["nodes.answer.inputs.tasks=answer"])
    assert "a cycle: answer -> answer" in str(caught.value)


def test_only_params_that_differ_from_their_defaults_are_dumped(read: Read) -> None:
    text = SMALL + "  a: {type: source.test_from_file, params: {path: data/x.jsonl, folder: ''}}\n"
    graph = read(text).graph
    assert "params: {path: data/x.jsonl}" in graph.dump()
    assert read(graph.dump()).graph == graph
