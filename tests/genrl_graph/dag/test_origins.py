"""Nodes that compare rows are told which generators sample them, and refuse groups that can never teach anything."""

from collections.abc import Callable

import pytest

from genrl_graph import Graph
from genrl_graph.graph_file.read import Loaded
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.runners.play import play

Read = Callable[[str], Loaded]

TASKS = "tasks: {type: source.list, params: {tasks: [{question: a}], eval_tasks: [{question: b}]}}"
SAMPLED = "{type: generate.answer, inputs: {tasks: tasks, policy: policy}, params: {max_new_tokens: 1%s}}"
LONE = "(num_generations is 1); set nodes.answer.params.num_generations to 2 or more"


def problems(read: Read, *nodes: str, mode: str = "train", **answers: str) -> list[str]:
    """Return the problems of a graph with a generator for each of `answers` (its name and params) and these nodes."""
    generators = [f"{name}: {SAMPLED % params}" for name, params in answers.items()]
    lines = "".join(f"  {line}\n" for line in (TASKS, *generators, *nodes))
    carry = "carry:\n  policy: {type: policy.tiny_lm, next: update}\n"
    loaded = read(f"graph: g\nversion: 1\n{carry}nodes:\n{lines}run: {{mode: {mode}}}\n")
    return [str(problem) for problem in loaded.problems]


def scored(rows: str = "answer", name: str = "score") -> str:
    return f"{name}: {{type: reward.regex, inputs: {{rollouts: {rows}}}, params: {{pattern: a}}}}"


def credit(kind: str = "group", rows: str = "score", params: str = "") -> str:
    return f"credit: {{type: advantage.{kind}, inputs: {{scored: {rows}}}, params: {{{params}}}}}"


UPDATE = "update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}"


@pytest.mark.parametrize("params", ["", "scope: task", "leave_one_out: true", "scale: none"])
def test_a_group_of_one_is_an_error_that_names_the_param(read: Read, params: str) -> None:
    per = "task" if "task" in params else "prompt"
    line = f"nodes.credit: can never learn: 'answer' samples a single row for each {per} {LONE}"
    assert problems(read, scored(), credit(params=params), UPDATE, answer="") == [line]
    assert problems(read, scored(), credit(params=params), UPDATE, answer=", num_generations: 2") == []


def test_greedy_samples_of_a_prompt_are_all_alike(read: Read) -> None:
    greedy = ", num_generations: 4, temperature: 0"
    (line,) = problems(read, scored(), credit(), UPDATE, answer=greedy)
    assert line.endswith("'answer' samples equal rows for each prompt (temperature is 0); set "
                         "nodes.answer.params.temperature above 0")  # fmt: skip


def test_an_evaluation_may_sample_once(read: Read) -> None:
    assert problems(read, scored(), credit(), UPDATE, mode="evaluate", answer="") == []


def test_groups_over_tasks_and_peers_are_larger(read: Read) -> None:
    for scope in ("node", "peer", "batch"):
        assert problems(read, scored(), credit(params=f"scope: {scope}"), UPDATE, answer="") == []
    gather = "gathered: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 2, include_self: %s}}"
    for own in ("true", "false"):
        nodes = (gather % own, scored("gathered"), credit(params="scope: task"), UPDATE)
        assert problems(read, *nodes, answer="") == []
    # each peer's prompts are groups of their own; without own rows, the params of their generators are not known
    assert len(problems(read, gather % "true", scored("gathered"), credit(), UPDATE, answer="")) == 1
    assert problems(read, gather % "false", scored("gathered"), credit(), UPDATE, answer="") == []


def test_the_generator_is_found_behind_rewards_selects_and_fields(read: Read) -> None:
    nodes = (
        scored(name="first"),
        scored("answer", name="second"),
        "best: {type: select.top, inputs: {rows: first}, params: {k: 1}}",
        "summed: {type: reward.weighted_sum, inputs: {scored: [best, second]}, params: {others: 1}}",
        credit(rows="summed"),
        "kept: {type: select.nonzero_advantage, inputs: {rows: credit}}",
        UPDATE.replace("[credit]", "[kept]"),
    )
    (line,) = [text for text in problems(read, *nodes, answer="") if "never learn" in text]
    assert LONE in line


def test_a_reward_passes_on_the_rows_that_it_scores_not_those_that_it_reads(read: Read) -> None:
    nodes = (
        "gathered: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}",
        "critique: {type: generate.critique, inputs: {tasks: tasks, answers: gathered, policy: policy}, "
        "params: {num_generations: %s}}",
        "score: {type: reward.choice, inputs: {rollouts: critique, answers: gathered}}",
        credit(),
        UPDATE,
    )
    critiques = "\n".join(nodes)
    assert problems(read, *(critiques % 2).split("\n"), answer="") == []
    (line,) = problems(read, *(critiques % 1).split("\n"), answer=", num_generations: 4")
    assert "nodes.critique.params.num_generations" in line


def test_a_pool_of_two_generators_has_rows_that_differ(read: Read) -> None:
    nodes = (scored(), scored("other", name="score_other"))
    both = credit("pool", rows="[score, score_other]")
    assert problems(read, *nodes, both, UPDATE, answer="", other="") == []
    for scope in ("task", "task_and_peer"):
        lines = problems(read, scored(), credit("pool", "[score]", f"scope: {scope}"), UPDATE, answer="")
        assert lines == [f"nodes.credit: can never learn: 'answer' samples a single row for each task {LONE}"]


def test_pairs_need_two_rows_and_backed_up_values_too(read: Read) -> None:
    dpo = "update: {type: update.dpo, inputs: {policy: policy, scored: [score, score_other]}}"
    nodes = (scored(), scored("other", name="score_other"))
    (line,) = problems(read, *nodes, dpo, answer="", other=", num_generations: 2")
    assert line == f"nodes.update: can never learn: 'answer' samples a single row for each prompt {LONE}"
    backup = "credit: {type: advantage.backup, inputs: {scored: score, later: [score_other]}}"
    line, apart = problems(read, *nodes, backup, UPDATE, answer="", other=", num_generations: 2")
    assert LONE in line
    assert apart == (
        "nodes.credit: 'other' quotes no rows, and no row of 'answer', so it backs up nothing; leave it out of later"
    )
    assert problems(read, *nodes, backup, UPDATE, answer=", num_generations: 2", other="") == [apart]


def test_a_task_with_a_prompt_for_each_row_has_several(read: Read) -> None:
    nodes = (
        "final: {type: generate.chat, inputs: {tasks: tasks, policy: policy, context: {drafts: answer}}, "
        "params: {each: drafts, template: '{{ drafts[0].completion }}'}}",
        scored("final"),
        UPDATE,
    )
    assert problems(read, *nodes, credit(params="scope: task"), answer=", num_generations: 2") == []
    assert len(problems(read, *nodes, credit(), answer=", num_generations: 2")) == 1


def test_a_graph_of_python_may_be_evaluated_with_one_sample(tmp_path) -> None:  # type: ignore[no-untyped-def]
    graph = Graph("lone")
    policy = graph.carry("policy", TinyLM())
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "a"}], eval_tasks=[{"question": "b"}]))
    answer = graph.add("answer", Answer(template="{{ task.question }}", max_new_tokens=1), tasks=tasks, policy=policy)
    score = graph.add("score", RegexReward(pattern="a"), rollouts=answer)
    graph.add("credit", GroupAdvantage(), scored=score)
    play(graph, out=tmp_path / "run", mode="evaluate", quiet=True)
