"""What a run measures: the same names in metrics.jsonl and in TensorBoard, a line a round and peer."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import toy_game

from genrl_graph import play
from genrl_graph.runners.metrics import JsonLines, RoundMetrics, TensorBoard, mean, total
from genrl_graph.runners.round import Done
from genrl_graph.schedule import Step
from genrl_graph.store import RunStore


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, float]]] = []
        self.closed = False

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        self.lines.append((round, peer, dict(metrics)))

    def close(self) -> None:
        self.closed = True


def done(node: str, seconds: float, *, peer: str = "peer0000", action: str = "run", **metrics: float) -> Done:
    return Done(0, Step(action, node, 0, {}), peer, seconds, metrics)  # type: ignore[arg-type]


def test_the_steps_of_a_round_become_one_line_a_peer() -> None:
    kept = Kept()
    metrics = RoundMetrics([kept])
    metrics.take(done("answer", 2.0, tokens=10.0, rows=4.0))
    metrics.take(done("answers", 0.5, action="open", rows=4.0))
    metrics.take(done("answers", 1.0, action="close", rows=8.0, peers=2.0))
    metrics.take(done("answer", 1.0, peer="peer0001", tokens=10.0))
    assert metrics.end(3, 9.0)["peer0000"] == kept.lines[0][2]
    assert kept.lines == [
        (
            3,
            "peer0000",
            {
                "answer/tokens": 10.0,
                "answer/rows": 4.0,
                "time/answer": 2.0,
                "speed/answer": 5.0,
                "answers/rows": 8.0,
                "answers/peers": 2.0,
                "time/answers": 1.5,
                "time/round": 9.0,
            },
        ),
        (3, "peer0001", {"answer/tokens": 10.0, "time/answer": 1.0, "speed/answer": 10.0, "time/round": 9.0}),
    ]
    assert metrics.end(4, 1.0) == {}
    metrics.close()
    assert kept.closed


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
