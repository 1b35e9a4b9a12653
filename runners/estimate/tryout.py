"""An estimate by trial: play and time a few rounds of a game whose policies are small, and discard the results."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.display import DisplayMetrics
from genrl_graph.errors import named
from genrl_graph.messages import counted
from genrl_graph.nodes.policy.compute.activation_checkpointing import GB
from genrl_graph.runners.estimate.costs import Range
from genrl_graph.runners.estimate.forecast import Forecast, MeasuredRun, StepCost
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import make_peers, peer_names
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.loop.stage_metrics import display_metrics
from genrl_graph.runners.tracking.memory import memory
from genrl_graph.store.run_store import RunStore

FEWEST, MOST, PATIENCE_S = 3, 100, 4.0
"""Fewest and most rounds that are played, and the seconds after which no further round begins."""
PACE, KNOWN_PACE = Range(0.75, 1.5), Range(0.75, 1.4)
"""Factors between timed and actual seconds of a step, without and with a stored run for comparison."""
START_S, ROOM = Range(1.0, 10.0), Range(0.9, 1.3)


@dataclass(slots=True)
class TrialTimes:
    """Measurements by step of each round, over all peers: seconds, rows, and effort by its column heading.

    `rounds` are the seconds of whole rounds, commits included.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    effort: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    rounds: list[float] = field(default_factory=list)


def is_small(schedule: Schedule) -> bool:
    """Return whether a graph has policies and all are small, so that rounds can be tried out in seconds."""
    policies = [part.carry for part in schedule.graph.carries.values() if isinstance(part.carry, PolicyCarry)]
    return bool(policies) and all(policy.small for policy in policies)


def try_out(schedule: Schedule) -> TrialTimes:
    """Play the first rounds in a temporary folder with untrained policies and without coordinators, and time them."""
    schedule = schedule.played_in("evaluations")  # without coordinators
    run, tried, shown = schedule.graph.run, TrialTimes(), display_metrics(schedule)
    names = peer_names(run.peers)
    for name, node in schedule.nodes.items():
        with named(f"nodes.{name}"):
            node.prepare()
    done: list[StepReport] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        store = stack.enter_context(RunStore.create(folder, schedule.graph.record(), {}))
        peers = make_peers(schedule, names, seed=run.seed)
        swarm = LocalSwarm(names)
        context = RunContext(schedule=schedule, swarm=swarm, seed=run.seed, commit=store.commit, watch=done.append)
        started = time.perf_counter()
        for number in range(min(run.rounds, MOST)):
            if number >= FEWEST and time.perf_counter() - started > PATIENCE_S:
                break
            begun = time.perf_counter()
            run_round(context, peers, number)
            tried.rounds.append(time.perf_counter() - begun)
            _take(tried, done, shown, peers=len(names))
            done.clear()
    return tried


def _take(tried: TrialTimes, done: list[StepReport], shown: Mapping[str, DisplayMetrics], *, peers: int) -> None:
    """Add a round: the sums over the peers; of effort that is a mean itself, the mean over the peers."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    effort: dict[tuple[str, str], float] = defaultdict(float)
    for item in done:
        sums[str(item.step)][0] += item.seconds
        sums[str(item.step)][1] += item.metrics.get("rows", 0.0)
        display = shown.get(item.step.node, DisplayMetrics())
        for name, words in display.effort.items():
            value = item.metrics.get(name, 0.0)
            effort[str(item.step), words] += value if name == display.unit else value / peers
    for step, (seconds, rows) in sums.items():
        tried.seconds[step].append(seconds)
        tried.rows[step].append(rows)
    for (step, words), value in effort.items():
        tried.effort[step][words].append(value)


def tried_forecast(schedule: Schedule, tried: TrialTimes, *, fact: MeasuredRun | None = None) -> Forecast:
    """Return the forecast from trial rounds; where a stored run was measured (`fact`), its seconds are used."""
    graph, later = schedule.graph, slice(1 if len(tried.rounds) > 1 else 0, None)
    steps = tuple(_cost(schedule, str(step), step.node, tried, later, fact) for step in schedule.steps)
    within = [sum(seconds[at] for seconds in tried.seconds.values()) for at in range(len(tried.rounds))]
    around = [whole - inside for whole, inside in zip(tried.rounds, within, strict=True)][later]
    peak = memory().get("memory/peak_gb", 0.0) * GB
    return Forecast(
        graph=graph.name,
        rounds=graph.run.rounds,
        peers=graph.run.peers,
        steps=steps,
        start_seconds=START_S,
        end_seconds=Range.over(*around).between(PACE).times(graph.run.rounds),
        memory=Range(peak * ROOM.low, peak * ROOM.high),
        memory_parts={},
        device="cpu",
        assumptions=tuple(_assumptions(schedule, tried, fact)),
    )


def _cost(
    schedule: Schedule, step: str, node: str, tried: TrialTimes, later: slice, fact: MeasuredRun | None
) -> StepCost:
    seconds, rows = tried.seconds.get(step, [0.0]), tried.rows.get(step, [0.0])
    known = None if fact is None or step.startswith("open ") else fact.seconds.get(node)
    timed = Range.over(*seconds[later]).between(PACE) if known is None else KNOWN_PACE.times(known)
    return StepCost(
        step=step,
        node=node,
        type_name=schedule.graph.nodes[node].type_name,
        rows=Range.over(*rows),
        prompt_tokens=Range(0, 0),
        completion_tokens=Range(0, 0),
        seconds=timed,
        first_seconds=max(seconds[0] - max(seconds[later]), 0.0),
        effort={words: Range.over(*values) for words, values in tried.effort.get(step, {}).items()},
    )


def _assumptions(schedule: Schedule, tried: TrialTimes, fact: MeasuredRun | None) -> list[str]:
    played = counted(len(tried.rounds), "round")
    lines = [f"what the untrained policy did in {played} that were tried out; one that has learned may play longer"]
    lines.append("speeds of this machine as busy as it is now" if fact is None else f"seconds as in {fact.folder}")
    if schedule.graph.run.mode != "train":
        lines.append("evaluations are not counted")
    return lines
