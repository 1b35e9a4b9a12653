"""`reward.weighted_sum`: weights, clips, warm-up, unjudged terms and mismatched inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts, ReadGame
from hypothesis import given
from hypothesis import strategies as st
from toys import Centred, Draw, Matches, Numbers, Parity, ToyPolicyCarry

from genrl_graph import Frame, Graph, Rollouts, play, score
from genrl_graph.contract.resources import Log
from genrl_graph.dag.infer import infer
from genrl_graph.edge_types.edge_type import PEER, SCORED
from genrl_graph.errors import ColumnError, ParamError, RewardFailed
from genrl_graph.graph_file.dump import dump
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.weighted_sum import TermWeight, WeightedSum
from genrl_graph.store.run_store import RunStore

NAN = float("nan")


class Tagged(Frame):
    """A row type other than rollouts."""

    columns = {"id": Rollouts.columns["id"]}


def judged(ids: str = "abc", **terms: list[float]) -> Tagged:
    return score(Tagged.from_columns({"id": list(ids)}), terms)


def summed(*inputs: Frame, round: int = 0, log: Log | None = None, **params: Any) -> list[float]:
    node = WeightedSum(**params)
    rows = node.run(list(inputs), round=round, log=log or Log())
    assert type(rows) is type(inputs[0]) and SCORED in rows.marks
    values: list[float] = rows.values("reward")
    return values


def test_terms_side_by_side_are_weighted_and_joined_by_id() -> None:
    first, second = judged(good=[1.0, 2.0, 3.0]), judged("cab", long=[30.0, 10.0, 20.0])
    assert summed(first, second, terms={"good": {"weight": 2.0}, "long": 0.1}) == [3.0, 6.0, 9.0]
    assert summed(first, second, terms={"long": -1}, others=0.5) == [-9.5, -19.0, -28.5]
    rows = WeightedSum(others=1).run([first, second], round=0, log=Log())
    assert rows.values("reward_long") == [10.0, 20.0, 30.0]
    assert rows.values("reward_good") == [1.0, 2.0, 3.0]


def test_the_weights_of_a_chain_no_longer_count() -> None:
    chain = score(score(judged(a=[1.0, 2.0, 3.0]), {"b": [1.0] * 3}, weights={"b": 10.0}), {"c": [0.0] * 3})
    assert summed(chain, others=1) == [2.0, 3.0, 4.0]


def test_clips_are_of_the_term_and_told() -> None:
    log, rows = Log(), judged(a=[-5.0, 0.5, NAN], b=[7.0, -7.0, 1.0])
    terms = {"a": {"clip": [-1, 1], "weight": 2}, "b": {"clip": [None, 3]}}
    assert summed(rows, terms=terms, on_nan="skip_term", log=log) == [1.0, -6.0, 1.0]
    assert log.metrics["clipped_a"] == 0.5 and log.metrics["clipped_b"] == pytest.approx(1 / 3)


def test_a_term_starts_late_and_warms_up() -> None:
    rows = judged("a", base=[1.0], late=[10.0])
    terms = {"base": 1, "late": {"weight": 0.5, "start_round": 2, "warmup_rounds": 4}}
    rewards = [summed(rows, terms=terms, round=round)[0] for round in range(9)]
    assert rewards == [1.0, 1.0, 1.0, 2.25, 3.5, 4.75, 6.0, 6.0, 6.0]
    log = Log()
    summed(rows, terms=terms, round=4, log=log)
    assert (log.metrics["weight_base"], log.metrics["weight_late"]) == (1.0, 0.25)


def test_what_could_not_be_judged() -> None:
    rows = judged("abcd", a=[1.0, NAN, NAN, float("inf")], b=[1.0, 1.0, NAN, 1.0], seen=[NAN, 1.0, 1.0, 1.0])
    terms = {"a": 1, "b": 1, "seen": 0}
    assert np.array_equal(summed(rows, terms=terms), [2.0, NAN, NAN, NAN], equal_nan=True)
    skipping = summed(rows, terms=terms, on_nan="skip_term")
    assert np.array_equal(skipping, [2.0, 1.0, NAN, 1.0], equal_nan=True), "a term of weight 0 judges nothing"
    late = {"a": {"start_round": 5}, "b": 1, "seen": 0}
    assert np.array_equal(summed(rows, terms=late), [1.0, NAN, NAN, NAN], equal_nan=True), "one that warms up does"


def test_too_many_rows_left_out_fail() -> None:
    rows = judged("abc", a=[1.0, NAN, NAN], b=[NAN, 1.0, NAN])
    message = r"2 of 2 rows have a term that could not be judged, most often 'a' .*0\.99; mend it, or set on_nan"
    with pytest.raises(RewardFailed, match=message):
        summed(rows, others=1)
    assert np.isnan(summed(rows, others=1, max_unjudged=1)).all()
    assert np.array_equal(summed(rows, others=1, on_nan="skip_term"), [1.0, 1.0, NAN], equal_nan=True)
    assert summed(judged("", a=[]), others=1) == []


@pytest.mark.parametrize(
    ("inputs", "params", "message"),
    [
        ([judged(a=[1.0] * 3), judged(a=[1.0] * 3)], {}, "the term 'a' is in two inputs; give one .* another `term`"),
        ([judged(a=[1.0] * 3), judged("abd", b=[1.0] * 3)], {}, r"input 1 lacks \['c'\] of 3 and 3 rows; .*before"),
        ([judged(a=[1.0] * 3), judged("dcba", b=[1.0] * 4)], {}, r"only input 1 has \['d'\]"),
        ([judged("aab", a=[1.0] * 3), judged("abb", b=[1.0] * 3)], {}, "ids stand twice"),
        ([judged(length=[1.0] * 3)], {"terms": {"lenght": 1}}, r"terms\.lenght: no input .*did you mean 'length'"),
        ([judged(a=[1.0] * 3, b=[1.0] * 3)], {"terms": {"a": 1}, "others": None}, "the term 'b' is not in `terms`"),
    ],
)
def test_what_does_not_fit_is_told(inputs: list[Frame], params: dict[str, Any], message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        summed(*inputs, **{"others": 1.0} | params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no term counts"),
        ({"terms": {"a": 0}}, "no term counts"),
        ({"terms": {"a": {"clip": [1, 0]}}}, r"terms\.a\.?.*clip is \[1\.0, 0\.0\]; write \[low, high\]"),
        ({"terms": {"a": {"clip": [None, None]}}}, "write .low, high."),
        ({"terms": {"a": {"wieght": 2}}}, "wieght"),
        ({"terms": {"a b": 2}}, "letters, digits"),
        ({"terms": {"a": NAN}}, "finite"),
    ],
)
def test_wrong_params_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        WeightedSum(**params)


NUMBERS = st.one_of(st.floats(-1e3, 1e3), st.just(NAN))


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6),
    st.tuples(st.floats(0.1, 5), st.floats(-5, -0.1)),
    st.permutations(range(6)),
    st.sampled_from(["leave_out", "skip_term"]),
)
def test_the_sum_is_that_of_a_loop(
    values: list[tuple[float, float]], weights: tuple[float, float], order: list[int], on_nan: str
) -> None:
    ids = "abcdef"[: len(values)]
    moved = [at for at in order if at < len(values)]
    first = judged(ids, a=[a for a, _ in values])
    second = judged("".join(ids[at] for at in moved), b=[values[at][1] for at in moved])
    terms = dict(zip("ab", weights, strict=True))
    given = summed(first, second, terms=terms, on_nan=on_nan, max_unjudged=1)
    for row, total in zip(values, given, strict=True):
        known = [weight * value for value, weight in zip(row, weights, strict=True) if value == value]
        enough = len(known) == 2 or (known and on_nan == "skip_term")
        assert total == pytest.approx(sum(known)) if enough else np.isnan(total)


def game() -> Graph:
    graph = Graph("summed")
    policy, tasks = graph.carry("policy", ToyPolicyCarry()), graph.add("tasks", Numbers())
    answer = graph.add("answer", Draw(), tasks=tasks, policy=policy)
    parity = graph.add("parity", Parity(), rollouts=answer)
    match = graph.add("match", Matches(), rollouts=answer)
    terms = {"even": TermWeight(weight=2.0, clip=(0.0, 0.5)), "match": TermWeight(warmup_rounds=2)}
    total = graph.add("total", WeightedSum(terms=terms, others=0), scored=[parity, match])
    graph.add("credit", Centred(), scored=total)
    return graph


def test_a_game_stores_the_sum_and_nothing_twice(tmp_path: Path) -> None:
    store = RunStore.open(play(game(), out=tmp_path / "run", rounds=3, quiet=True).folder)
    table = store.table("total")
    assert {"reward"} == set(table.column_names) - {"id", "round", "holder"}
    even = store.table("parity").column("reward_even").to_numpy()
    match = store.table("match").column("reward_match").to_numpy()
    factor = np.clip(table.column("round").to_numpy() / 2, 0, 1)
    assert np.array_equal(table.column("reward").to_numpy(), 2.0 * np.clip(even, 0.0, 0.5) + factor * match)
    assert table.column("id").to_pylist() == store.table("answer").column("id").to_pylist()


def test_the_yaml_of_the_game_is_the_game(read: ReadGame) -> None:
    loaded = read(dump(game()))
    assert loaded.problems == ()
    assert dump(loaded.graph) == dump(game())
    assert loaded.graph.nodes["total"].node == game().nodes["total"].node


def test_the_type_is_what_all_inputs_have(make_rollouts: MakeRollouts) -> None:
    graph = game()
    gathered = graph.add("gathered", Gather(min_peers=1), rows=graph.output("answer"))
    peers = graph.add("peers", Parity(), rollouts=gathered)
    others = graph.add("others", Matches(), rollouts=gathered)
    graph.add("all_peers", WeightedSum(others=1), scored=[peers, others])
    graph.add("mixed", WeightedSum(others=1), scored=[peers, graph.output("match")])
    types = {name: str(edge) for name, edge in infer(graph).items()}
    assert (types["total"], types["all_peers"], types["mixed"]) == ("Scored", "Peer[Scored]", "Scored")
    rows = make_rollouts(["x"])
    mixed = [score(rows.marked(PEER), {"a": [1.0]}), score(rows, {"b": [1.0]})]
    assert WeightedSum(others=1).run(mixed, round=0, log=Log()).values("reward") == [2.0]
