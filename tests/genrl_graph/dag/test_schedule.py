"""The round schedule: stages, exchanges, and file order wherever edges and policies leave a choice."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TOY_GAME, Add, Draw, Named, Numbers, Same, TotalCarry, ToyFork, ToyPolicyCarry, toy_game

from genrl_graph import Graph
from genrl_graph.dag.graph import Handle
from genrl_graph.dag.infer import carried
from genrl_graph.dag.schedule import Schedule, compile_graph, stages_of
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.read import Loaded
from genrl_graph.nodes.exchange.gather import Gather

Read = Callable[[str], Loaded]


def steps(graph: Graph) -> list[str]:
    return [str(step) for step in compile_graph(graph).steps]


def test_stages_are_counted_by_generators_upstream() -> None:
    graph = toy_game()
    assert stages_of(graph) == {
        "tasks": 0,
        "answer": 0,
        "answers": 0,
        "score_answer": 0,
        "credit_answer": 0,
        "final": 1,
        "score_final": 1,
        "match_final": 1,
        "best": 1,
        "credit_final": 1,
        "update": 1,
    }
    assert compile_graph(graph).stages == 2
    assert compile_graph(graph).nodes["final"].place.stage == 1


def test_a_generator_behind_an_update_is_a_stage_further(read: Read) -> None:
    text = TOY_GAME.replace(
        "final: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy, seen: answers}",
        "final: {type: generate.toy_draw, inputs: {tasks: tasks, policy: first}",
    )
    text = text.replace(
        "inputs: {policy: policy, credited: [credit_answer, credit_final]}",
        "inputs: {policy: first, credited: [credit_final]}",
    )
    text += "  first: {type: update.toy_step, inputs: {policy: policy, credited: [credit_answer]}}\n"
    text += "  seen: {type: select.toy_same, inputs: {rows: answers}}\n"
    stages = stages_of(read(text).graph)
    assert (stages["first"], stages["final"], stages["update"]) == (0, 1, 1)


def test_generators_side_by_side_share_a_stage_and_judges_open_none() -> None:
    graph = Graph("g")
    policy = graph.carry("policy", ToyPolicyCarry())
    tasks = graph.add("tasks", Numbers())
    left = graph.add("left", Draw(), tasks=tasks, policy=policy)
    right = graph.add("right", Draw(), tasks=tasks, policy=policy)
    both = graph.add("both", Named(), rows={"l": left, "r": right})
    seen = graph.add("seen", Gather(min_peers=1), rows=both)
    graph.add("last", Draw(), tasks=tasks, policy=policy, seen=seen)
    assert stages_of(graph) == {"tasks": 0, "left": 0, "right": 0, "both": 0, "seen": 0, "last": 1}


def test_a_graph_without_generators_has_one_stage() -> None:
    graph = Graph("g")
    graph.add("kept", Same(), rows=graph.add("tasks", Numbers()))
    assert compile_graph(graph).stages == 1


def test_an_exchange_opens_when_its_offer_exists_and_rewards_run_beside_its_close() -> None:
    assert steps(toy_game()) == [
        "tasks",
        "answer",
        "open answers",
        "close answers",
        "final",
        "score_answer",
        "credit_answer",
        "score_final",
        "match_final",
        "best",
        "credit_final",
        "update",
    ]
    assert {at: list(map(str, run)) for at, run in compile_graph(toy_game()).background.items()} == {
        "close answers": ["score_answer"]
    }


def test_two_exchanges_are_both_open_before_one_is_waited_for() -> None:
    graph = Graph("g")
    policy = graph.carry("policy", ToyPolicyCarry())
    tasks = graph.add("tasks", Numbers())
    seen = []
    for name in ("b", "a"):
        drawn = graph.add(name, Draw(), tasks=tasks, policy=policy)
        seen.append(graph.add(f"all_{name}", Gather(min_peers=1), rows=drawn))
    graph.add("last", Named(), rows={"b": seen[0], "a": seen[1]})
    assert steps(graph) == ["tasks", "b", "open all_b", "a", "open all_a", "close all_b", "close all_a", "last"]


def test_the_authors_order_decides_between_equals() -> None:
    names = ["zebra", "ape", "mole"]
    for order in (names, names[::-1]):
        graph = Graph("g")
        tasks = graph.add("tasks", Numbers())
        for name in order:
            graph.add(name, Same(), rows=tasks)
        assert steps(graph) == ["tasks", *order]


def test_every_step_tells_the_version_it_reads(read: Read) -> None:
    text = TOY_GAME + "  fork: {type: policy.toy_fork, inputs: {policy: policy}}\n"
    text += "  more: {type: generate.toy_draw, inputs: {tasks: tasks, policy: fork}}\n"
    schedule = compile_graph(read(text).graph)
    reads = {str(step): dict(step.reads) for step in schedule.steps}
    assert reads["answer"] == reads["fork"] == reads["update"] == {"policy": "policy"}
    assert reads["more"] == {"policy": "fork"}
    assert reads["open answers"] == reads["close answers"] == {}
    assert schedule.replaced("update") == {"": "policy"}


def test_a_graph_with_problems_is_not_compiled(read: Read) -> None:
    loaded = read(TOY_GAME.replace("rollouts: answer", "rollouts: anwser").replace(", next: update", ""))
    with pytest.raises(GraphError) as caught:
        compile_graph(loaded.graph)
    assert len(str(caught.value).splitlines()) == 2


def test_every_node_knows_its_place() -> None:
    schedule = compile_graph(toy_game())
    assert {name: node.place.node for name, node in schedule.nodes.items()} == {n: n for n in schedule.nodes}
    assert {node.place.protocol for node in schedule.nodes.values()} == {schedule.protocol}
    assert toy_game().nodes["answer"].node.place.node == "generate.toy_draw"


@st.composite
def games(draw: st.DrawFn) -> Graph:
    """Draw a random game with chains of updates, and forks beside them."""
    graph = Graph("random")
    versions: list[Handle] = [graph.carry("policy", ToyPolicyCarry())]
    totals: list[Handle] = [graph.carry("total", TotalCarry())]
    tasks = graph.add("tasks", Numbers())
    rows: list[Handle] = [graph.add("n0", Draw(), tasks=tasks, policy=versions[0])]
    for at in range(1, draw(st.integers(2, 14))):
        name, some, version = f"n{at}", draw(st.sampled_from(rows)), draw(st.sampled_from(versions))
        kind = draw(st.sampled_from(["draw", "draw", "gather", "same", "named", "fork", "add"]))
        if kind == "draw":
            rows.append(graph.add(name, Draw(), tasks=tasks, policy=version))
        elif kind == "gather":
            rows.append(graph.add(name, Gather(min_peers=1), rows=some))
            rows.append(graph.add(f"{name}_read", Same(), rows=rows[-1]))
        elif kind == "named":
            rows.append(graph.add(name, Named(), rows={"x": some, "y": draw(st.sampled_from(rows))}))
        elif kind == "fork":
            versions.append(graph.add(name, ToyFork(), policy=version))
        elif kind == "add":
            totals.append(graph.add(name, Add(), total=totals[-1], rows=[some]))
        else:
            rows.append(graph.add(name, Same(), rows=some))
    graph.next_round(total=totals[-1])
    return graph


def check_order(schedule: Schedule) -> None:
    """Assert that each step follows its inputs and each reader of a version precedes its update."""
    graph = schedule.graph
    at = {(step.node, step.action): place for place, step in enumerate(schedule.steps)}
    exchanges = {node for node, action in at if action == "open"}
    produced = {name: at[(name, "close" if name in exchanges else "run")] for name in graph.nodes}
    begun = {name: at[(name, "open" if name in exchanges else "run")] for name in graph.nodes}
    assert sorted(at.values()) == list(range(len(graph.nodes) + len(exchanges)))
    for edge in graph.edges():
        if edge.origin in graph.nodes:
            assert produced[edge.origin] < begun[edge.reader]
    for update in graph.nodes:
        for socket in schedule.replaced(update).values():
            ref = graph.nodes[update].inputs[socket]
            for edge in graph.edges():
                if edge.ref == ref and edge.reader != update and carried(schedule.types, ref):
                    assert begun[edge.reader] < begun[update]


@settings(max_examples=60)
@given(games())
def test_any_game_is_ordered_right_or_refused_for_its_weights(graph: Graph) -> None:
    try:
        schedule = compile_graph(graph)
    except GraphError as error:
        problems = str(error).splitlines()
        assert all("replace" in problem or "no order" in problem for problem in problems)
        return
    check_order(schedule)
    assert [str(s) for s in compile_graph(graph).steps] == [str(s) for s in schedule.steps]


def test_a_thousand_nodes_compile() -> None:
    graph = Graph("long")
    rows = graph.add("n0", Numbers())
    for at in range(1, 1000):
        rows = graph.add(f"n{at}", Same(), rows=rows)
    check_order(compile_graph(graph))
