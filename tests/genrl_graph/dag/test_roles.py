"""Roles: edges between them cross exchanges, a peer plays its part of the game, and errors say what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from genrl_graph import Graph, GraphError, ParamError, play
from genrl_graph.dag.fingerprint import full_fingerprint, protocol_fingerprint
from genrl_graph.dag.plan import schedule_text
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.diff import compare
from genrl_graph.drawing.dot import dot
from genrl_graph.drawing.layout import layout
from genrl_graph.drawing.mermaid import mermaid
from genrl_graph.drawing.pdf import pdf
from genrl_graph.drawing.picture import picture
from genrl_graph.drawing.png import png
from genrl_graph.drawing.svg import svg
from genrl_graph.drawing.text import text
from genrl_graph.graph_file.read import Loaded

GAME = (Path(__file__).parents[2] / "data/roles.yaml").read_text()
APART = ", which may be played elsewhere; put an exchange.gather between them, or give both one role"
WRONG = [
    (
        "context: {asked: asked}",
        "context: {asked: ask}",
        f"nodes.solve.context.asked: 'ask' is made by role 'asker', and role 'solver' reads it{APART}",
    ),
    (
        "inputs: {rollouts: solved}, params: {pattern: a}",
        "inputs: {rollouts: solve}, params: {pattern: a}",
        f"nodes.score.rollouts: 'solve' is made by role 'solver', and every role reads it{APART}",
    ),
    (
        "role: asker, inputs: {scored: pay}",
        "inputs: {scored: pay}",
        f"nodes.credit_ask.scored: 'pay' is made by role 'asker', and every role reads it{APART}",
    ),
    (
        "role: solver, inputs: {tasks: tasks, policy: solver,",
        "role: solver, inputs: {tasks: tasks, policy: asker,",
        "nodes.solve.policy: 'asker' is trained by role 'asker' alone, and role 'solver' reads it; "
        "give this node `role: asker`, or let it read a frozen carry",
    ),
    (
        "asked:    {type: exchange.gather,",
        "asked:    {type: exchange.gather, role: asker,",
        "nodes.asked.role: peers of all roles meet in exchange.gather; leave it out",
    ),
    (
        "tasks:    {type: source.list,",
        "tasks:    {type: source.list, role: asker,",
        "nodes.tasks.role: source.list makes tasks, which every peer makes again for the rows that it admits; leave it",
    ),
    (
        "  rate:     {",
        "  told:     {type: exchange.gather, inputs: {rows: judge}, params: {min_peers: 1}}\n  rate:     {",
        "nodes.told.rows: 'judge' carries rewards of role 'judge', which no other role believes; "
        "exchange the rows before they are scored, and score what the exchange gives",
    ),
    (
        "next: learn_to_ask}",
        "next: mean}",
        "nodes.mean.value: 'learn_to_ask' is trained by role 'asker' alone, but peers of all roles meet here; "
        "let all train it",
    ),
    (
        "role: judge, inputs: {rollouts: solved}",
        "role: the judge, inputs: {rollouts: solved}",
        "nodes.judge.role: 'the judge' is no name; use letters, digits and underscores, a letter first",
    ),
    (
        "role: judge, inputs: {rollouts",
        "role: 3, inputs: {rollouts",
        "nodes.judge.role: wants the name of a role, got 3",
    ),
    (
        "next: learn_to_solve}",
        "next: learn_to_solve, role: solver}",
        "carry.solver.role: unknown key 'role'; there are",
    ),
    (
        "{rounds: 2}",
        "{rounds: 2, roles: [slover]}",
        "run.roles.0: no node has the role 'slover' (did you mean 'solver'?)",
    ),
]
"""Twelve graphs whose roles are wired wrongly: what is written, what instead, and the line of `check`."""
MEAN = "  mean:     {type: exchange.average, inputs: {value: learn_to_ask}, params: {min_peers: 1}}\nrun:"


@pytest.fixture
def game(read: Callable[[str], Loaded]) -> Graph:
    """The game, which has no problem."""
    loaded = read(GAME)
    assert loaded.problems == ()
    return loaded.graph


@pytest.mark.parametrize(("old", "new", "line"), WRONG)
def test_roles_that_are_wired_wrongly_are_a_line(old: str, new: str, line: str, read: Callable[[str], Loaded]) -> None:
    assert GAME.count(old) == 1
    text = GAME.replace(old, new)
    lines = [str(problem) for problem in read(text.replace("run:", MEAN) if "mean" in new else text).problems]
    found = [each for each in lines if each.startswith(line)]
    assert len(found) == 1, lines
    assert len(found[0]) < 200


def test_a_peer_plays_the_nodes_of_its_roles_and_of_none(game: Graph) -> None:
    whole = compile_graph(game)
    asker, judge = whole.played_by(["asker"]), whole.played_by(["judge"])
    shared = {"tasks", "asked", "solved", "score"}
    assert set(asker.nodes) == shared | {"ask", "pay", "credit_ask", "learn_to_ask"}
    assert set(judge.nodes) == shared | {"judge", "rate"} and not judge.graph.carries
    assert list(asker.graph.carries) == ["asker"]
    assert set(asker.rows_elsewhere()) == {"solve"} and set(judge.rows_elsewhere()) == {"ask", "solve"}
    assert {len(rows) for rows in judge.rows_elsewhere().values()} == {0}
    assert asker.protocol == judge.protocol == whole.protocol  # or they could not meet
    order = [str(step) for step in whole.steps]
    for part in (asker, judge):
        steps = [str(step) for step in part.steps]
        assert steps == sorted(steps, key=order.index)
        assert {step.beside for step in part.steps} <= {"", *steps}
    assert whole.played_by([]) is whole and set(whole.played_by(game.roles()).nodes) == set(whole.nodes)


def test_a_plan_names_the_roles_and_shows_one(game: Graph) -> None:
    whole = schedule_text(compile_graph(game))
    assert re.search(r"\d\. solve +generate.chat +role solver; reads tasks, asked; weights of solver", whole)
    part = schedule_text(compile_graph(game).played_by(["judge"]))
    assert "open solved" in part and " solve " not in part and "carry" not in part


def test_a_role_is_part_of_the_protocol_and_comes_back_from_a_dump(game: Graph, read: Callable[[str], Loaded]) -> None:
    assert read(game.dump()).graph == game
    other = read(GAME.replace("role: judge", "role: critic")).graph
    assert "judge is now played by role critic, no longer by role judge" in str(compare(game, other).lines())
    assert other != game and protocol_fingerprint(other) != protocol_fingerprint(game)
    some = read(GAME.replace("rounds: 2", "rounds: 2, roles: [judge]")).graph
    assert protocol_fingerprint(some) == protocol_fingerprint(game) and full_fingerprint(some) != full_fingerprint(game)


def test_python_gives_a_node_its_role(game: Graph) -> None:
    twin = Graph("trade")
    tasks = twin.add("tasks", game.nodes["tasks"].node)
    with pytest.raises(GraphError, match=r"tasks2\.role: source.list makes tasks"):
        twin.add("tasks2", game.nodes["tasks"].node, "asker")
    policy = twin.carry("asker", game.carries["asker"].carry)
    twin.add("ask", game.nodes["ask"].node, "asker", tasks=tasks, policy=policy)
    assert twin.roles() == ["asker"] and twin.nodes["ask"].role == game.nodes["ask"].role


def test_lanes_hold_the_boxes_of_a_role(game: Graph) -> None:
    drawn = picture(compile_graph(game))
    placed = layout(drawn)
    tops = {lane.label.text: lane.y for lane in placed.lanes}
    assert list(tops) == ["asker", "solver", "judge"] == game.roles()
    ends = [*sorted(tops.values()), placed.height]
    for box in placed.boxes:
        top = tops.get(box.box.role, 0.0)
        assert top < box.y and box.y + box.h < next(end for end in ends if end > top), box.box.name
    assert re.search(r"▶ solve +solver +generate.chat ", text(drawn))
    assert {text.count("asker") > 1 for text in (svg(drawn), dot(drawn), mermaid(drawn))} == {True}
    assert 'subgraph stage0_lane1["role asker"]' in mermaid(drawn) and "cluster_stage1_lane2" in dot(drawn)
    assert pdf(drawn) and png(drawn)


def test_all_roles_play_in_one_process(game: Graph, tmp_path: Path) -> None:
    run = play(game, out=tmp_path / "run", peers=2, quiet=True, threads=1)
    assert [key for key in run.before if run.before[key] == run.after[key]] == []
    with pytest.raises(ParamError, match=r"run.roles \(judge\): all roles play in one process; leave --role out"):
        play(game, out=tmp_path / "other", roles=["judge"], quiet=True, threads=1)
