"""`advantage.backup` on a small set of rows whose values are calculated by hand.

Stage 0: answers a, b, c of one prompt. Stage 1: critique k quotes a and b; m quotes b; n, not judged, quotes c.
Stage 2: final x quotes a and k; y quotes b and m; z quotes a, b and m; w, of another task, quotes nothing.
"""

from collections.abc import Callable
from fractions import Fraction
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pytest
from fixture_types import MakeRollouts, ReadGame
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Graph, ParamError, Rollouts, score
from genrl_graph.contract.resources import Log
from genrl_graph.dag.check import check
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.nodes.advantage.backup import BackupAdvantage
from genrl_graph.nodes.advantage.group import GroupAdvantage

Family = tuple[Rollouts, Rollouts, Rollouts]
NAN = float("nan")
ANSWERS = {"a": 1.0, "b": 0.0, "c": 0.5}
CRITIQUES = {"k": (1.0, "ab"), "m": (0.0, "b"), "n": (NAN, "c")}
FINALS = {"x": (1.0, "ak"), "y": (0.0, "bm"), "z": (0.5, "abm"), "w": (9.0, "")}


@pytest.fixture(scope="module")
def family(make_rollouts: MakeRollouts) -> Family:
    """Return scored answers, critiques and finals."""

    def stage(number: int, node: str, rewards: dict[str, float], parents: dict[str, str]) -> Rollouts:
        rows = make_rollouts(
            ["x"] * len(rewards),
            id=list(rewards),
            node=node,
            stage=number,
            parent_ids=[list(parents.get(id, "")) for id in rewards],
            task_id=["t/1" if id == "w" else "t/0" for id in rewards],
        )
        return score(rows, {"t": list(rewards.values())})

    def of(number: int, node: str, rows: dict[str, tuple[float, str]]) -> Rollouts:
        return stage(number, node, {id: row[0] for id, row in rows.items()}, {id: row[1] for id, row in rows.items()})

    return stage(0, "answer", ANSWERS, {}), of(1, "critique", CRITIQUES), of(2, "final", FINALS)


def backed_up(scored: Rollouts, later: list[Rollouts], **params: Any) -> dict[str, Any]:
    """Return the stored table, the advantages without a scale, and the metrics."""
    log = Log()
    rows = BackupAdvantage(**{"scale": "none", **params}).run(scored, later, log=log)
    table = log.tables["backup"]
    assert table["id"] == rows.values("id")
    return {**table, "advantage": rows.numpy("advantage"), "metrics": log.metrics}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # finals of a: x, z; of b: y, z; of c: none
        ("mean", [Fraction(3, 4), Fraction(1, 4), NAN]),
        ("max", [Fraction(1), Fraction(1, 2), NAN]),
        # a: (1 + 1/2) / 2 - 0; b: (0 + 1/2) / 2 - 1
        ("difference", [Fraction(3, 4), Fraction(-3, 4), NAN]),
    ],
)
def test_finals_back_up_the_answers_that_they_quoted(family: Family, how: str, expected: list[Fraction]) -> None:
    answers, _, finals = family
    actual = backed_up(answers, [finals], how=how)
    assert actual["children"] == [2, 2, 0]
    np.testing.assert_array_equal(actual["backed_up"], np.asarray(expected, float))
    # c is childless and worth its own reward
    values = [1 + expected[0], 0 + expected[1], Fraction(1, 2)]
    np.testing.assert_array_equal(actual["value"], np.asarray(values, float))
    mean = sum(values) / 3
    np.testing.assert_allclose(actual["advantage"], [float(value - mean) for value in values], atol=1e-15)


def test_stages_are_backed_up_one_by_one_and_then_averaged(family: Family) -> None:
    answers, critiques, finals = family
    actual = backed_up(answers, [critiques, finals])
    # a: critiques 1, finals 3/4; b: critiques 1/2, finals 1/4; c: its one critique was not judged
    np.testing.assert_array_equal(actual["backed_up"], [float(Fraction(7, 8)), float(Fraction(3, 8)), NAN])
    assert actual["children"] == [3, 4, 0]
    assert actual["metrics"] == {
        "groups": 1,
        "groups_with_variance": 1,
        "zero_variance": 0.0,
        "reward": 0.5,
        "backed_up": 0.625,
        "childless": pytest.approx(1 / 3),
    }
    # all critiques that were judged quoted b: they say nothing about what it improved, so its finals alone do
    differences = backed_up(answers, [critiques, finals], how="difference")["backed_up"]
    np.testing.assert_array_equal(differences, [float((Fraction(1) + Fraction(3, 4)) / 2), float(Fraction(-3, 4)), NAN])


def test_discount_counts_the_stages_between(family: Family) -> None:
    answers, critiques, finals = family
    actual = backed_up(answers, [critiques, finals], discount=0.5)
    # critiques are one stage later, finals two: a is (1/2 * 1 + 1/4 * 3/4) / 2
    np.testing.assert_array_equal(actual["backed_up"], [float(Fraction(11, 32)), float(Fraction(5, 32)), NAN])
    assert backed_up(critiques, [finals], discount=0.5)["backed_up"][:2] == [0.5, 0.125]


@pytest.mark.parametrize("stage", [-(2**31), 0, 1])
def test_no_reader_is_worth_more_for_the_stage_that_its_peer_wrote(
    family: Family, make_rollouts: MakeRollouts, stage: int
) -> None:
    answers = family[0]
    forged = score(make_rollouts(["x"], id=["x"], stage=stage, parent_ids=[["a"]], task_id="t/0"), {"t": [1.0]})
    assert backed_up(answers, [forged], discount=0.5)["backed_up"][0] == 0.5


def test_weights_of_own_and_backed_up(family: Family) -> None:
    answers, critiques, finals = family
    assert backed_up(answers, [finals], own=2.0, backed_up=-4.0)["value"] == [-1.0, -1.0, 1.0]
    # a row that is paid by others alone needs no reward; n is childless and has none either
    unjudged = score(critiques.take([0, 1, 2]), {"u": [NAN, NAN, 0.0]})
    actual = backed_up(unjudged, [finals], own=0.0)
    np.testing.assert_array_equal(actual["value"], [1.0, 0.25, NAN])
    np.testing.assert_array_equal(actual["advantage"], [0.375, -0.375, NAN])
    assert "reward" not in actual["metrics"]
    assert np.isnan(backed_up(unjudged, [finals])["value"]).all()


def test_childless_rows_may_be_left_out(family: Family) -> None:
    answers, _, finals = family
    actual = backed_up(answers, [finals], childless="leave_out")
    np.testing.assert_array_equal(actual["value"], [1.75, 0.25, NAN])
    np.testing.assert_array_equal(actual["advantage"], [0.75, -0.75, NAN])


def test_a_reader_of_another_task_is_no_child(family: Family, make_rollouts: MakeRollouts) -> None:
    answers = family[0]
    stranger = score(make_rollouts(["x"], id=["x"], parent_ids=[["a"]], stage=1, task_id="t/1"), {"t": [5.0]})
    for how in ("mean", "max", "difference"):
        assert np.isnan(backed_up(answers, [stranger], how=how)["backed_up"]).all()


@pytest.fixture(scope="module")
def tree(make_rollouts: MakeRollouts) -> Family:
    """Return two steps of one prompt, a and b, their continuations, and the leaves of these.

    a leads to c (leaves 1 and 0) and d (leaf 0, and one not judged); b to e, which ended there and is worth 1/2.
    """

    def stage(number: int, rewards: dict[str, float], parents: str = "") -> Rollouts:
        quoted = [[parent] for parent in parents] or [[]] * len(rewards)
        rows = make_rollouts(["x"] * len(rewards), id=list(rewards), stage=number, parent_ids=quoted, task_id="t/0")
        return score(rows, {"t": list(rewards.values())})

    middle = stage(1, {"c": NAN, "d": 7.0, "e": 0.5}, "aab")
    return stage(0, {"a": NAN, "b": 5.0}), middle, stage(2, {"p": 1.0, "q": 0.0, "r": 0.0, "s": NAN}, "ccdd")


@pytest.mark.parametrize(
    ("params", "first", "second"),
    [
        ({}, [0.25, 0.5], [0.5, 0.0, 0.5]),
        ({"how": "max"}, [1.0, 0.5], [1.0, 0.0, 0.5]),
        # leaves of a are two stages later, e one; a leaf itself is not discounted
        ({"discount": 0.5}, [0.0625, 0.25], [0.25, 0.0, 0.5]),
        # rewards of steps count too: b and d have some; c and a have none, and so no value
        ({"own": 1.0}, [7.0 + 0.0, 5.5], [NAN, 7.0, 0.5]),
        ({"backed_up": 2.0}, [1.0, 1.0], [1.0, 0.0, 0.5]),
    ],
)
def test_leaves_back_up_every_step_that_led_to_them(
    tree: Family, params: dict[str, Any], first: list[float], second: list[float]
) -> None:
    steps, middle, leaves = tree
    params = {"own": 0.0, "depth": "leaves", **params}
    if params["own"]:  # only what can be judged
        steps = score(steps.take([0, 1]), {"u": [0.0, 0.0]})
        first = [NAN, first[1]]
    for later in ([middle, leaves], [leaves, middle]):
        actual = backed_up(steps, later, **params)
        assert actual["children"] == ([1, 1] if params["own"] else [2, 1])
        np.testing.assert_array_equal(actual["value"], first)
    inner = backed_up(middle, [leaves], **params)
    assert inner["children"] == [2, 1, 0]
    np.testing.assert_array_equal(inner["value"], second)


def test_a_tree_that_a_peer_writes_as_a_circle_has_an_end(make_rollouts: MakeRollouts, tree: Family) -> None:
    rows = make_rollouts(
        ["x"] * 3, id=["f", "g", "a"], stage=[1, 1, 0], parent_ids=[["g", "a"], ["f"], ["f"]], task_id="t/0"
    )
    actual = backed_up(tree[0], [score(rows, {"t": [1.0, 1.0, 0.0]})], depth="leaves", own=0.0)
    np.testing.assert_array_equal(actual["value"], [1.0, 5.0])


def test_the_difference_has_no_tree() -> None:
    with pytest.raises(ParamError, match="how is difference, which compares the rows of one stage; with depth leaves"):
        BackupAdvantage(how="difference", depth="leaves")


TREE = """
graph: g
version: 1
carry: {{policy: {{type: policy.tiny_lm, next: update}}}}
nodes:
  tasks: {{type: source.list, params: {{tasks: [{{question: a}}]}}}}
  one: {{type: generate.answer, inputs: {{tasks: tasks, policy: policy}}, params: {{num_generations: 2}}}}
  judge_one: {{type: reward.regex, inputs: {{rollouts: one}}, params: {{pattern: a}}}}
  open: {{type: select.continue_if, inputs: {{rows: judge_one}}, params: {{at_least: 1}}}}
  two:
    type: generate.chat
    inputs: {{tasks: tasks, policy: policy, context: {{path: open}}}}
    params: {{each: path, unbranched: skip, num_generations: 2, template: "{{{{ path[0].prompt }}}}"}}
  judge_two: {{type: reward.regex, inputs: {{rollouts: two}}, params: {{pattern: a}}}}
  three:
    type: generate.chat
    inputs: {{tasks: tasks, policy: policy, context: {{path: judge_two}}}}
    params: {{each: path, num_generations: 2, template: "{{{{ path[0].prompt }}}}"}}
  judge_three: {{type: reward.regex, inputs: {{rollouts: three}}, params: {{pattern: a}}}}
  credit: {{type: advantage.backup, inputs: {{scored: judge_one, later: [{later}]}}, params: {{{params}}}}}
  update: {{type: update.grpo, inputs: {{policy: policy, credited: [credit]}}}}
"""


@pytest.mark.parametrize(
    ("later", "params", "message"),
    [
        ("judge_two, judge_three", "depth: leaves", ""),
        ("judge_two", "", ""),
        (
            "judge_three",
            "depth: leaves",
            "'three' quotes 'two', and no row of 'one' or of another input of later, so it backs up nothing; add the",
        ),
        (
            "judge_three",
            "",
            "'three' quotes 'two', and no row of 'one', so it backs up nothing; use depth: leaves, and",
        ),
        ("judge_one", "", "'one' quotes no rows, and no row of 'one', so it backs up nothing; leave it out of later"),
    ],
)
def test_a_later_stage_that_quotes_none_of_the_rows_is_a_line_of_the_check(
    read: ReadGame, later: str, params: str, message: str
) -> None:
    found = map(str, check(read(TREE.format(later=later, params=params)).graph))
    problems = [problem for problem in found if problem.startswith("nodes.credit")]  # rewards may be left unread
    expected = [f"nodes.credit: {message}"] if message else []
    assert [problem[: len(line)] for problem, line in zip(problems, expected, strict=True)] == expected


def test_no_rows(family: Family, log: Log) -> None:
    answers, critiques, finals = family
    none = answers.take([])
    assert len(BackupAdvantage().run(none, [finals], log=log)) == 0
    actual = backed_up(answers, [critiques.take([]), finals.take([])])
    assert actual["children"] == [0, 0, 0]
    assert actual["value"] == list(ANSWERS.values())


rewards = st.sampled_from([0.0, 0.1, 0.3, 1.0, -2.0, NAN])
SHARED = {"stage": 0, "task_id": ["t/0", "t/0", "t/1", "t/1"], "group_id": ["g0", "g0", "g1", "g1"]}
finals = st.lists(st.tuples(rewards, st.sets(st.sampled_from(["id0", "id1", "id2", "id3"])), st.booleans()), max_size=9)
hows = st.sampled_from(["mean", "max", "difference"])

DrawnFinal = tuple[float, set[str], bool]  # its reward, the ids that it quotes, whether it is of the second task
Drawn = Callable[[list[float], list[DrawnFinal]], tuple[Rollouts, Rollouts, list[list[str]]]]


@pytest.fixture(scope="module")
def drawn(make_rollouts: MakeRollouts) -> Drawn:
    """Build four answers to two tasks, and later rows that quote answers to their own task."""

    def of(own: list[float], drawn_finals: list[DrawnFinal]) -> tuple[Rollouts, Rollouts, list[list[str]]]:
        tasks = [f"t/{int(second)}" for _, _, second in drawn_finals]
        parents = [
            sorted(quoted & ({"id2", "id3"} if task == "t/1" else {"id0", "id1"}))
            for (_, quoted, _), task in zip(drawn_finals, tasks, strict=True)
        ]
        names = [f"f{at}" for at in range(len(drawn_finals))]
        later = make_rollouts(
            ["y"] * len(drawn_finals), id=names, stage=2, node="final", task_id=tasks, parent_ids=parents
        )
        answers = score(make_rollouts(["x"] * 4, **SHARED), {"t": own})
        return answers, score(later, {"t": [reward for reward, _, _ in drawn_finals]}), parents

    return of


@given(own=st.lists(rewards, min_size=4, max_size=4), drawn_finals=finals, how=hows)
def test_against_a_plain_reading_of_the_definition(
    drawn: Drawn, own: list[float], drawn_finals: list[DrawnFinal], how: Literal["mean", "max", "difference"]
) -> None:
    answers, later, parents = drawn(own, drawn_finals)
    expected = []
    for id, task in zip(answers.values("id"), answers.values("task_id"), strict=True):
        judged = [
            (reward, id in quoted)
            for (reward, _, _), quoted, of in zip(drawn_finals, parents, later.values("task_id"), strict=True)
            if of == task and np.isfinite(reward)
        ]
        children = [reward for reward, quotes in judged if quotes]
        others = [reward for reward, quotes in judged if not quotes]
        if not children or (how == "difference" and not others):
            expected.append(NAN)
        else:
            value = max(children) if how == "max" else fmean(children)
            expected.append(value - fmean(others) if how == "difference" else value)
    np.testing.assert_allclose(backed_up(answers, [later], how=how)["backed_up"], expected, atol=1e-12)


@given(
    own=st.lists(rewards, min_size=4, max_size=4),
    drawn_finals=finals,
    how=hows,
    order=st.permutations(range(4)),
    seed=st.integers(0, 9),
)
def test_the_order_of_rows_changes_no_bit(
    drawn: Drawn,
    own: list[float],
    drawn_finals: list[DrawnFinal],
    how: Literal["mean", "max", "difference"],
    order: list[int],
    seed: int,
) -> None:
    answers, later, _ = drawn(own, drawn_finals)
    shuffled = later.take(np.random.default_rng(seed).permutation(len(later)))
    straight = backed_up(answers, [later], how=how)
    mixed = backed_up(answers.take(order), [shuffled], how=how)
    np.testing.assert_array_equal(np.asarray(straight["value"])[list(order)], mixed["value"])
    np.testing.assert_allclose(straight["advantage"][list(order)], mixed["advantage"], atol=1e-12)


@given(
    own=st.lists(rewards, min_size=4, max_size=4),
    drawn_finals=finals,
    how=hows,
    scale=st.sampled_from(["group", "batch", "none"]),
    leave_one_out=st.booleans(),
)
def test_without_what_is_backed_up_it_is_advantage_group(
    drawn: Drawn,
    own: list[float],
    drawn_finals: list[DrawnFinal],
    how: Literal["mean", "max", "difference"],
    scale: Literal["group", "batch", "none"],
    leave_one_out: bool,
) -> None:
    answers, later, _ = drawn(own, drawn_finals)
    params = {"scale": scale, "leave_one_out": leave_one_out, "scope": "task"}
    logs = Log(), Log()
    actual = BackupAdvantage(how=how, backed_up=0.0, **params).run(answers, [later], log=logs[0])
    expected = GroupAdvantage(**params).run(answers, log=logs[1])
    np.testing.assert_array_equal(actual.numpy("advantage"), expected.numpy("advantage"))
    assert logs[1].metrics.items() <= logs[0].metrics.items()


def test_equal_evidence_in_unequal_numbers_is_no_variance(make_rollouts: MakeRollouts) -> None:
    parents = [["id0"]] * 3 + [["id1"]]
    finals = make_rollouts(["y"] * 4, id=list("wxyz"), stage=1, parent_ids=parents)
    answers = score(make_rollouts(["x"] * 2), {"t": [0.0, 0.0]})
    actual = backed_up(answers, [score(finals, {"t": [0.1, 0.1, 0.1, 0.1]})])
    assert actual["advantage"].tolist() == [0.0, 0.0]
    assert actual["metrics"]["groups_with_variance"] == 0


def test_marks_stay_and_params_are_bounded(family: Family) -> None:
    answers, _, finals = family
    assert PEER in BackupAdvantage().run(answers.marked(PEER), [finals], log=Log()).marks
    for wrong in ({"discount": 1.5}, {"own": float("inf")}, {"how": "sum"}, {"childless": "zero"}):
        with pytest.raises(ParamError):
            BackupAdvantage(**wrong)


def test_the_check_wants_scored_rows_with_a_lineage(read: ReadGame) -> None:
    loaded = read("""
graph: g
version: 1
carry: {policy: {type: policy.tiny_lm, next: update}}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a}]}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}}
  final: {type: generate.chat, inputs: {tasks: tasks, policy: policy, context: {answers: answer}}}
  score: {type: reward.regex, inputs: {rollouts: answer}, params: {pattern: a}}
  credit: {type: advantage.backup, inputs: {scored: score, later: [final, tasks]}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
""")
    problems = "\n".join(map(str, check(loaded.graph)))
    assert "nodes.credit.later.0: wants Scored, but 'final' gives Rollouts" in problems
    assert "nodes.credit.later.1: wants Scored, but 'tasks' gives Tasks" in problems
    assert isinstance(loaded.graph, Graph)
