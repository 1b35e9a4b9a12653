"""The exact text of a diff of two graphs, and the effects of the edits on a round."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TOY_GAME, toy_game

import genrl_graph.graphs
from genrl_graph import Graph, Rollouts, Select
from genrl_graph.cli import run_command
from genrl_graph.dag.fingerprint import full_fingerprint, protocol_fingerprint
from genrl_graph.diff import compare
from genrl_graph.diff.parts import moved
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import load, read_document

MATH = Path(genrl_graph.graphs.__file__).resolve().parent / "multistage_math"

BEST = "  best: {type: select.toy_best, inputs: {scored: match_final}}\n"
SCORE = "  score_answer: {type: reward.toy_parity, inputs: {rollouts: answer}}\n"

PER_STAGE = """\
graph:
  is now multistage_sums_per_stage, no longer multistage_sums
nodes:
  critique now reads policy from update_answer, no longer from the carry policy
  final now reads policy from update_critique, no longer from the carry policy
schedule:
  critique now reads the weights after stage 0 (update_answer), no longer those of the round's start
  final now reads the weights after stage 1 (update_answer, update_critique), no longer those of the round's start
  score_answer is now step 4, after open answers; it was step 7, after open critiques
  credit_answer is now step 5, after score_answer; it was step 8, after score_answer
  update_answer is now step 6, after credit_answer; it was step 13, after credit_critique
  close critiques is now step 13, after update_critique; it was step 9, after credit_answer
  final is now step 14, after close critiques; it was step 10, after close critiques
  score_answer now runs at its own place, no longer beside close answers
  score_critique now runs at its own place, no longer beside close critiques
  score_answer, credit_answer, update_answer now run while answers is open
  score_critique, credit_critique, update_critique now run while critiques is open
  score_answer, credit_answer no longer run while critiques is open
fingerprints:
  protocol {} -> {}: peers that play the old graph cannot meet those that play the new one
  full {} -> {}
"""


class Pick(Select, name="test_diff_pick"):
    """Selects rows by a function."""

    by: Callable[..., float]
    bound: float = math.inf

    def run(self, rows: Rollouts) -> Rollouts:
        return rows


def graph_of(text: str) -> Graph:
    return read_document(parse_document(text, file="game.yaml")).graph


def edited(*swaps: tuple[str, str], text: str = TOY_GAME) -> Graph:
    for old, new in swaps:
        assert old in text, old
        text = text.replace(old, new)
    return graph_of(text)


def diff_lines(b: Graph, a: Graph | None = None) -> list[str]:
    """Return the lines of the difference from `a` (default: the toy game) to `b`, without the fingerprints."""
    lines = compare(a or toy_game(), b).lines()
    return lines[: lines.index("fingerprints:")] if "fingerprints:" in lines else lines


def test_the_edit_from_an_update_a_round_to_one_a_stage_is_told_with_what_follows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [MATH / "reasoning_gym.yaml", MATH / "reasoning_gym_per_stage.yaml"]
    graphs = [load(path) for path in names]
    prints = [fingerprint(graph)[:12] for fingerprint in (protocol_fingerprint, full_fingerprint) for graph in graphs]
    assert run_command(["diff", *map(str, names)]) == 1
    assert capsys.readouterr() == (PER_STAGE.format(*prints), "")
    assert run_command(["diff", *map(str, names)]) == 1
    assert capsys.readouterr().out == PER_STAGE.format(*prints)
    assert run_command(["diff", str(names[0]), str(names[0])]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_way_back_is_told_the_other_way_round() -> None:
    lines = compare(load(MATH / "reasoning_gym_per_stage.yaml"), load(MATH / "reasoning_gym.yaml")).lines()
    assert "  critique now reads policy from the carry policy, no longer from update_answer" in lines
    assert (
        "  critique now reads the weights of the round's start, no longer those after stage 0 (update_answer)" in lines
    )
    assert "  score_answer, credit_answer, update_answer no longer run while answers is open" in lines
    assert "  score_answer now runs beside close answers, no longer at its own place" in lines


@pytest.mark.parametrize(
    ("swaps", "expected"),
    [
        ([("rate: 1e-6", "rate: 1e-5")], ["nodes:", "  update: rate 1e-06 (default) -> 1e-05"]),
        (
            [("{num_tasks: 3}", "{high: 9}")],
            ["nodes:", "  tasks: num_tasks 3 -> 2 (default)", "  tasks: high 1000 (default) -> 9"],
        ),
        ([("    params: {rate: 1e-6}\n", "run: {rounds: 3}\n")], ["run:", "  rounds 10 (default) -> 3"]),
        ([("bias: 3", "bias: null")], ["carry:", "  policy: bias 3 -> null (default)"]),
        (
            [("reward.toy_parity, inputs: {rollouts: final}", "reward.toy_matches, inputs: {rollouts: final}")],
            ["nodes:", "  score_final is now reward.toy_matches, no longer reward.toy_parity"],
        ),
        (
            [("[credit_answer, credit_final]", "[credit_final, credit_answer]")],
            [
                "nodes:",
                "  update reads credited as [credit_final, credit_answer], no longer as [credit_answer, credit_final]",
            ],
        ),
        (
            [("[credit_answer, credit_final]", "[credit_answer, credit_final, credit_final]")],
            ["nodes:", "  update now also reads credited from credit_final"],
        ),
        (
            [("credited: [credit_answer, credit_final]", "credited: [credit_final]")],
            ["nodes:", "  update no longer reads credited from credit_answer"],
        ),
        (
            [(", seen: answers", ""), ("parity, inputs: {rollouts: answer}", "parity, inputs: {rollouts: answers}")],
            [
                "nodes:",
                "  score_answer now reads rollouts from answers, no longer from answer",
                "  final no longer reads seen from answers",
                "schedule:",
                "  a round has 1 stage, no longer 2",
                "  final is now in stage 0, no longer in stage 1",
                "  score_final is now in stage 0, no longer in stage 1",
                "  match_final is now in stage 0, no longer in stage 1",
                "  best is now in stage 0, no longer in stage 1",
                "  credit_final is now in stage 0, no longer in stage 1",
                "  update is now in stage 0, no longer in stage 1",
                "  close answers is now step 9, after credit_final; it was step 4, after open answers",
                "  score_answer is now step 10, after close answers; it was step 6, after final",
                "  credit_answer is now step 11, after score_answer; it was step 7, after score_answer",
                "  score_answer now runs at its own place, no longer beside close answers",
                "  final, score_final, match_final, best, credit_final now run while answers is open",
            ],
        ),
        (
            [(BEST, ""), ("scored: best", "scored: match_final")],
            [
                "nodes:",
                "  best removed: select.toy_best; scored from match_final",
                "  credit_final now reads scored from match_final, no longer from best",
            ],
        ),
        (
            [(BEST, BEST.replace("best:", "few:") + BEST), ("scored: best", "scored: few")],
            [
                "nodes:",
                "  few added: select.toy_best; scored from match_final",
                "  credit_final now reads scored from few, no longer from best",
            ],
        ),
        (
            [(SCORE, ""), ("  update:", f"{SCORE}  update:")],
            [
                "order of the file:",
                "  score_answer now stands after credit_final, no longer after answers",
            ],
        ),
    ],
)
def test_an_edit_is_told_in_words(swaps: list[tuple[str, str]], expected: list[str]) -> None:
    lines = diff_lines(edited(*swaps))
    if expected[0] == "nodes:" and "schedule:" not in expected and "schedule:" in lines:
        lines = lines[: lines.index("schedule:")]
    assert lines == expected


def test_renamed_parts_are_known_again_with_all_that_reads_them() -> None:
    b = edited(
        ("answers", "shared"),
        ("policy: {", "player: {"),
        ("policy: policy", "policy: player"),
        ("match_final", "exact"),
        ("score_final", "parity"),
    )
    assert diff_lines(b) == [
        "carry:",
        "  player is the new name of policy",
        "nodes:",
        "  shared is the new name of answers",
        "  parity is the new name of score_final",
        "  exact is the new name of match_final",
    ]
    difference = compare(toy_game(), b)
    assert difference.protocol is not None and difference.protocol.old != difference.protocol.new


def test_twins_are_told_apart_by_who_reads_them() -> None:
    text = """\
graph: twins
version: 1
nodes:
  one: {type: source.toy_numbers}
  two: {type: source.toy_numbers}
  kept: {type: select.toy_same, inputs: {rows: one}}
  held: {type: select.toy_same, inputs: {rows: two}}
"""
    b = edited(("one", "b"), ("two", "a"), text=text)
    assert diff_lines(b, graph_of(text)) == ["nodes:", "  b is the new name of one", "  a is the new name of two"]
    assert diff_lines(edited(("  one: {type: source.toy_numbers}\n", ""), ("one", "c"), text=text), graph_of(text)) == [
        "nodes:",
        "  one removed: source.toy_numbers",
        "  kept now reads rows from c, no longer from one",
        "schedule:",
        "  the schedules and fingerprints are not compared, for that needs two graphs that pass the check",
        "problems of the new graph:",
        "  nodes.kept.rows: no node or carry named 'c'; there are two, kept, held",
    ]


def test_a_part_that_differs_in_more_than_its_name_is_another_one() -> None:
    b = edited(
        ("best: {type: select.toy_best", "few: {type: select.toy_same"),
        ("{scored: match_final}", "{rows: match_final}"),
        ("scored: best", "scored: few"),
    )
    assert diff_lines(b)[:3] == [
        "nodes:",
        "  best removed: select.toy_best; scored from match_final",
        "  few added: select.toy_same; rows from match_final",
    ]


def test_weights_are_followed_through_forks_and_updates_whose_readers_did_not_change() -> None:
    text = TOY_GAME.replace("next: update", "next: update}\n  total: {type: carry.toy_total, next: count").replace(
        "  update:", "  count: {type: update.toy_add, inputs: {total: total, rows: [answer]}}\n  update:"
    )
    text = text.replace(
        "{policy: policy, credited: [credit_answer, credit_final]}",
        "{policy: first, credited: [credit_final], reference: copy}",
    )
    text += "  first: {type: update.toy_step, inputs: {policy: policy, credited: [credit_answer]}}\n"
    text += "  copy: {type: policy.toy_fork, inputs: {policy: policy}}\n"
    later = edited(("toy_fork, inputs: {policy: policy}", "toy_fork, inputs: {policy: first}"), text=text)
    lines = diff_lines(later, graph_of(text))
    assert lines[:2] == ["nodes:", "  copy now reads policy from first, no longer from the carry policy"]
    then = "the weights of policy after stage 0"
    assert f"  copy now reads as policy {then} (first), no longer those of policy at the round's start" in lines
    assert f"  update now reads as reference {then} (first, copy), no longer those {then[12:]} (copy)" in lines


def test_long_texts_and_lists_are_told_line_by_line() -> None:
    game = "graph: g\nversion: 1\nnodes:\n  tasks: {{type: source.list, params: {{tasks: [{}]}}}}\n"
    many = ", ".join(f"{{question: how much is {n}, answer: {n}}}" for n in range(9))
    a, b = graph_of(game.format(many)), graph_of(game.format(many.replace("much is 4", "many are\\u0007 4")))
    lines = diff_lines(b, a)
    assert lines[:2] == ["nodes:", "  tasks: tasks changes"]
    assert len(lines) == 4
    assert lines[2].startswith('    - {"question": "how much is 4"')
    assert lines[3].startswith('    + {"question": "how many are')


def test_what_has_no_yaml_form_is_compared_too() -> None:
    def pick(by: Callable[..., float], bound: float = math.inf) -> Graph:
        graph = toy_game()
        graph.add("pick", Pick(by=by, bound=bound), rows=graph.output("answer"))
        return graph

    def first() -> float:
        return 1.0

    assert not compare(pick(first), pick(first))
    (_, line, old, new) = diff_lines(pick(lambda: 0.0, 2.0), pick(first, 2.0))[:4]
    assert line == "  pick: by changes"
    assert old.startswith("    - ") and old.endswith('first, which has no YAML form"')
    assert new.startswith("    + ") and new.endswith('<lambda>, which has no YAML form"')
    assert diff_lines(pick(lambda: 0.0), pick(lambda: 1.0))[3] == '    + "another one of this name"'
    assert diff_lines(pick(first, bound=2.0), pick(first)) == ["nodes:", '  pick: bound ".inf" (default) -> 2.0']
    assert json.dumps(compare(pick(first, bound=2.0), pick(first)).to_json(), allow_nan=False)


def test_the_same_protocol_says_that_peers_may_still_meet() -> None:
    a, b = toy_game(), edited(("rate: 1e-6", "rate: 1e-5"))
    protocol, full = protocol_fingerprint(a)[:12], [full_fingerprint(graph)[:12] for graph in (a, b)]
    assert compare(a, b).lines()[-3:] == [
        "fingerprints:",
        f"  protocol {protocol}, unchanged: peers that play the old and the new graph can meet",
        f"  full {full[0]} -> {full[1]}",
    ]


def test_files_that_do_not_pass_the_check_are_compared_and_their_problems_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(TOY_GAME)
    Path("b.yaml").write_text(TOY_GAME.replace("num_tasks: 3", "num_task: 3"))
    assert run_command(["diff", "a.yaml", "b.yaml"]) == 1
    assert capsys.readouterr().out == (
        "nodes:\n  tasks: num_tasks 3 -> not set\n  tasks: num_task not set -> 3\n"
        "schedule:\n  the schedules and fingerprints are not compared, for that needs two graphs that pass the check\n"
        "problems of the new graph:\n"
        "  b.yaml:6:46 nodes.tasks.params.num_task: source.toy_numbers: unknown param 'num_task' (did you mean "
        "'num_tasks'?)\n"
    )
    assert run_command(["diff", "b.yaml", "b.yaml"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_run_folder_stands_for_the_graph_that_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game = tmp_path / "game.yaml"
    game.write_text(TOY_GAME + "run: {rounds: 1}\n")
    assert run_command(["run", str(game), "-q", "-o", str(tmp_path / "run")]) == 0
    assert run_command(["diff", str(game), str(tmp_path / "run")]) == 0
    game.write_text(TOY_GAME + "run: {rounds: 2}\n")
    assert run_command(["diff", str(tmp_path / "run"), str(game), "--format", "json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert output["run"] == [
        {"path": ["rounds"], "old": {"value": 1, "default": False}, "new": {"value": 2, "default": False}}
    ]
    assert (output["differs"], output["nodes"], output["name"]) == (True, [], None)
    assert run_command(["diff", str(game), str(tmp_path)]) == 12
    assert run_command(["diff", str(game), str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_data_files_in_another_folder_are_no_difference(tmp_path: Path) -> None:
    graphs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text('{"question": "q", "answer": "a"}\n')
        (tmp_path / name / "g.yaml").write_text(
            "graph: g\nversion: 1\nnodes: {tasks: {type: source.hf_dataset, params: {path: x.jsonl}}}\n"
        )
        graphs.append(load(tmp_path / name / "g.yaml"))
    assert graphs[0] != graphs[1]
    assert not compare(*graphs)


def test_the_json_has_the_documented_structure() -> None:
    a, b = edited(("credit_final", "credit_last")), edited((", seen: answers", ""), ("rate: 1e-6", "rate: 1e-5"))
    output = json.loads(json.dumps(compare(a, b).to_json()))
    assert list(output) == [
        "differs",
        "name",
        "carries",
        "nodes",
        "run",
        "order",
        "schedule",
        "protocol",
        "full",
        "problems",
    ]
    final, credit = (part for part in output["nodes"] if part["name"] in ("final", "credit_final"))
    read = {"ref": "answers", "key": None, "carry": False}
    assert final == {
        "name": "final",
        "change": "changed",
        "was": None,
        "type": None,
        "params": [],
        "inputs": [{"input": "seen", "old": [read], "new": []}],
        "next": None,
        "role": None,
    }
    assert output["nodes"][-1]["params"] == [
        {"path": ["rate"], "old": {"value": 1e-6, "default": True}, "new": {"value": 1e-5, "default": False}}
    ]
    assert (credit["name"], credit["was"], credit["change"]) == ("credit_final", "credit_last", "changed")
    assert output["schedule"] is output["protocol"] is None  # the exchange that nothing reads any more is a problem
    assert output["problems"]["old"] == [] and len(output["problems"]["new"]) == 1


def test_the_json_of_what_follows_for_the_schedule() -> None:
    schedule = compare(*(load(MATH / f"reasoning_gym{name}.yaml") for name in ("", "_per_stage"))).to_json()["schedule"]
    assert list(schedule) == ["stages", "stage", "reads", "moves", "beside", "waits"]
    assert schedule["stages"] == {"old": 3, "new": 3}
    assert schedule["reads"][0] == {
        "node": "critique",
        "input": "policy",
        "version": {
            "old": {"carry": "policy", "through": (), "stage": None},
            "new": {"carry": "policy", "through": ("update_answer",), "stage": 0},
        },
        "weights": True,
        "several": False,
    }
    assert schedule["moves"][2] == {
        "step": "update_answer",
        "number": {"old": 13, "new": 6},
        "after": {"old": "credit_critique", "new": "credit_answer"},
    }
    assert schedule["beside"][0] == {"step": "score_answer", "beside": {"old": "close answers", "new": ""}}
    now = ("score_answer", "credit_answer", "update_answer")
    assert schedule["waits"][0] == {"exchange": "answers", "now": now, "no_longer": ()}


EDITS = [
    ("num_tasks: 3", "num_tasks: 4"),
    ("bias: 3", "bias: 0"),
    ("graph: toy", "graph: toys"),
    (", seen: answers", ""),
    ("rate: 1e-6", "rate: 2e-6"),
    ("[credit_answer, credit_final]", "[credit_final]"),
    ("min_peers: 1", "min_peers: 2"),
    ("best", "few"),
    ("answers", "all"),
    ("{tasks: tasks, policy: policy", "{policy: policy, tasks: tasks"),
    ("version: 1\n", "version: 1\nrun: {peers: 2}\n"),
    ("next: update", "next: null"),
]
GAMES = st.lists(st.sampled_from(EDITS), unique=True, max_size=4)


@settings(max_examples=40)
@given(old=GAMES, new=GAMES, shuffled=st.permutations(TOY_GAME.splitlines()[5:15]))
def test_graphs_differ_where_their_full_fingerprints_do(
    old: list[tuple[str, str]], new: list[tuple[str, str]], shuffled: list[str]
) -> None:
    lines = TOY_GAME.splitlines()
    texts = [TOY_GAME, "\n".join([*lines[:5], *shuffled, *lines[15:]])]
    for at, edits in enumerate((old, new)):
        for before, after in edits:
            texts[at] = texts[at].replace(before, after)
    a, b = map(graph_of, texts)
    difference = compare(a, b)
    assert bool(difference) == (full_fingerprint(a) != full_fingerprint(b))
    assert bool(difference) == bool(compare(b, a))
    assert difference.lines() == compare(a, b).lines()
    assert all(line.isprintable() for line in difference.lines())
    assert not compare(a, graph_of(a.dump()))
    renamed = {part.was: part.name for part in (*difference.carries, *difference.nodes) if part.was}
    assert len(set(renamed.values())) == len(renamed)
    assert not set(renamed) & {*b.carries, *b.nodes} and not set(renamed.values()) & {*a.carries, *a.nodes}


@given(old=st.permutations(range(7)), new=st.permutations(range(9)))
def test_as_few_parts_as_possible_have_moved(old: list[int], new: list[int]) -> None:
    names = [list(map(str, order)) for order in (old, new)]
    moves = moved(*names)
    unmoved = [[name for name in order if name not in moves and int(name) < 7] for order in names]
    assert unmoved[0] == unmoved[1]
    rising: set[tuple[int, ...]] = {()}
    for at in (old.index(n) for n in new if n < 7):
        rising |= {(*row, at) for row in rising if not row or row[-1] < at}
    assert len(unmoved[0]) == max(map(len, rising))
