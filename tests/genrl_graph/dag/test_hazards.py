"""Every reader of a policy version runs before the update that replaces it, or the graph is refused."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from toys import ToyPolicy

from genrl_graph import Generator, Policy, Rollouts, Select, Tasks, TextPolicy, Update
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.graph_file.read import Loaded

Read = Callable[[str], Loaded]


class TextCarry(PolicyCarry, name="test_text"):
    """A policy over texts; no test initialises it."""

    def init(self, name: str, *, seed: int) -> TextPolicy:
        raise NotImplementedError


class TextStep(Update, name="test_text_step"):
    """Trains a policy over texts."""

    def run(self, policy: TextPolicy, rows: list[Rollouts]) -> TextPolicy:
        return policy


class TextDraw(Generator, name="test_text_draw"):
    """Generates with a policy over texts."""

    def run(self, tasks: Tasks, policy: TextPolicy) -> Rollouts:
        return Rollouts.empty()


class Judge(Select, name="test_critic"):
    """Selects rows by a policy."""

    def run(self, rows: Rollouts, critic: Policy) -> Rollouts:
        return rows


class Versus(Update, name="test_versus"):
    """Trains one policy and reads another."""

    def run(self, policy: ToyPolicy, other: ToyPolicy, rows: list[Rollouts]) -> ToyPolicy:
        return policy


class Two(NamedTuple):
    """Two policies."""

    first: ToyPolicy
    second: ToyPolicy


class StepTwo(Update, name="test_two"):
    """Trains two policies at once."""

    def run(self, first: ToyPolicy, second: ToyPolicy, rows: list[Rollouts]) -> Two:
        return Two(first, second)


class Distil(Update, name="test_distil"):
    """Trains a student on a teacher that is only read; the student is the first input."""

    def run(self, student: ToyPolicy, teachers: list[ToyPolicy], rows: list[Rollouts]) -> ToyPolicy:
        return student


HEAD = """\
graph: game
version: 1
carry:
  a: {type: policy.toy, next: A_NEXT}
  b: {type: policy.toy, next: B_NEXT}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: a}}
"""


def game(*nodes: str, a: str = "", b: str = "") -> str:
    """Return a graph file with two policies, a generator that reads `a`, and `nodes` (`name: type(input=ref, ...)`)."""
    text = HEAD.replace(", next: A_NEXT", f", next: {a}" if a else "").replace(
        ", next: B_NEXT", f", next: {b}" if b else ""
    )
    for node in nodes:
        name, rest = node.split(": ")
        kind, inputs = rest.rstrip(")").split("(")
        wires = inputs.replace("=", ": ")
        text += f"  {name}: {{type: {kind}, inputs: {{{wires}}}}}\n"
    return text


UP = "up: update.test_distil(student=a, teachers=[b], rows=[answer])"


def order(read: Read, text: str) -> list[str]:
    loaded = read(text)
    assert loaded.lines() == []
    return [str(step) for step in compile_graph(loaded.graph).steps]


def refused(read: Read, text: str) -> list[str]:
    return [str(problem) for problem in read(text).problems]


def test_readers_written_after_the_update_run_before_it(read: Read) -> None:
    text = game(
        UP, "late: generate.toy_draw(tasks=tasks, policy=a)", "more: select.test_critic(rows=late, critic=a)", a="up"
    )
    steps = order(read, text)
    assert steps.index("up") > max(steps.index("late"), steps.index("more"), steps.index("answer"))


def test_readers_of_the_new_weights_run_after_the_update(read: Read) -> None:
    text = game("late: generate.toy_draw(tasks=tasks, policy=up)", UP, a="up")
    assert order(read, text) == ["tasks", "answer", "up", "late"]


def test_an_update_for_each_stage_is_a_chain(read: Read) -> None:
    text = game(
        UP,
        "late: generate.toy_draw(tasks=tasks, policy=up)",
        "again: update.test_distil(student=up, teachers=[b], rows=[late])",
        "check: select.test_critic(rows=answer, critic=up)",
        a="again",
    )
    steps = order(read, text)
    assert steps.index("check") < steps.index("again")
    assert steps.index("up") < steps.index("check")


def test_two_updates_of_one_version_are_refused(read: Read) -> None:
    text = game(UP, "up2: update.test_distil(student=a, teachers=[b], rows=[answer])", a="up")
    assert refused(read, text) == [
        "nodes.up2: what this updates is neither read nor carried; write `next: up2` under its carry, or remove it",
        "nodes.up2.student: 'up2' and 'up' both replace the weights of 'a'; chain them (read 'up') or take a "
        "policy.fork of it",
    ]
    both_kept = game(UP, "up2: update.test_distil(student=a, teachers=[b], rows=[answer])", a="up", b="up2")
    assert [line.split(":")[0] for line in refused(read, both_kept)] == ["nodes.up2.student"]


def test_a_fork_lets_two_updates_stand_side_by_side(read: Read) -> None:
    text = game(
        UP,
        "copy: policy.toy_fork(policy=a)",
        "up2: update.test_distil(student=copy, teachers=[b], rows=[answer])",
        a="up",
        b="up2",
    )
    steps = order(read, text)
    assert steps.index("copy") < steps.index("up")
    assert steps.index("copy") < steps.index("up2")


def test_a_reader_that_needs_the_updates_result_cannot_read_the_old_version(read: Read) -> None:
    text = game(
        UP,
        "late: generate.toy_draw(tasks=tasks, policy=up)",
        "judge: select.test_critic(rows=late, critic=a)",
        a="up",
    )
    assert refused(read, text) == [
        "nodes.judge.critic: reads the weights of 'a', but comes after 'up', which replaces them; read 'up' instead or "
        "take a policy.fork of it before the update"
    ]


def test_a_fork_before_the_update_keeps_the_old_version(read: Read) -> None:
    text = game(
        UP,
        "late: generate.toy_draw(tasks=tasks, policy=up)",
        "judge: select.test_critic(rows=late, critic=old)",
        "old: policy.toy_fork(policy=a)",
        a="up",
    )
    steps = order(read, text)
    assert steps.index("old") < steps.index("up") < steps.index("judge")


def test_an_update_may_not_read_on_the_side_what_it_replaces(read: Read) -> None:
    text = game("up: update.test_distil(student=a, teachers=[a], rows=[answer])", a="up")
    assert refused(read, text) == [
        "nodes.up.teachers.0: reads the weights of 'a' that 'up' itself replaces; take a policy.fork of it before the "
        "update"
    ]
    forked = game(
        "up: update.test_distil(student=a, teachers=[old], rows=[answer])", "old: policy.toy_fork(policy=a)", a="up"
    )
    assert order(read, forked) == ["tasks", "answer", "old", "up"]


def test_a_frozen_policy_may_not_be_updated(read: Read) -> None:
    assert refused(read, game(UP)) == [
        "carry.a: is frozen without `next`, but updated; write `next: up`, or let the update take a policy.fork of it"
    ]


def test_a_frozen_policy_is_told_the_last_of_its_updates(read: Read) -> None:
    text = game(UP, "up2: update.test_distil(student=up, teachers=[b], rows=[answer])")
    (problem,) = refused(read, text)
    assert "carry.a: is frozen without `next`, but updated; write `next: up2`" in problem


def test_a_frozen_policy_may_be_read_and_forked(read: Read) -> None:
    text = game(
        "copy: policy.toy_fork(policy=a)", "up: update.test_distil(student=copy, teachers=[a], rows=[answer])", b="up"
    )
    assert order(read, text) == ["tasks", "answer", "copy", "up"]


def test_a_carry_may_not_keep_a_version_that_is_replaced(read: Read) -> None:
    text = game(UP, "up2: update.test_distil(student=up, teachers=[b], rows=[answer])", a="up", b="up2")
    assert refused(read, text) == [
        "carry.a.next: 'up' is replaced before the round ends; write `next: up2`, or let the update take a policy.fork "
        "of it",
    ]


def test_two_carries_may_not_keep_one_value(read: Read) -> None:
    assert refused(read, game(UP, a="up", b="up")) == [
        "carry.b.next: 'up' is kept by 'a' too, and an update of one would change both; take a policy.fork of it"
    ]
    assert refused(read, game(a="b")) == [
        "carry.b: 'b' is kept by 'a' too, and an update of one would change both; take a policy.fork of it"
    ]


def test_two_carries_may_change_places(read: Read) -> None:
    assert order(read, game(a="b", b="a")) == ["tasks", "answer"]


def test_two_policies_that_train_on_one_another_are_a_ring(read: Read) -> None:
    ring = (
        "up: update.test_versus(policy=a, other=b, rows=[answer])",
        "up2: update.test_versus(policy=b, other=a, rows=[answer])",
    )
    assert refused(read, game(*ring, a="up", b="up2")) == [
        "nodes.up2.other: no order lets every reader of a policy come before its update: up -> up2 -> up; let 'up2' "
        "take a policy.fork of 'a'"
    ]


def test_a_fork_opens_the_ring(read: Read) -> None:
    text = game(
        "up: update.test_versus(policy=a, other=b, rows=[answer])",
        "up2: update.test_versus(policy=b, other=old, rows=[answer])",
        "old: policy.toy_fork(policy=a)",
        a="up",
        b="up2",
    )
    assert order(read, text) == ["tasks", "answer", "old", "up", "up2"]


def test_a_chain_that_reads_the_other_ones_new_weights_is_no_ring(read: Read) -> None:
    text = game(
        "up2: update.test_versus(policy=b, other=up, rows=[answer])",
        "up: update.test_versus(policy=a, other=b, rows=[answer])",
        a="up",
        b="up2",
    )
    assert order(read, text) == ["tasks", "answer", "up", "up2"]


def test_one_update_of_two_policies_replaces_both(read: Read) -> None:
    nodes = (
        "up: update.test_two(first=a, second=b, rows=[answer])",
        "judge: select.test_critic(rows=answer, critic=b)",
    )
    steps = order(read, game(*nodes, a="up.first", b="up.second"))
    assert steps.index("judge") < steps.index("up")
    assert refused(read, game(*nodes, a="up.first")) == [
        "carry.b: is frozen without `next`, but updated; write `next: up.second`, or let the update take a policy.fork "
        "of it"
    ]
    (problem,) = refused(
        read, game("up: update.test_two(first=a, second=a, rows=[answer])", a="up.first", b="up.second")
    )
    assert problem.startswith("nodes.up.second: reads the weights of 'a' that 'up' itself replaces")


def test_a_ring_through_an_exchange_is_refused(read: Read) -> None:
    text = game(
        UP,
        "late: generate.toy_draw(tasks=tasks, policy=up, seen=all)",
        "judge: select.test_critic(rows=kept, critic=a)",
        "kept: select.toy_named(rows={x=late})",
        a="up",
    ).replace("nodes:\n", "nodes:\n  all: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}\n")
    (problem,) = refused(read, text)
    assert problem.startswith("nodes.judge.critic: reads the weights of 'a', but comes after 'up'")


def test_other_carried_values_are_ordered_like_policies(read: Read) -> None:
    text = """\
graph: game
version: 1
carry:
  total: {type: carry.toy_total, next: add}
  policy: {type: policy.toy}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  add: {type: update.toy_add, inputs: {total: total, rows: [answer]}}
  kept: {type: select.toy_read_total, inputs: {rows: answer, total: total}}
"""
    assert order(read, text) == ["tasks", "answer", "kept", "add"]
    late = text.replace("{rows: answer, total: total}", "{rows: more, total: total}")
    late += "  more: {type: select.toy_read_total, inputs: {rows: answer, total: add}}\n"
    (problem,) = refused(read, late)
    assert problem.startswith("nodes.kept.total: reads the weights of 'total', but comes after 'add'")


def test_values_that_never_change_are_in_nobodys_way(read: Read) -> None:
    text = """\
graph: game
version: 1
carry:
  rule: {type: carry.toy_rule}
  again: {type: carry.toy_rule, next: rule}
  policy: {type: policy.toy}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  kept: {type: select.toy_follow, inputs: {rows: answer, rule: rule}}
"""
    assert order(read, text) == ["tasks", "answer", "kept"]


def test_the_fork_of_the_library_takes_any_policy(read: Read) -> None:
    text = """\
graph: game
version: 1
carry:
  policy: {type: policy.test_text, next: up}
  twin: {type: policy.test_text, next: up2}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.test_text_draw, inputs: {tasks: tasks, policy: policy}}
  up: {type: update.test_text_step, inputs: {policy: policy, rows: [answer]}}
  up2: {type: update.test_text_step, inputs: {policy: copy, rows: [answer]}}
  copy: {type: policy.fork, inputs: {policy: policy}}
"""
    assert order(read, text) == ["tasks", "answer", "copy", "up", "up2"]
    (problem,) = refused(
        read,
        text.replace("{policy: copy, rows", "{policy: policy, rows")
        + "  x: {type: policy.fork, inputs: {policy: answer}}\n",
    )[1:]
    assert problem == (
        "nodes.x.policy: wants Policy, but 'answer' gives Rollouts; nodes that give Policy: policy, twin, up, up2, copy"
    )


def test_hazards_are_told_besides_other_problems(read: Read) -> None:
    text = game(UP, "up2: update.test_distil(student=a, teachers=[b], rows=[anwser])", a="up", b="up2")
    assert [line.split(":")[0] for line in refused(read, text)] == ["nodes.up2.student", "nodes.up2.rows.0"]


@pytest.mark.parametrize("update", ["toy_step", "test_distil"])
def test_an_update_that_leads_nowhere_is_refused(read: Read, update: str) -> None:
    inputs = {"toy_step": "policy=copy, credited=[credit]", "test_distil": "student=copy, teachers=[b], rows=[answer]"}
    text = game(
        f"up: update.{update}({inputs[update]})",
        "copy: policy.toy_fork(policy=a)",
        "score: reward.toy_parity(rollouts=answer)",
        "credit: advantage.toy_centred(scored=score)",
    )
    assert refused(read, text) == [
        "nodes.up: what this updates is neither read nor carried; write `next: up` under its carry, or remove it"
    ]
