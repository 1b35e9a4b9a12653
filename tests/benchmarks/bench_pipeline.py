"""Rounds that sample ahead against sampling and training alone, each on one thread (`run.pipeline_depth`)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from measure import Row, report
from speed_game import Job, game

from genrl_graph import RunConfig, play
from genrl_graph.nodes.policy.compute.handle import CausalPolicy

ROUNDS, TIMES = 4, 3
AT_MOST = 1.25
JOB = Job("smollm2", prompts=(128,), tasks=4, generations=4, new_tokens=48)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads need two processors")
def test_sampling_ahead(folder: Path, one_thread: None) -> None:
    policy = JOB.carry(ours=True).init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    times: dict[str, list[float]] = {"sampling": [], "training": [], "longer": [], "in turn": [], "ahead": []}
    for number in range(TIMES):
        in_turn = rounds(folder / f"{number}-0", policy, depth=0)[1:]
        sampling = median(line["time/answer"] for line in in_turn)
        training = median(line["time/round"] - line["time/answer"] for line in in_turn)
        ahead = rounds(folder / f"{number}-1", policy, depth=1)[1:-1]  # the last one samples nothing ahead
        for name, seconds in zip(
            times,
            (
                sampling,
                training,
                max(sampling, training),
                median(line["time/round"] for line in in_turn),
                median(line["time/round"] for line in ahead),
            ),
            strict=True,
        ):
            times[name].append(seconds)
    longer = Row("the longer of the two", times["longer"])
    report(
        "pipeline",
        f"A round of {JOB.rows} completions of {JOB.new_tokens} tokens, one thread for each part",
        [
            Row("sampling", times["sampling"]),
            Row("training", times["training"]),
            longer,
            Row("one after the other", times["in turn"], longer),
            Row("pipeline_depth: 1", times["ahead"], longer, at_most_ratio=AT_MOST),
        ],
    )


def rounds(folder: Path, policy: CausalPolicy, *, depth: int) -> list[dict[str, float]]:
    """Play and return the metrics of each round."""
    graph = game(JOB, policy)
    graph.run = RunConfig(pipeline_depth=depth, rounds=ROUNDS)
    play(graph, out=folder, threads=1, quiet=True)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
