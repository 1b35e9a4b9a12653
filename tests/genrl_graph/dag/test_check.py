"""Every rule of the check is reported once, in one line: the place, the fault and the remedy."""

import time
from collections.abc import Callable

import pytest
from toys import TOY_GAME, Draw, Matches, Numbers, Parity, ToyPolicyCarry

from genrl_graph import Generator, Graph, PeerRollouts, Reward, Rollouts, Scored, Tasks, score
from genrl_graph.dag.check import check
from genrl_graph.dag.graph import Part
from genrl_graph.dag.problems import Problem
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import Loaded, read_document

OWN = "; a type of your own needs --import FILE"

Read = Callable[[str], Loaded]


class Critique(Generator, name="test_critique"):
    """Names the best of the answers."""

    def run(self, tasks: Tasks, answers: PeerRollouts) -> Rollouts:
        return Rollouts.empty()


class Choice(Reward, name="test_choice"):
    """Pays for naming an answer."""

    def run(self, rollouts: Rollouts, answers: PeerRollouts) -> Scored[Rollouts]:
        return score(rollouts, {})


GAME = """\
graph: game
version: 1
carry:
  policy: {type: policy.toy, next: update}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  answers: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}
  critique: {type: generate.test_critique, inputs: {tasks: tasks, answers: answers}}
  critiques: {type: exchange.gather, inputs: {rows: critique}, params: {min_peers: 1}}
  final: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy, seen: critiques}}
  score_critique: {type: reward.test_choice, inputs: {rollouts: critique, answers: answers}}
  credit: {type: advantage.toy_centred, inputs: {scored: score_critique}}
  update: {type: update.toy_step, inputs: {policy: policy, credited: [credit]}}
"""


def texts(read: Read, text: str) -> list[str]:
    """Return the problems of a graph file without their positions."""
    return [str(problem) for problem in read(text).problems]


def swap(*pairs: tuple[str, str]) -> str:
    text = GAME
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_a_correct_game_has_no_problems(read: Read) -> None:
    assert texts(read, GAME) == []
    assert check(read(TOY_GAME).graph) == []


def test_the_examples_of_the_design_are_told_word_by_word(read: Read) -> None:
    assert read(swap(("seen: critiques", "seen: critique_s"))).lines() == [
        "game.yaml:11:81 nodes.final.seen: no node or carry named 'critique_s' (did you mean 'critiques'?)"
    ]
    assert texts(read, swap(("rollouts: critique, answers: answers", "rollouts: critique, answers: answer"))) == [
        "nodes.score_critique.answers: wants PeerRollouts, but 'answer' gives Rollouts; nodes that give PeerRollouts: "
        "answers, critiques"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("[credit]}", "[]}"),
            ["nodes.update.credited: is empty; name at least one output"],
        ),
        (
            ("rollouts: critique, answers", "rollouts: '', answers"),
            [
                "nodes.score_critique.rollouts: no node or carry named ''; there are policy, tasks, answer, answers, "
                "critique, critiques, final, score_critique, credit, update"
            ],
        ),
        (
            ("[credit]}", "[credit, final]}"),
            ["nodes.update.credited.1: wants Credited, but 'final' gives Rollouts; nodes that give Credited: credit"],
        ),
        (
            ("[credit]}", "{a: credit}}"),
            ["nodes.update.credited: takes a list of outputs; write [first, second], without names"],
        ),
        (
            ("{scored: score_critique}", "{scored: final}"),
            [
                "nodes.credit.scored: wants Scored[Frame], but 'final' gives Rollouts; nodes that give Scored[Frame]: "
                "score_critique",
            ],
        ),
        (
            ("seen: critiques}", "seen: answers}"),
            ["nodes.critiques: nothing reads this exchange; peers would wait for it in vain: remove it"],
        ),
        (
            ("next: update}", "next: credit}"),
            [
                "carry.policy.next: wants ToyPolicy, but 'credit' gives Credited; nodes that give ToyPolicy: policy, "
                "update",
                "nodes.update: what this updates is neither read nor carried; write `next: update` under its carry, or "
                "remove it",
            ],
        ),
        (
            ("next: update}", "next: updaet}"),
            ["carry.policy.next: no node or carry named 'updaet' (did you mean 'update'?)"],
        ),
        (
            (", next: update}", "}"),
            [
                "carry.policy: is frozen without `next`, but updated; write `next: update`, or let the update take a "
                "policy.fork of it"
            ],
        ),
        (
            ("{policy: policy, credited", "{policy: tasks, credited"),
            [
                "nodes.update.policy: wants ToyPolicy, but 'tasks' gives Tasks; nodes that give ToyPolicy: policy",
            ],
        ),
        (
            ("inputs: {rows: answer}", "inputs: {rows: final}"),
            [
                "nodes.answers.rows: a cycle: answers -> critique -> critiques -> final -> answers; only a carry links "
                "a round to the next"
            ],
        ),
        (
            ("seen: critiques}", "seen: final}"),
            [
                "nodes.critiques: nothing reads this exchange; peers would wait for it in vain: remove it",
                "nodes.final.seen: a cycle: final -> final; only a carry links a round to the next",
            ],
        ),
        (
            ("type: policy.toy,", "type: policy.toi,"),
            ["carry.policy.type: no type named 'policy.toi' (did you mean 'policy.toy'?)" + OWN],
        ),
        (
            ("type: exchange.gather, inputs: {rows: answer}", "type: exchange.gahter, inputs: {rows: answer}"),
            ["nodes.answers.type: no type named 'exchange.gahter' (did you mean 'exchange.gather'?)" + OWN],
        ),
        (
            ("type: exchange.gather, inputs: {rows: answer}", "type: exchange.gahter, inputs: {rows: anwser}"),
            [
                "nodes.answers.type: no type named 'exchange.gahter' (did you mean 'exchange.gather'?)" + OWN,
                "nodes.answers.rows: no node or carry named 'anwser' (did you mean 'answer'?)",
            ],
        ),
        (
            ("{min_peers: 1}}\n  critique:", "{}}\n  critique:"),
            ["nodes.answers.params.min_peers: missing; this param has no default"],
        ),
        (
            ("  credit:", "  credit.x:"),
            [
                "nodes.credit.x: 'credit.x' is no name; use letters, digits and underscores, a letter first",
                "nodes.update.credited.0: no node or carry named 'credit' (did you mean 'credit.x'?)",
            ],
        ),
        (
            ("graph: game", "graph: my game"),
            ["graph: 'my game' cannot name a run folder; use letters, digits and . _ -"],
        ),
    ],
)
def test_a_broken_rule_is_told_once(read: Read, change: tuple[str, str], expected: list[str]) -> None:
    assert texts(read, swap(change)) == expected


def test_two_cycles_are_two_problems_and_hide_no_other(read: Read) -> None:
    text = swap(("inputs: {rows: answer}", "inputs: {rows: answers}"), ("seen: critiques}", "seen: final}"))
    text = text.replace("[credit]", "[credti]")
    assert texts(read, text) == [
        "nodes.answers.rows: a cycle: answers -> answers; only a carry links a round to the next",
        "nodes.critiques: nothing reads this exchange; peers would wait for it in vain: remove it",
        "nodes.final.seen: a cycle: final -> final; only a carry links a round to the next",
        "nodes.update.credited.0: no node or carry named 'credti' (did you mean 'credit'?)",
    ]


def test_names_are_told_where_there_are_few_and_cut_where_there_are_many(read: Read) -> None:
    text = "graph: g\nversion: 1\nnodes:\n  t: {type: source.toy_numbers}\n"
    text += "".join(f"  n{at}: {{type: select.toy_same, inputs: {{rows: t}}}}\n" for at in range(20))
    (problem,) = texts(read, text + "  bad: {type: select.toy_same, inputs: {rows: qqqqqqq}}\n")
    assert problem == (
        "nodes.bad.rows: no node or carry named 'qqqqqqq'; there are t, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10 "
        "and 10 more"
    )


def test_a_type_variable_takes_what_all_its_inputs_are(read: Read) -> None:
    text = "graph: g\nversion: 1\ncarry:\n  p: {type: policy.toy}\nnodes:\n  t: {type: source.toy_numbers}\n"
    text += "  a: {type: generate.toy_draw, inputs: {tasks: t, policy: p}}\n"
    text += "  b: {type: exchange.gather, inputs: {rows: a}, params: {min_peers: 1}}\n"
    text += "  both: {type: select.toy_named, inputs: {rows: {own: a, all: b}}}\n"
    text += "  c: {type: generate.toy_draw, inputs: {tasks: t, policy: p, seen: both}}\n"
    assert texts(read, text) == [
        "nodes.c.seen: wants PeerRollouts, but 'both' gives Rollouts; nodes that give PeerRollouts: b"
    ]


def test_rules_between_params_and_inputs_are_part_of_the_check(read: Read) -> None:
    class Wary(Matches, name="test_wary"):
        """Refuses its inputs if the param `strict` is set."""

        strict: bool = False

        def check_inputs(self, inputs: object) -> list[str]:
            return ["strict is set, but nothing is wired to compare with; unset it"] if self.strict else []

    text = swap(
        (
            "reward.test_choice, inputs: {rollouts: critique, answers: answers}",
            "reward.test_wary, inputs: {rollouts: critique}, params: {strict: true}",
        )
    )
    assert texts(read, text) == ["nodes.score_critique: strict is set, but nothing is wired to compare with; unset it"]
    misspelt = text.replace("rollouts: critique}", "rolouts: critique}")
    assert texts(read, misspelt) == [
        "nodes.score_critique.rolouts: reward.test_wary has no input 'rolouts' (did you mean 'rollouts'?)"
    ]


def test_a_graph_put_together_by_hand_is_checked_too() -> None:
    graph = Graph("by_hand")
    assert [str(problem) for problem in check(graph)] == ["nodes: the graph has no nodes; add at least one"]
    graph.carries["policy"] = Part("policy", "policy.toy", ToyPolicyCarry, ToyPolicyCarry())
    graph.nodes["tasks"] = Part("tasks", "source.toy_numbers", Numbers, Numbers())
    graph.nodes["answer"] = Part("answer", "generate.toy_draw", Draw, Draw(), {"tasks": "tasks", "policy": "polcy"})
    graph.nodes["score"] = Part("score", "reward.toy_parity", Parity, Parity(), {"rollouts": "answer"})
    with pytest.raises(GraphError) as caught:
        compile_graph(graph)
    assert str(caught.value).splitlines() == [
        "nodes.answer.policy: no node or carry named 'polcy' (did you mean 'policy'?)",
        "nodes.score: this reward is read by nothing; give it to an advantage or remove it",
    ]


def test_problems_speak_of_inputs_as_users_do() -> None:
    assert str(Problem(("nodes", "a", "inputs", "rows", 1), "x")) == "nodes.a.rows.1: x"
    assert str(Problem(("nodes", "a", "inputs"), "x")) == "nodes.a.inputs: x"
    assert str(Problem(("carry", "inputs", "next"), "x")) == "carry.inputs.next: x"
    assert str(Problem((), "x")) == "graph: x"
    assert str(Problem(("nodes", "a\nb"), "x")) == "nodes.a\\nb: x"


def chain(length: int, *, every: str = "") -> str:
    """Return a graph file with a chain of selects, each reading the one before it, or all reading `every`."""
    lines = ["graph: long", "version: 1", "nodes:", "  n0: {type: source.toy_numbers}"]
    lines += [
        f"  n{at}: {{type: select.toy_same, inputs: {{rows: {every or f'n{at - 1}'}}}}}" for at in range(1, length)
    ]
    return "\n".join(lines) + "\n"


def test_a_thousand_nodes_are_checked_in_seconds(read: Read) -> None:
    for text, problems in ((chain(1000), 0), (chain(1000, every="zzzz"), 999)):
        started = time.perf_counter()
        assert len(read(text).problems) == problems
        assert time.perf_counter() - started < 10


def test_a_param_that_names_a_carry_is_checked() -> None:
    text = """\
graph: likes
version: 1
carry:
  policy: {type: policy.tiny_lm}
  reference: {type: policy.tiny_lm, params: {like: polcy}}
nodes:
  tasks: {type: source.toy_numbers}
"""
    lines = read_document(parse_document(text, file="likes.yaml")).lines()
    assert lines == ["likes.yaml:5:52 carry.reference.params.like: no carry named 'polcy' (did you mean 'policy'?)"]
    assert not read_document(parse_document(text.replace("polcy", "policy"), file="likes.yaml")).problems
