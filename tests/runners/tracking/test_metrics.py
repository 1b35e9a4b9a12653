"""Metrics of a run: one line per round and peer, with names that the table of metrics lists."""

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import toy_game

import genrl_graph
from genrl_graph import Graph, play
from genrl_graph.dag.schedule import Step, compile_graph
from genrl_graph.nodes.library import Answer, GroupAdvantage, Grpo, ListSource, ProposalReward, RegexReward, TinyLM
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.stage_metrics import Stages, mean, total, totals
from genrl_graph.runners.tracking.guard import GuardedTracker
from genrl_graph.runners.tracking.metric_names import METRICS
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.trackers import JsonLines, TensorBoard
from genrl_graph.store.run_store import RunStore

PROCESS = {"memory/rss_gb", "memory/peak_gb", "trackers/failures"}


class Kept:
    """A tracker that stores its calls."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, float]]] = []
        self.closed = False

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        self.lines.append((round, peer, dict(metrics)))

    def close(self) -> None:
        self.closed = True


def done(node: str, seconds: float, *, peer: str = "peer0000", action: str = "run", **metrics: float) -> StepReport:
    return StepReport(0, Step(action, node, 0, {}), peer, seconds, metrics)  # type: ignore[arg-type]


def test_the_steps_of_a_round_become_one_line_a_peer() -> None:
    kept = Kept()
    metrics = RoundMetrics([kept])
    metrics.take(done("answer", 2.0, tokens=10.0, rows=4.0))
    metrics.take(done("answers", 0.5, action="open", rows=4.0))
    metrics.take(done("answers", 1.0, action="close", rows=8.0, peers=2.0))
    metrics.take(done("answer", 1.0, peer="peer0001", tokens=10.0))
    assert metrics.end(3, 9.0, {"budget/retries": 1.0})["peer0000"] == kept.lines[0][2]
    common = {"time/round": 9.0, "budget/retries": 1.0}
    assert [(round, peer) for round, peer, _ in kept.lines] == [(3, "peer0000"), (3, "peer0001")]
    first, second = ({name: line[name] for name in line.keys() - PROCESS} for _, _, line in kept.lines)
    assert first == common | {
        "answer/tokens": 10.0,
        "answer/rows": 4.0,
        "time/answer": 2.0,
        "speed/answer": 5.0,
        "answers/rows": 8.0,
        "answers/peers": 2.0,
        "time/answers": 1.5,
    }
    assert second == common | {"answer/tokens": 10.0, "time/answer": 1.0, "speed/answer": 10.0}
    assert metrics.end(4, 1.0) == {}
    metrics.close()
    assert kept.closed


def test_failures_of_trackers_stand_in_the_next_line() -> None:
    class Broken(Kept):
        def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
            raise OSError("disk is full")

    metrics = RoundMetrics([kept := Kept(), GuardedTracker("broken", Broken, tell=lambda line: None)])
    for number in range(5):
        metrics.take(done("answer", 1.0))
        metrics.end(number, 1.0)
    assert [line["trackers/failures"] for _, _, line in kept.lines] == [0.0, 1.0, 2.0, 3.0, 3.0]


def test_an_evaluation_is_a_line_of_its_own_under_names_that_all_trackers_take() -> None:
    metrics = RoundMetrics([kept := Kept()])
    metrics.take(done("answer", 1.0))
    metrics.evaluation(7, {"peer0001": {"eval/score/pass@4/hard sums": 0.5}})
    assert kept.lines == [(7, "peer0001", {"eval/score/pass_at_4/hard_sums": 0.5})]
    assert list(metrics.end(7, 1.0)) == ["peer0000"]


def test_stages_have_rewards_and_the_share_of_groups_that_train_nothing() -> None:
    metrics = RoundMetrics([kept := Kept()], stages=Stages(compile_graph(toy_game())))
    for node, reward in (("score_answer", 1.0), ("score_final", 2.0), ("match_final", 3.0)):
        metrics.take(done(node, 0.0, reward=reward))
    metrics.take(done("credit_final", 0.0, groups=4.0, groups_with_variance=1.0))
    metrics.end(0, 1.0)
    ((_, _, line),) = kept.lines
    assert (line["stage0/reward"], line["stage1/reward"]) == (1.0, 3.0)  # score_final is part of match_final
    assert line["stage1/zero_variance"] == 0.75
    assert "stage0/zero_variance" not in line


MEMORY = """
import sys
import numpy
from genrl_graph.runners.tracking.memory import memory
before = memory()
block = numpy.ones(40_000_000)
held = memory()
del block
after = memory()
print(held["memory/rss_gb"] - before["memory/rss_gb"], after["memory/peak_gb"] - after["memory/rss_gb"])
assert "torch" not in sys.modules and "memory/device_gb" not in after
"""


def test_memory_is_that_of_this_process_and_torch_is_not_loaded_for_it() -> None:
    block = bytearray(600_000_000)  # a process that starts another hands its peak on to it, as getrusage counts
    block[::4096] = b"x" * len(block[::4096])
    ran = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=60, check=True)
    grown, fallen = map(float, ran.stdout.split())
    assert grown == pytest.approx(0.32, abs=0.03)
    assert fallen == pytest.approx(0.32, abs=0.05)


def test_json_lines_hold_no_nan(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write(0, "peer0000", {"score/reward": math.nan, "update/loss": math.inf, "answer/rows": 2.0})
    lines.write(1, "peer0000", {"answer/rows": 3.0})
    lines.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    first, second = map(json.loads, text.splitlines())
    assert first == {"round": 0, "peer": "peer0000", "score/reward": None, "update/loss": None, "answer/rows": 2.0}
    assert second["answer/rows"] == 3.0


def test_tensorboard_has_the_same_names(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events")
    for number in range(3):
        board.write(number, "peer0000", {"score/reward": number / 2, "time/round": 1.0})
    board.close()
    events = EventAccumulator(str(tmp_path / "events" / "peer0000")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["score/reward", "time/round"]
    assert [(event.step, event.value) for event in events.Scalars("score/reward")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_means_and_totals_are_over_the_peers_that_reported() -> None:
    peers = {"a": {"x": 1.0}, "b": {"x": 3.0, "y": 5.0}}
    assert (mean(peers, "x"), mean(peers, "y"), mean(peers, "z")) == (2.0, 5.0, None)
    assert (total(peers, "x"), total(peers, "y"), total(peers, "z")) == (4.0, 5.0, 0.0)


def test_a_reward_counts_unless_another_one_passes_its_rows_on() -> None:
    graph = Graph("rewards")
    policy = graph.carry("policy", TinyLM())
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "?"}]))
    propose = graph.add("propose", Answer(num_generations=2), tasks=tasks, policy=policy)
    solve = graph.add("solve", Answer(num_generations=2), tasks=tasks, policy=policy)
    right = graph.add("right", RegexReward(pattern="a"), rollouts=solve)
    brief = graph.add("brief", RegexReward(pattern="^.$"), rollouts=right)
    pay = graph.add("pay", ProposalReward(), rollouts=propose, solved=right)
    credit = [graph.add(f"credit_{name}", GroupAdvantage(), scored=rows) for name, rows in (("s", brief), ("p", pay))]
    graph.next_round(policy=graph.add("update", Grpo(), policy=policy, credited=credit))
    assert totals(compile_graph(graph)) == ["brief", "pay"]  # `pay` looks at `right`, and judges other rows


def test_a_run_measures_what_it_stores(tmp_path: Path) -> None:
    run = play(toy_game(), out=tmp_path / "run", rounds=2, peers=2, quiet=True)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["peer"]) for line in lines] == [
        (0, "peer0000"),
        (0, "peer0001"),
        (1, "peer0000"),
        (1, "peer0001"),
    ]
    rewards = RunStore.open(run.folder).table("score_answer").to_pylist()
    for line in lines:
        stored = [r["reward"] for r in rewards if (r["round"], r["holder"]) == (line["round"], line["peer"])]
        assert line["score_answer/reward"] == pytest.approx(sum(stored) / len(stored))
        assert line["score_answer/rows"] == len(stored)
        assert line["answers/peers"] == 2.0
        assert line["update/version"] == line["round"] + 1
        assert line["best/kept"] == 6.0
        assert {"time/answer", "time/round", "speed/answer", "update/good", "answers/refused"} <= set(line)
    events = EventAccumulator(str(run.folder / "events" / "peer0001")).Reload()
    assert set(events.Tags()["scalars"]) == set(lines[1]) - {"round", "peer"}


def listed(name: str) -> bool:
    """Return whether the table of metrics lists this name, or a pattern that matches it."""
    return name in METRICS or any(re.fullmatch(re.sub(r"<\w+>", r"[\\w@.]+", row), name) for row in METRICS)


def test_the_table_lists_all_that_a_run_measures(tmp_path: Path) -> None:
    run = play(toy_game(), out=tmp_path / "run", rounds=1, peers=2, quiet=True)
    for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
        own = {"round", "peer", "update/good"}  # the last is of a toy node
        assert [name for name in line.keys() - own if not listed(name)] == []


KINDS = {"advantage": "<advantage>", "exchange": "<exchange>", "generate": "<generator>", "reward": "<reward>"}
KINDS |= {"select": "<select>", "source": "<source>", "update": "<update>", "eval": "eval/<eval>"}
KINDS |= {"coordinate": "<coordinate>"}


def logged(folder: Path) -> Iterator[str]:
    """Yield the names that the nodes of a folder pass to `log.metric`; `{...}` in a name becomes <term>."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "metric":
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    yield str(name.value)
                elif isinstance(name, ast.JoinedStr):
                    yield "".join(str(v.value) if isinstance(v, ast.Constant) else "<term>" for v in name.values)


@pytest.mark.parametrize("folder", KINDS)
def test_the_table_lists_all_that_the_nodes_of_the_library_log(folder: str) -> None:
    nodes = Path(genrl_graph.__file__).parent / "nodes" / folder
    assert [name for name in logged(nodes) if f"{KINDS[folder]}/{name}" not in METRICS] == []
