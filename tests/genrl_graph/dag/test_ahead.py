"""Steps that are played ahead with `run.pipeline_depth: 1`: the plan says so, and what cannot be is refused."""

import pytest
from toys import Add, Centred, Draw, Numbers, Parity, ReadTotal, Step, TotalCarry, ToyPolicyCarry

from genrl_graph import Graph
from genrl_graph.dag.plan import schedule_text
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import GraphError
from genrl_graph.nodes.exchange.gather import Gather


def two_stages(*, per_stage: bool, **run: int) -> Graph:
    """Two stages; the second reads the policy from the carry, or with `per_stage` from the update of the first."""
    g = Graph("two", run=RunConfig(pipeline_depth=1, **run))
    policy = g.carry("policy", ToyPolicyCarry(bias=3))
    tasks = g.add("tasks", Numbers())
    answer = g.add("answer", Draw(), tasks=tasks, policy=policy)
    answers = g.add("answers", Gather(min_peers=1), rows=answer)
    credit = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=answer))
    if per_stage:
        policy = g.add("early", Step(), policy=policy, credited=[credit])
    final = g.add("final", Draw(), tasks=tasks, policy=policy, seen=answers)
    last = g.add("last", Centred(), scored=g.add("judge", Parity(), rollouts=final))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[last] if per_stage else [credit, last]))
    return g


def test_generators_exchanges_and_what_they_need_are_played_first() -> None:
    schedule = compile_graph(two_stages(per_stage=False))
    ahead, after = schedule.parts()
    assert [str(step) for step in ahead] == ["tasks", "answer", "open answers", "close answers", "final"]
    assert [str(step) for step in after] == ["score", "credit", "judge", "last", "update"]
    assert not [step for step in after if step.beside], "there is no generator left to run beside"


def test_the_plan_says_which_steps_and_which_weights() -> None:
    lines = schedule_text(compile_graph(two_stages(per_stage=False))).splitlines()
    told = lines.index("the steps above are played for the next round, beside those below")
    assert "final" in lines[told - 1]
    assert lines[told - 1].endswith("weights of policy (start of the round before)")
    assert "weights of policy (round's start)" in next(line for line in lines if " update " in line)


def test_without_it_the_order_is_as_ever() -> None:
    g = two_stages(per_stage=False)
    g.run = g.run.model_copy(update={"pipeline_depth": 0})
    schedule = compile_graph(g)
    assert schedule.parts() == ([], schedule.steps)
    assert "round before" not in schedule_text(schedule)


def refused(graph: Graph) -> list[str]:
    with pytest.raises(GraphError) as error:
        compile_graph(graph)
    return str(error.value).splitlines()


def test_a_stage_that_waits_for_an_update_is_refused() -> None:
    why = "run.pipeline_depth is 1, but generators or exchanges read 'early' in the same round"
    assert refused(two_stages(per_stage=True)) == [f"nodes.early: {why}; set it to 0, or wire the carry"]


def test_ranks_that_share_a_policy_are_refused() -> None:
    told = refused(two_stages(per_stage=False, replicas=2))
    assert "run.pipeline_depth: is 1, but the 2 ranks of a peer compute in step; set it to 0" in told


def test_a_value_that_changes_in_place_and_has_no_copy_is_refused() -> None:
    g = Graph("total", run=RunConfig(pipeline_depth=1))
    policy, total = g.carry("policy", ToyPolicyCarry(bias=3)), g.carry("total", TotalCarry())
    tasks = g.add("tasks", Numbers())
    first = g.add("first", Draw(), tasks=tasks, policy=policy)
    few = g.add("few", ReadTotal(), rows=first, total=total)
    shared = g.add("shared", Gather(min_peers=1), rows=few)
    credit = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=shared))
    update = g.add("update", Step(), policy=policy, credited=[credit])
    g.next_round(policy=update, total=g.add("count", Add(), total=total, rows=[shared]))
    why = "run.pipeline_depth is 1, but 'total' changes in place while this reads it for the next round"
    assert refused(g) == [f"nodes.few.total: {why}; set it to 0"]
