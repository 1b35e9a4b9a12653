"""The worth of an average of weights: four tiny peers alone, with averages, and with each other's rollouts.

All sample the same number of tokens; with the rollouts of all, a peer trains on four times as many. Then one peer of
four sends garbage weights, which no norm is asked of, and mean and median are compared:

    python tests/runners/averages.py [--seeds 5] [--rounds 30] [--out FOLDER]

A line a seed and arm is kept in FOLDER/averages.jsonl; arms that are in it are not played again.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrl_graph.comparison.interval import mean_intervals
from genrl_graph.contract.node import Packet
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.weights import Weights
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.exchange.average import Average, Averaged, P
from genrl_graph.nodes.exchange.outer_state import OuterState
from genrl_graph.nodes.exchange.weight_rows import vector_of, weight_rows
from genrl_graph.runners.play import play
from genrl_graph.seeds import stream

PEERS = 4
TASKS = json.dumps([{"question": f"{digit}+1=", "answer": str((digit + 1) % 10)} for digit in range(10)])
SHOWN = 6  # points of a curve
GARBAGE = 20.0  # norm of garbage, in norms of what the peer would have sent

GAME = """
graph: averages
version: 1
carry:
  policy:
    type: policy.tiny_lm
    params: {{alphabet: 0123456789+=, initializer_range: 0.1, hidden_size: 32, layers: 1, heads: 2}}
    next: {next}
{outer}
nodes:
  tasks: {{type: source.list, params: {{tasks: {tasks}, num_tasks: 10}}}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 8, max_new_tokens: 1}}
{shared}
  score: {{type: reward.regex, inputs: {{rollouts: {scored}}}, params: {{pattern: '^(\\d)$', compare: true}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update:
    type: update.grpo
    inputs: {{policy: policy, credited: [credit]}}
    params: {{learning_rate: 5e-3, max_batch_tokens: 65536}}
{average}
run: {{peers: 4, trackers: []}}
"""
OUTER = "  outer: {type: carry.outer, next: average.outer}"
GATHER = "  gathered: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 4}}"
AVERAGE = "  average: {{type: exchange.{kind}, inputs: {{policy: update, outer: outer}}, params: {{{params}}}}}"


class Tampered(Average, name="tampered"):
    """An average in which the last peer sends noise in place of its weights."""

    def admit(
        self, packets: list[Packet[Weights]], policy: P, outer: OuterState, *, peer: str, log: Log
    ) -> Averaged[P]:
        """Return the average of what the peers sent."""
        last = packets[-1]
        sent = vector_of(last.rows)
        noise = stream("garbage", len(sent), last.round).standard_normal(len(sent)).astype(np.float32)
        noise *= GARBAGE * np.linalg.norm(sent) / np.linalg.norm(noise)
        layout, start = (last.rows.values(name)[0] for name in ("layout", "start"))
        garbage = Packet(last.peer, last.round, weight_rows(noise, layout=layout, start=start))
        return super().admit([*packets[:-1], garbage], policy, outer, peer=peer, log=log)


def arms() -> dict[str, str]:
    """Return the graph of each arm."""
    average = "every: 5, min_peers: 4, combine: {}, max_norm_ratio: null"

    def game(kind: str = "", params: str = "", *, rollouts: bool = False) -> str:
        return GAME.format(
            tasks=TASKS,
            next="average.policy" if kind else "update",
            outer=OUTER if kind else "",
            shared=GATHER if rollouts else "",
            scored="gathered" if rollouts else "answer",
            average=AVERAGE.format(kind=kind, params=params) if kind else "",
        )

    return {
        "alone": game(),
        "average": game("average", average.format("mean")),
        "rollouts": game(rollouts=True),
        "garbage, mean": game("tampered", average.format("mean")),
        "garbage, median": game("tampered", average.format("median")),
    }


def curve(text: str, *, rounds: int, seed: int) -> list[float]:
    """Play a graph; return the mean reward of honest peers' own answers in each of `SHOWN` parts of the run."""
    graph = read_document(parse_document(text, file="averages.yaml")).graph
    with tempfile.TemporaryDirectory() as folder:
        play(graph, out=Path(folder) / "run", rounds=rounds, seed=seed, quiet=True, threads=1)
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    rewards: list[list[float]] = [[] for _ in range(rounds)]
    for line in map(json.loads, lines):
        if line.get("peer") != f"peer{PEERS - 1:04d}" and "score/reward" in line:
            rewards[line["round"]].append(line["score/reward"])
    means = [float(np.mean(each)) for each in rewards]
    return [float(np.mean(part)) for part in np.array_split(means, SHOWN)]


def table(curves: dict[str, NDArray[np.float64]]) -> str:
    """Return mean and 95 % interval over the seeds, per arm and part of the run, and of two arms seed by seed."""
    rows = curves | {"average - rollouts": curves["average"] - curves["rollouts"]}
    lines = []
    for name, values in rows.items():
        over = mean_intervals(values)
        cells = [f"{mean:6.3f} ±{high - mean:.3f}" for mean, high in zip(over.mean, over.high, strict=True)]
        lines.append(f"{name:18} {len(values)} seeds  " + "  ".join(cells))
    return "\n".join(lines)


def check(curves: dict[str, NDArray[np.float64]]) -> None:
    """Assert what averages are for, in the last part of the run and beyond the intervals."""
    ends = {arm: mean_intervals(values[:, -1:]) for arm, values in curves.items()}
    low, mean, high = (
        {arm: getattr(end, side).item() for arm, end in ends.items()} for side in ("low", "mean", "high")
    )
    assert low["average"] > high["alone"], "averages help"
    assert low["garbage, median"] > high["alone"], "the median holds"
    assert mean["garbage, median"] > 0.9 * mean["average"], "the median loses little"
    assert low["alone"] > high["garbage, mean"], "the mean does not hold"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="at least 2, for intervals")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "averages.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(each["arm"], each["seed"], each["rounds"]): each["curve"] for each in known}
    for seed in range(args.seeds):
        for arm, text in arms().items():
            if (key := (arm, seed, args.rounds)) not in done:
                done[key] = curve(text, rounds=args.rounds, seed=seed)
                with file.open("a") as lines:
                    line = {"arm": arm, "seed": seed, "rounds": args.rounds, "curve": done[key]}
                    lines.write(json.dumps(line) + "\n")
        curves = {arm: np.asarray([done[arm, at, args.rounds] for at in range(seed + 1)]) for arm in arms()}
        print(table(curves), flush=True)
    check(curves)


if __name__ == "__main__":
    main()
