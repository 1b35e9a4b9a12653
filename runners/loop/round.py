"""One round: every step of the schedule, for all peers of this process.

The way from `play()` to a committed step:

    play             runners/play.py      check the options, compile the graph
    open_run         runners/opening.py   take the run folder, make carries and peers, restore a previous run
    Session.play     runners/session.py   go from round to round, with evaluations and checkpoints
    run_round        below                run the steps of the schedule in its order
    run_step         below                run one step for every peer, commit its records, report it
    attempt_step     loop/step.py         run one step of one peer, again where the budget allows
    execute_step     loop/step.py         bind inputs; run the node, or recall what a previous run committed
    execute_node     loop/step.py         run the node, check its outputs, make the record
    RunStore.commit  store/run_store.py   append the records to the journal, on disk before it returns
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from genrl_graph.allocator import release_memory
from genrl_graph.contract.node import Generator
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.schedule import Step
from genrl_graph.runners.loop.background import BackgroundSteps
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.stage_metrics import totals
from genrl_graph.runners.loop.step import StepResult, attempt_step, run_in_background
from genrl_graph.store.journal import Record

Background = BackgroundSteps[StepResult]


def run_round(context: RunContext, peers: Sequence[Peer], round: int, *, only_recorded: bool = False) -> None:
    """Run every step of a round for all peers; each step is committed before the next begins.

    Peers run a step one after the other in one thread. Background steps overlap in a second thread; they are awaited,
    committed and raise at their own place in the schedule. With `only_recorded` the round ends where the previous run
    did. A round that ends early, also by `PeerBehind`, keeps the updates that it made.
    """
    for peer in peers:
        peer.values = {**peer.carries, **context.schedule.rows_elsewhere()}
        peer.reasons, peer.excused = {}, set()
    try:
        with Background() as background:
            for step in context.schedule.steps:
                recorded = all(context.recorded(step, round, peer) for peer in peers)
                if only_recorded and not recorded:
                    if step.action == "open":  # opening has no record; committed steps may follow
                        continue
                    break
                if step.action == "open" and recorded and not context.is_awaited(step, round):
                    continue
                if not recorded:
                    _start_background(context, step, round, peers, background)
                run_step(context, step, round, peers, background)
    finally:
        for peer in peers:
            _update_carries(context, peer)


def run_step(context: RunContext, step: Step, round: int, peers: Sequence[Peer], background: Background) -> None:
    """Run one step for every peer, then commit the records of all and report them."""
    records: list[Record] = []
    reports = []
    for peer in peers:
        context.begin(step, peer.name)
        started = time.perf_counter()
        result = attempt_step(context, step, round, peer, background.take((str(step), peer.name)))
        seconds = time.perf_counter() - started if result.seconds is None else result.seconds
        peer.values.update(result.outputs)
        reports.append(_report(context, step, round, peer, result, seconds))
        if result.record is not None:
            records.append(result.record)
    if records:
        with ExitStack() as spans:
            for peer in peers:
                spans.enter_context(context.span("commit", step, round, peer))
            context.commit(records)
    for report in reports:
        failed = int(report.metrics.get("failed_rows", 0))
        where = context.where(step, round, report.peer)
        context.budget.spend_rows(failed, where=where)
        if report.failed.count and _is_limited(context, step):
            context.budget.limit_share(report.failed, where=where)
        context.watch(report)
    release_memory(seldom=True)


def _is_limited(context: RunContext, step: Step) -> bool:
    """Return whether failed rows of this step are limited: a reward that another one reads may judge a part of them."""
    return isinstance(context.schedule.nodes[step.node], Generator) or step.node in totals(context.schedule)


def needs_others(context: RunContext, peers: Sequence[Peer], round: int) -> bool:
    """Return whether this round needs other processes: False where a previous run has closed all of its exchanges."""
    closes = [step for step in context.schedule.steps if step.action == "close"]
    return not closes or not all(context.recorded(step, round, peer) for step in closes for peer in peers)


def _start_background(
    context: RunContext, step: Step, round: int, peers: Sequence[Peer], background: Background
) -> None:
    """Start the background steps that run beside this one, without those that a previous run committed."""
    for other in context.background.get(str(step), ()):
        for peer in peers:
            if context.recorded(other, round, peer) is None:
                background.start((str(other), peer.name), partial(run_in_background, context, other, round, peer))


def _report(context: RunContext, step: Step, round: int, peer: Peer, result: StepResult, seconds: float) -> StepReport:
    return StepReport(
        round,
        step,
        peer.name,
        seconds,
        metrics=result.metrics,
        outputs=result.outputs,
        tries=result.tries,
        recalled=result.recalled,
        evaluating=context.evaluating,
        failed=result.failed,
        digests=result.digests,
    )


def _update_carries(context: RunContext, peer: Peer) -> None:
    """Move the round's new values to the carries of a peer, and drop the other outputs."""
    if not context.evaluating:
        for name, part in context.schedule.graph.carries.items():
            peer.carries[name] = value = peer.values.get(part.next or name, peer.carries[name])
            if isinstance(value, Policy):
                value.name = name  # a fork that becomes a carry takes its name
    peer.values = {}
