"""The builder: handles make edges, and a wrong call raises on its own line."""

from typing import Any

import pytest
from toys import (
    TOY_GAME,
    Add,
    Best,
    Centred,
    Draw,
    Matches,
    Named,
    Numbers,
    Parity,
    Same,
    Split,
    Step,
    Tell,
    TotalCarry,
    ToyPolicyCarry,
    toy_game,
)

from genrl_graph import Graph, R, Reward, Scored, score
from genrl_graph.dag.graph import Edge, Handle
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.exchange.gather import Gather


def start() -> tuple[Graph, Handle, Handle, Handle]:
    """Return a graph with a policy, tasks and an answer."""
    g = Graph("start")
    policy = g.carry("policy", ToyPolicyCarry())
    tasks = g.add("tasks", Numbers())
    return g, policy, tasks, g.add("answer", Draw(), tasks=tasks, policy=policy)


def test_a_handle_knows_its_type_and_passing_it_is_the_edge() -> None:
    g, policy, _, answer = start()
    scored = g.add("score", Parity(), rollouts=answer)
    assert [str(handle.type) for handle in (policy, answer, scored)] == ["ToyPolicy", "Rollouts", "Scored"]
    assert list(g.edges()) == [
        Edge("answer", "tasks", None, "tasks"),
        Edge("answer", "policy", None, "policy"),
        Edge("score", "rollouts", None, "answer"),
    ]
    assert [edge.reader for edge in g.readers("answer")] == ["score"]
    assert repr(g) == "<Graph 'start': 1 carries, 3 nodes>"


def test_generic_nodes_keep_the_type_they_are_given() -> None:
    g, _, _, answer = start()
    peers = g.add("answers", Gather(min_peers=1), rows=answer)
    scored = g.add("score", Parity(), rollouts=peers)
    assert str(g.add("best", Best(), scored=scored).type) == "Peer[Scored]"
    assert str(g.add("credit", Centred(), scored=scored).type) == "Peer[Credited]"


def test_several_outputs_are_fields_of_the_handle() -> None:
    g, _, _, answer = start()
    halves = g.add("halves", Split(), rows=answer)
    g.add("score", Parity(), rollouts=halves.low)
    assert next(g.nodes["score"].edges()).ref == "halves.low"
    assert g.output("halves.high").ref == "halves.high"
    with pytest.raises(
        GraphError, match=r"'halves' has no output 'hihg' \(did you mean 'high'\?\); it gives low, high"
    ):
        _ = halves.hihg
    with pytest.raises(GraphError, match=r"nodes.bad.rollouts: 'halves' has several outputs; write one of halves.low"):
        g.add("bad", Parity(), rollouts=halves)
    with pytest.raises(GraphError, match="'answer' has no output 'low'; it has one output; write 'answer' alone"):
        _ = answer.low


def test_inputs_are_lists_and_names_in_the_order_written() -> None:
    g, policy, tasks, answer = start()
    other = g.add("other", Draw(), tasks=tasks, policy=policy)
    g.add("named", Named(), rows={"b": other, "a": answer}, more=[other, answer])
    assert [(edge.socket, edge.key, edge.ref) for edge in g.nodes["named"].edges()] == [
        ("rows", "b", "other"),
        ("rows", "a", "answer"),
        ("more", 0, "other"),
        ("more", 1, "answer"),
    ]


def test_an_optional_input_may_be_none() -> None:
    g, policy, tasks, _ = start()
    assert "seen" not in g.nodes[g.add("late", Draw(), tasks=tasks, policy=policy, seen=None).ref].inputs


def test_what_does_not_fit_fails_on_its_line_and_leaves_no_trace() -> None:
    g, policy, tasks, answer = start()
    scored = g.add("score", Parity(), rollouts=answer)
    no_handle: Any = "answer"  # what type checkers refuse as well
    number: Any = 3
    carry: Any = TotalCarry()
    node: Any = Parity()
    wrong = [
        (
            lambda: g.add("x", Centred(), scored=answer),
            "nodes.x.scored: wants Scored[Frame], but 'answer' gives Rollouts; nodes that give Scored[Frame]: score",
        ),
        (
            lambda: g.add("x", Draw(), tasks=tasks, policy=policy, seen=answer),
            "nodes.x.seen: wants PeerRollouts, but 'answer' gives Rollouts; nothing in the graph gives PeerRollouts",
        ),
        (lambda: g.add("x", Draw(), tasks=tasks), "nodes.x.inputs: input 'policy' (ToyPolicy) is missing"),
        (lambda: g.add("x", Parity(), rolouts=answer), "reward.toy_parity has no input 'rolouts' (did you mean"),
        (
            lambda: g.add("x", Parity(), rollouts=[answer]),
            "nodes.x.rollouts: takes one output, not a list of 1; write one name",
        ),
        (lambda: g.add("x", Named(), rows=[answer]), "nodes.x.rows: takes outputs by name; write {name: node}"),
        (lambda: g.add("x", Named(), rows={}), "nodes.x.rows: is empty; name at least one output"),
        (
            lambda: g.add("x", Step(), policy=policy, credited={"a": scored}),
            "nodes.x.credited: takes a list of outputs; write [first, second], without names",
        ),
        (lambda: g.add("x", Parity(), rollouts=no_handle), "pass the handle that `add` or `carry` returned"),
        (lambda: g.add("x", Parity(), rollouts=number), "nodes.x.rollouts: pass the handle"),
        (
            lambda: g.add("score", Parity(), rollouts=answer),
            "nodes.score: graph 'start' already has a part of this name",
        ),
        (lambda: g.add("policy", Parity(), rollouts=answer), "nodes.policy: graph 'start' already has a part"),
        (lambda: g.carry("answer", TotalCarry()), "carry.answer: graph 'start' already has a part of this name"),
        (lambda: g.add("a b", Parity(), rollouts=answer), "nodes.a b: 'a b' is no name; use letters, digits and"),
        (lambda: g.add("a.b", Parity(), rollouts=answer), "nodes.a.b: 'a.b' is no name"),
        (lambda: g.add("_x", Parity(), rollouts=answer), "'_x' is no name"),
        (lambda: g.add("steps", Parity(), rollouts=answer), "'steps' is taken by the store or the metrics; rename it"),
        (
            lambda: g.add("x", carry),
            "nodes.x.type: 'carry.toy_total' belongs under `carry:`, not under `nodes:`",
        ),
        (lambda: g.carry("x", node), "carry.x.type: 'reward.toy_parity' belongs under `nodes:`"),
        (lambda: g.add("x", Parity(), rollouts=start()[3]), "the handle of 'answer' belongs to graph 'start'"),
        (lambda: g.output("anwser"), "graph 'start': no node or carry named 'anwser' (did you mean 'answer'?)"),
        (lambda: g.next_round(polcy=policy), "next_round: no carry named 'polcy' (did you mean 'policy'?)"),
        (lambda: g.next_round(policy=answer), "carry.policy.next: wants ToyPolicy, but 'answer' gives Rollouts"),
        (lambda: g.next_round(policy=no_handle), "next_round.policy: pass the handle"),
    ]
    before = g.dump()
    for write, message in wrong:
        with pytest.raises(GraphError) as caught:
            write()
        assert message in str(caught.value)
    assert g.dump() == before


def test_a_node_that_gives_nothing_cannot_be_read() -> None:
    g, _, _, answer = start()
    told = g.add("told", Tell(), rows=answer)
    with pytest.raises(GraphError, match=r"nodes.x.rows: 'told' gives no output to read"):
        g.add("x", Same(), rows=told)


def test_several_problems_of_a_line_are_told_one_a_line() -> None:
    g, _, _, answer = start()
    with pytest.raises(GraphError) as caught:
        g.add("x", Draw(), tasks=answer, seen=answer)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "nodes.x.inputs",
        "nodes.x.tasks",
        "nodes.x.seen",
    ]


def test_a_class_without_a_name_cannot_stand_in_a_graph() -> None:
    class Base(Reward):
        def run(self, rollouts: R) -> Scored[R]:
            return score(rollouts, {})

    class Heir(Parity):
        pass

    g, _, _, answer = start()
    for cls in (Base, Heir):
        with pytest.raises(GraphError, match=f"nodes.x: class {cls.__name__} is no type; declare it with name="):
            g.add("x", cls(), rollouts=answer)


def test_sockets_may_have_the_names_of_our_own_parameters() -> None:
    class Odd(Reward, name="test_odd"):
        def run(self, name: R, node: R) -> Scored[R]:
            return score(name, {})

    g, _, _, answer = start()
    assert dict(g.nodes[g.add("odd", Odd(), name=answer, node=answer).ref].inputs) == {
        "name": "answer",
        "node": "answer",
    }


def test_twins_are_equal_and_any_difference_counts() -> None:
    twin = read_document(parse_document(TOY_GAME, file="game.yaml")).graph
    assert twin == toy_game()
    texts = [
        TOY_GAME.replace("bias: 3", "bias: 4"),
        TOY_GAME.replace("num_tasks: 3", "num_tasks: 4"),
        TOY_GAME.replace("[credit_answer, credit_final]", "[credit_final, credit_answer]"),
        TOY_GAME.replace("graph: toy", "graph: other"),
        TOY_GAME.replace(", next: update", ""),
        TOY_GAME + "run: {rounds: 3}\n",
    ]
    for text in texts:
        assert text != TOY_GAME
        assert read_document(parse_document(text, file="game.yaml")).graph != toy_game()
    assert toy_game() != "toy"


def test_a_graph_that_was_read_can_be_built_on() -> None:
    g = read_document(parse_document(TOY_GAME, file="game.yaml")).graph
    again = g.add("again", Matches(), rollouts=g.output("answer"))
    g.add("credit_again", Centred(), scored=again)
    assert str(again.type) == "Scored"
    with pytest.raises(GraphError, match="wants Scored"):
        g.add("x", Centred(), scored=g.output("answer"))


def test_the_run_options_belong_to_the_graph() -> None:
    assert Graph("a", run=RunConfig(rounds=3)) != Graph("a")
    assert Graph("a", run=RunConfig(rounds=3)).dump().endswith("run: {rounds: 3}\n")


def test_next_round_may_be_said_carry_by_carry() -> None:
    g, policy, _, answer = start()
    total = g.carry("total", TotalCarry())
    g.next_round(total=g.add("add", Add(), total=total, rows=[answer]))
    g.next_round(policy=policy)
    assert (g.carries["total"].next, g.carries["policy"].next) == ("add", "policy")
    assert compile_graph(g).stages == 1


def test_a_handle_is_no_bag_of_private_names() -> None:
    _, _, _, answer = start()
    assert not hasattr(answer, "_repr_html_")
    with pytest.raises(AttributeError, match="_private"):
        _ = answer._private
