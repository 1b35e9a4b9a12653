"""The text that `plan` prints for a round."""

from collections.abc import Callable

from toys import TOY_GAME, toy_game

from genrl_graph.dag.fingerprint import protocol_fingerprint
from genrl_graph.dag.plan import schedule_text
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.graph_file.read import Loaded

EXPECTED = """\
toy: 11 nodes, 2 stages, 1 exchange, 10 rounds, 1 peer, seed 0
protocol PROTOCOL

stage 0    1. tasks          source.toy_numbers
           2. answer         generate.toy_draw      reads tasks; weights of policy (round's start)
           3. open answers   exchange.gather        reads answer
           4. close answers                         wanted by final
stage 1    5. final          generate.toy_draw      reads tasks, answers; weights of policy (round's start)
stage 0    6. score_answer   reward.toy_parity      reads answer; runs beside close answers
           7. credit_answer  advantage.toy_centred  reads score_answer
stage 1    8. score_final    reward.toy_parity      reads final
           9. match_final    reward.toy_matches     reads score_final
          10. best           select.toy_best        reads match_final
          11. credit_final   advantage.toy_centred  reads best
          12. update         update.toy_step        reads credit_answer, credit_final; weights of policy (round's start); gives update: new weights

carry policy (policy.toy): next round update
"""  # noqa: E501  # the text as it is printed


def test_the_plan_names_stages_steps_exchanges_and_weights(read: Callable[[str], Loaded]) -> None:
    expected = EXPECTED.replace("PROTOCOL", protocol_fingerprint(toy_game()))
    assert schedule_text(compile_graph(toy_game())) == expected
    assert schedule_text(compile_graph(read(TOY_GAME).graph)) == expected


def test_the_plan_tells_frozen_carries_and_weights_of_this_round(read: Callable[[str], Loaded]) -> None:
    text = TOY_GAME.replace("policy: policy, seen: answers", "policy: fork, seen: answers")
    text = text.replace(
        "policy.toy, params: {bias: 3}, next: update}", "policy.toy}\n  other: {type: policy.toy, next: update}"
    )
    text = text.replace("inputs: {policy: policy, credited", "inputs: {policy: other, credited")
    text += "  fork: {type: policy.toy_fork, inputs: {policy: policy}}\nrun: {rounds: 1, peers: 3}\n"
    plan = schedule_text(compile_graph(read(text).graph))
    assert "1 round, 3 peers, seed 0" in plan
    assert "reads tasks, answers; weights of fork (this round)\n" in plan
    assert "carry policy (policy.toy): frozen\ncarry other (policy.toy): next round update\n" in plan


def test_the_plan_tells_which_of_several_outputs_is_new(read: Callable[[str], Loaded]) -> None:
    text = """\
graph: both
version: 1
carry:
  policy: {type: policy.toy, next: both.policy}
  total: {type: carry.toy_total, next: both.total}
nodes:
  tasks: {type: source.toy_numbers}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  both: {type: update.toy_both, inputs: {policy: policy, total: total, rows: answer}}
"""
    plan = schedule_text(compile_graph(read(text).graph))
    assert "weights of policy (round's start); value of total (round's start)" in plan
    assert "gives both.policy: new weights; gives both.total: new value" in plan
