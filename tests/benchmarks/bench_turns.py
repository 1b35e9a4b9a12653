"""Cost of turns: dialogues against the bare batched `generate` of the same turns, and a step against TRL's trainer.

32 episodes are played side by side, and all turns have equally many tokens. Bare means the same calls of the policy,
without chats, environments and rows. TRL's `GRPOTrainer` plays the same class in its `environment_factory`. Times are
seconds of the processor, of one thread, so that what else runs on the machine counts less.

GENRL_GRAPH_BENCH_MODEL=tiny plays the tiny policy, GENRL_GRAPH_BENCH_TIMES says how often each contender plays.
"""

import copy
import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from measure import Clock, Row, figures, report, started
from speed_game import endless
from turns_game import TurnsJob

from genrl_graph import Log, Tasks
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.seeds import stream

MODEL = os.environ.get("GENRL_GRAPH_BENCH_MODEL", "smollm2")
TIMES = int(os.environ.get("GENRL_GRAPH_BENCH_TIMES", "2"))
JOBS = {
    "smollm2": TurnsJob("smollm2", turns=4, new_tokens=16),
    "tiny": TurnsJob("tiny", turns=8, new_tokens=16),
}
JOB = JOBS[MODEL]
SESSION_MB = 1024
AT_MOST = 1.15
"""Time of a dialogue, as a multiple of the bare calls."""


def test_turns_cost_little_more_than_their_tokens() -> None:
    made = JOB.carry().init("policy", seed=0)
    assert isinstance(made, CausalPolicy)
    policy, seconds = endless(made), dict[str, list[float]]()
    for _ in range(TIMES + 1):  # the first time warms up
        for session in (SESSION_MB, 0):
            name = "with KV session" if session else "without"
            told, bare = _played(policy, session)
            seconds.setdefault(f"dialogue, {name}", []).append(told)
            seconds.setdefault(f"generate, {name}", []).append(bare)
    rows = []
    for name in ("with KV session", "without"):
        bare_row = Row(f"generate, {name}", seconds[f"generate, {name}"][1:])
        rows += [bare_row, Row(f"dialogue, {name}", seconds[f"dialogue, {name}"][1:], bare_row, at_most_ratio=AT_MOST)]
    rows.append(Row("dialogue, with KV session", rows[1].times, rows[3]))
    turns = JOB.episodes * JOB.turns
    title = (
        f"{MODEL}: {JOB.episodes} episodes of {JOB.turns} turns of {JOB.new_tokens} tokens, seconds of the processor"
    )
    report(f"turns, {MODEL}", title, rows)
    speeds = {row.what: (turns / row.seconds, None) for row in rows[:4]}
    figures(f"turns per second, {MODEL}", "Turns per second", speeds)


def _played(policy: CausalPolicy, session_mb: int) -> tuple[float, float]:
    """Return the seconds of all episodes, and of the same calls of the policy alone."""
    calls, tasks = list[tuple[Any, Mapping[str, Any]]](), _tasks()
    generate: Callable[..., Any] = policy.generate

    def recorded(prompts: Any, **given: Any) -> Any:
        calls.append((prompts, {**given, "rng": copy.deepcopy(given["rng"])}))
        return generate(prompts, **given)

    node = JOB.dialogue(session_mb=session_mb)
    policy.generate = recorded  # type: ignore[method-assign]
    play = Clock(lambda: node.run(tasks, policy, rng=stream(0), log=Log(), round=0, peer="peer0000"))
    rows = play()
    policy.generate = generate  # type: ignore[method-assign]
    said: list[Any] = []

    def bare() -> None:
        with policy.keeping(session_mb * 2**20) if session_mb else nullcontext():
            said.extend(row[0].ids for prompts, given in calls for row in generate(prompts, **given))

    alone = Clock(bare)
    alone()
    assert len(rows) == len(said) == JOB.episodes * JOB.turns
    assert sorted(map(tuple, rows.ragged("completion_ids"))) == sorted(map(tuple, said)), "they are the same turns"
    assert {len(ids) for ids in said} == {JOB.new_tokens}
    return play.cpu, alone.cpu


def _tasks() -> Tasks:
    environment = {"kind": "text", "id": "bench_road", "params": {"turns": JOB.turns}}
    metadata = [json.dumps({"environment": environment, "seed": seed}) for seed in range(JOB.tasks)]
    rows = [{"id": f"tasks/{at}", "messages": [], "answer": "", "metadata": text} for at, text in enumerate(metadata)]
    return Tasks.from_rows(rows)


def test_a_step_on_the_environment_of_trl() -> None:
    pytest.importorskip("trl")
    told: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    workers = {name: started("turns_worker.py", name, json.dumps(JOB.sent())) for name in told}
    try:
        for worker in workers.values():
            assert json.loads(_line(worker)) == {"ready": True}
        for _ in range(TIMES):
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                told[name].append(json.loads(_line(worker)))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    trl = Row("TRL's GRPOTrainer", [step["seconds"] for step in told["trl"]])
    rows = [trl, Row("this project", [step["seconds"] for step in told["ours"]], trl)]
    title = f"{MODEL}: a step over {JOB.episodes} episodes of {JOB.turns} calls of {JOB.new_tokens} tokens"
    report(f"turns, a step, {MODEL}", f"{title}, seconds of the processor", rows)
    peaks = {name: max(step["peak_gb"] for step in steps) for name, steps in told.items()}
    values: dict[str, tuple[float, float | None]] = {f"{name}, GB": (peak, None) for name, peak in peaks.items()}
    figures(f"turns, memory, {MODEL}", "Peak memory", {**values, "ours / TRL": (peaks["ours"] / peaks["trl"], None)})
    assert np.isfinite(trl.seconds)


def _line(worker: Any) -> str:
    line: str = worker.stdout.readline()
    assert line, "the contender ended"
    return line
