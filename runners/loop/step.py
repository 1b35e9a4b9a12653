"""One step of one peer: attempt it, bind its inputs, execute its node, make its record."""

import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genrl_graph.contract.node import Exchange, Node, Reward
from genrl_graph.contract.resources import OVER_BUDGET, Log
from genrl_graph.dag.schedule import Step
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ColumnError, GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.records.recall import RECEIVED, RecordedStep, verify
from genrl_graph.records.write import step_record
from genrl_graph.runners.loop.context import RunContext
from genrl_graph.runners.loop.exchange import ExchangeResult, PeerBehind
from genrl_graph.runners.loop.failures import LOST_ROWS, NONE_FAILED, FailedRows, failures_of, logged_reasons
from genrl_graph.runners.loop.node_resources import node_resources
from genrl_graph.runners.loop.outputs import check_rows, failed_rows, named_outputs
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.signals import Interrupted
from genrl_graph.runners.loop.step_metrics import step_metrics
from genrl_graph.runners.loop.threads import THREADS
from genrl_graph.runners.loop.without_offenders import LEFT_OUT, run_without_offenders
from genrl_graph.store.journal import Record


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step of one peer: the record to commit, None where there is none, metrics, outputs by name.

    `seconds` is the time of a background step, None for other steps. `digests` are those of carried outputs, by name.
    """

    record: Record | None
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any]
    tries: int = 1
    recalled: bool = False
    seconds: float | None = None
    failed: FailedRows = NONE_FAILED
    digests: Mapping[str, str] = field(default_factory=dict)

    def sizes(self) -> dict[str, object]:
        """Return the numbers of rows and tokens for the trace."""
        return {name: int(self.metrics[name]) for name in ("rows", "tokens") if name in self.metrics}


def attempt_step(
    context: RunContext, step: Step, round: int, peer: Peer, started: Future[StepResult] | None
) -> StepResult:
    """Run one step of one peer, or await it where it was `started` in the background; retry as the budget allows."""
    errors: list[str] = []
    with context.span("step" if started is None else "await", step, round, peer) as facts:
        while True:
            try:
                result = execute_step(context, step, round, peer, errors) if started is None else started.result()
                facts |= result.sizes()
                return result
            except GenrlGraphError as error:
                started = None
                if not context.budget.retry(context.schedule.nodes[step.node], error, attempt=len(errors)):
                    raise
                errors.append(str(error))


def run_in_background(context: RunContext, step: Step, round: int, peer: Peer) -> StepResult:
    """Run the first attempt of a background step in the background thread, and measure its time."""
    started = time.perf_counter()
    with context.span("step", step, round, peer) as facts:
        result = execute_step(context, step, round, peer, ())
        facts |= result.sizes()
    return replace(result, seconds=time.perf_counter() - started)


def execute_step(context: RunContext, step: Step, round: int, peer: Peer, errors: Sequence[str]) -> StepResult:
    """Execute a step, or rebuild the outputs that a previous run committed; errors name node, round and peer.

    Updates, forks and averages are executed again, since weights are not stored with a step, and the result is verified
    against the record. `errors` are those of earlier attempts.
    """
    node = context.schedule.nodes[step.node]
    with context.span("inputs", step, round, peer):
        inputs = context.inputs(step.node, round, peer)
    recorded = None if step.action == "open" else context.recorded(step, round, peer)
    if recorded is not None:
        context.threads.follow(recorded.facts)
    try:
        if recorded is not None and not node.returns_carried():
            return _recalled_step(context, step, node, inputs, round, peer, recorded)
        if context.evaluating and node.returns_carried():
            return StepResult(None, {}, {} if step.action == "open" else _unchanged(step.node, node, inputs))
        if isinstance(node, Exchange) and not node.meets(round):
            result = _without_meeting(context, step, node, inputs, round, peer)
        else:
            result = execute_node(context, step, node, inputs, round, peer, errors, recorded)
    except (PeerBehind, Interrupted):
        raise
    except Exception as error:
        raise _named_error(context.where(step, round, peer.name), step, node, error) from error
    if recorded is None or result.record is None:
        return result
    verify(recorded, result.record, where=context.where(step, round, peer.name))
    return replace(result, record=None, metrics=recorded.metrics, recalled=True)


def execute_node(
    context: RunContext,
    step: Step,
    node: Node,
    inputs: Mapping[str, Any],
    round: int,
    peer: Peer,
    errors: Sequence[str],
    recorded: RecordedStep | None = None,
) -> StepResult:
    """Run a node, or open or close its exchange; check its outputs and make the record of the step.

    An exchange with a record is closed with the rows that it received then.
    """
    if step.action == "open":
        return _open(context, node, inputs, round, peer)
    log, offer = Log(cut=context.cut(step, peer)), None

    def resources(log: Log) -> dict[str, Any]:
        return node_resources(node, context.seed, round, peer.name, peer.tasks, log, evaluating=context.evaluating)

    def run(rows: Mapping[str, Any], log: Log) -> Any:
        return node.run(**rows, **resources(log))  # type: ignore[attr-defined]  # checked at definition

    if isinstance(node, Exchange):
        exchanged = _exchange(context, step, node, inputs, round, peer, recorded)
        offer = next((packet.rows for packet in exchanged.packets if packet.peer == peer.name), None)
        again = {name: inputs[name] for name in node.admitted_with}
        output = node.admit(list(exchanged.packets), **again, **resources(log))  # type: ignore[attr-defined]
        _log_exchange(log, node, exchanged, peer.name)
    else:
        output, log = run_without_offenders(node, inputs, run, log, peer=peer.name)
    if errors:
        log.fact("retried", list(errors))
    if (threads := context.threads.fact()) is not None:
        log.fact(THREADS, threads)
    outputs = named_outputs(node, output, context.schedule.types)
    offenders = {*log.facts.get(OVER_BUDGET, ()), *log.facts.get(LEFT_OUT, ())}
    if log.seconds or offenders:
        context.swarm.judged(round=round, seconds=log.seconds, offenders=offenders)
    check_rows(node, inputs, outputs, peer=peer.name, excused=log.excused)
    metrics = step_metrics(node, outputs, log)
    if (failed := failed_rows(node, inputs, outputs, peer=peer.name, excused=log.excused)) > 0:
        metrics["failed_rows"] = float(failed)
    reasons = logged_reasons(log)
    peer.excused |= log.excused
    lost = failures_of(node, outputs, peer.reasons | reasons, peer=peer.name, excused=peer.excused)
    peer.reasons |= {id: f"{step.node}: {reason}" for id, reason in reasons.items()}
    if lost.count:
        log.fact(LOST_ROWS, lost.fact())
    metrics = dict(sorted(metrics.items()))  # the order in which a recalled record has them
    record = _record(context, node, round, peer, inputs, outputs, offer=offer, metrics=metrics, log=log)
    digests = record.facts.get("digests", {})
    return StepResult(record, metrics, outputs, len(errors) + 1, failed=lost, digests=digests)


def _record(
    context: RunContext,
    node: Node,
    round: int,
    peer: Peer,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    offer: Frame | None,
    metrics: Mapping[str, float],
    log: Log,
) -> Record:
    """Make the record of a step of this run."""
    return step_record(
        node,
        context.schedule.types,
        round=round,
        peer=peer.name,
        prefix=context.prefix,
        inputs=inputs,
        outputs=outputs,
        offer=offer,
        metrics=metrics,
        log=log,
    )


def _recalled_step(
    context: RunContext,
    step: Step,
    node: Node,
    inputs: Mapping[str, Any],
    round: int,
    peer: Peer,
    recorded: RecordedStep,
) -> StepResult:
    """Rebuild the outputs of a committed step; an exchange that others still wait for is closed again with them."""
    if step.action == "close" and context.is_awaited(step, round):
        _close(context, step, node, round, peer)
    outputs = recorded.outputs(node, context.schedule.types, inputs, holder=peer.name, prefix=context.prefix)
    context.budget.retries += recorded.retries
    failed = FailedRows.recorded(recorded.facts)
    return StepResult(None, recorded.metrics, outputs, recorded.retries + 1, recalled=True, failed=failed)


def _without_meeting(
    context: RunContext, step: Step, node: Exchange, inputs: Mapping[str, Any], round: int, peer: Peer
) -> StepResult:
    """Pass carried values on in a round in which the peers of an exchange do not meet; its close has a record."""
    if step.action == "open":
        return StepResult(None, {}, {})
    outputs = _unchanged(step.node, node, inputs)
    record = _record(context, node, round, peer, inputs, outputs, offer=None, metrics={}, log=Log())
    return StepResult(record, {}, outputs, digests=record.facts.get("digests", {}))


def _exchange(
    context: RunContext,
    step: Step,
    node: Exchange,
    inputs: Mapping[str, Any],
    round: int,
    peer: Peer,
    recorded: RecordedStep | None,
) -> ExchangeResult:
    """Close an exchange; one that a previous run has closed gives the packets of its record."""
    if recorded is None:
        return _close(context, step, node, round, peer)
    if context.is_awaited(step, round):
        _close(context, step, node, round, peer)
    offer = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
    group = f"{context.prefix}{step.node}/{RECEIVED}"
    return ExchangeResult(recorded.packets(group, offer, round=round, holder=peer.name))


def _open(context: RunContext, node: Node, inputs: Mapping[str, Any], round: int, peer: Peer) -> StepResult:
    assert isinstance(node, Exchange)
    offer = node.offer(**inputs)  # type: ignore[attr-defined]
    context.swarm.open(node, round=round, peer=peer.name, offer=offer)
    return StepResult(None, {"rows": float(len(offer))}, {})


def _close(context: RunContext, step: Step, node: Node, round: int, peer: Peer) -> ExchangeResult:
    assert isinstance(node, Exchange)
    known = peer.vocabularies
    with context.span("wait", step, round, peer):
        return context.swarm.close(node, round=round, peer=peer.name, tasks=peer.tasks, vocabularies=known)


def _unchanged(name: str, node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a node that passes on the carried values that it would replace."""
    return {f"{name}.{field}" if field else name: inputs[socket] for field, socket in node.signature.replaced.items()}


def _log_exchange(log: Log, node: Exchange, exchanged: ExchangeResult, own: str) -> None:
    """Log the facts, metrics and refusals of an exchange; one that returns carried values also the rows received."""
    log.fact("peers", {packet.peer: len(packet.rows) for packet in exchanged.packets})
    others = [packet.rows for packet in exchanged.packets if packet.peer != own]
    if others and node.returns_carried():
        table = type(others[0]).concat(others).table
        log.rows(RECEIVED, dict(zip(table.column_names, table.columns, strict=True)))
    for name, fact in exchanged.facts.items():
        log.fact(name, fact)
    for name, value in {"peers": len(exchanged.packets), **exchanged.metrics}.items():
        log.metric(name, value)
    if exchanged.refusals:
        log.rows("refusals", exchanged.refusals)


def _named_error(where: str, step: Step, node: Node, error: Exception) -> GenrlGraphError:
    """Return the error of a node with its place in front; errors of other libraries become `NodeFailed`."""
    if isinstance(error, GenrlGraphError):
        text = str(error).removeprefix(f"{step.node}: ")  # some nodes put their name in front, for direct calls
        kind = RewardFailed if isinstance(node, Reward) and isinstance(error, ColumnError) else type(error)
        return kind(f"{where}: {text}")
    failed = RewardFailed if isinstance(node, Reward) else NodeFailed
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return failed(f"{where}: {what} ({_raised_at(error)})")


def _raised_at(error: Exception) -> str:
    """Return the innermost line outside this package, such as "my_nodes.py:12 in run": there the user's code failed."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[2])
    foreign = [frame for frame in frames if not frame.filename.startswith(package)]
    last = (foreign or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"
