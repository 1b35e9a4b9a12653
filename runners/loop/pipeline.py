"""Rounds that sample ahead: while a round trains, a second thread samples the next one with the weights from before."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from types import TracebackType

from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.long_work import displaying
from genrl_graph.records.recall import RecordedStep
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import begin_round, end_round, play_steps, report_step
from genrl_graph.store.journal import Record


class _Ended(Exception):
    """Raised in the second thread, between two steps, where the run ends."""


@dataclass(slots=True)
class _Sampled:
    """The first part of a round: copies of the peers, with its values, the records and reports of its steps.

    `error` is what ended it early.
    """

    round: int
    peers: Sequence[Peer]
    commits: list[Sequence[Record]] = field(default_factory=list)
    reports: list[StepReport] = field(default_factory=list)
    error: Exception | None = None


class Pipeline:
    """Plays rounds whose first part is played ahead (`run.pipeline_depth: 1`, `Schedule.parts`); closed by `with`.

    While this thread plays the second part of round n, another one plays the first part of round n + 1, with copies of
    the policies from the start of round n: its rows are older than the weights by the updates of one round. A round
    ends when both have ended and are committed, in this order: so the store does not depend on their times, and what is
    sampled after a checkpoint is sampled with the weights in it. A run that is interrupted samples again what it had
    sampled ahead. The last of `rounds` samples nothing ahead: a run that is extended later begins its next round with
    the newest weights.
    """

    def __init__(self, context: RunContext, peers: Sequence[Peer], *, rounds: int) -> None:
        self._peers, self._rounds = peers, rounds
        self._first, self._second = context.schedule.parts()
        self._store = context
        self._context = replace(context, commit=self._commit, recall=self._recall)
        self._lock, self._ending = Lock(), Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._ahead: _Sampled | None = None

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the second thread after its running step."""
        self._ending.set()
        self._thread.shutdown(cancel_futures=True)

    def run_round(self, round: int) -> None:
        """Play a round, without what was played ahead of it, and meanwhile the first part of the next one.

        Raises what a step of this round raised; what one of the next round raised comes with `require_sampled`.
        """
        sampled, self._ahead = self._ahead or self._sample(round), None
        for peer, ahead in zip(self._peers, sampled.peers, strict=True):
            peer.values, peer.reasons, peer.excused = ahead.values | peer.carries, ahead.reasons, ahead.excused
        try:
            for done in sampled.reports:
                report_step(self._context, done)
            running = self._start(round + 1) if round + 1 < self._rounds else None
            play_steps(self._context, self._second, round, self._peers)
            if running is not None:
                self._ahead = running.result()
                for records in self._ahead.commits:
                    self._context.commit(records)
        finally:
            for peer in self._peers:
                end_round(self._context, peer)

    def require_sampled(self) -> None:
        """Raise what ended the first part of the next round, before a checkpoint replaces the weights it read."""
        if self._ahead is not None and self._ahead.error is not None:
            raise self._ahead.error

    def _sample(self, round: int) -> _Sampled:
        """Play the first part of a round in this thread: nothing trains meanwhile."""
        sampled = _Sampled(round, [replace(peer) for peer in self._peers])
        self._play_first(self._context, sampled)
        return sampled

    def _start(self, round: int) -> "Future[_Sampled]":
        """Play the first part of a round in the second thread, with the policies as they are now."""
        sampled = _Sampled(round, [replace(peer, carries=self._copied(peer)) for peer in self._peers])
        return self._thread.submit(copy_context().run, self._play_ahead, sampled)

    def _play_ahead(self, sampled: _Sampled) -> _Sampled:
        """Play the first part of a round beside another one; nothing is committed or shown meanwhile."""
        context = replace(self._context, commit=sampled.commits.append, begin=lambda step, peer: None)
        try:
            with displaying(lambda description: nullcontext()):
                self._play_first(context, sampled)
        except Exception as error:
            sampled.error = error
        return sampled

    def _play_first(self, context: RunContext, sampled: _Sampled) -> None:
        def report(done: StepReport) -> None:
            sampled.reports.append(done)
            if self._ending.is_set():
                raise _Ended

        for peer in sampled.peers:
            begin_round(context, peer)
        play_steps(context, self._first, sampled.round, sampled.peers, report=report)

    def _copied(self, peer: Peer) -> dict[str, Carried]:
        """Return the carries of a peer, with copies of the policies that change while the next round reads them."""
        graph, carries = self._context.schedule.graph, dict(peer.carries)
        for name in {ref for step in self._first for ref in step.reads.values()} & carries.keys():
            value = carries[name]
            if graph.carries[name].next is not None and isinstance(value, Policy):
                carries[name] = value.frozen(name)
        return carries

    def _commit(self, records: Sequence[Record]) -> None:
        with self._lock:  # a resumed run reads the store in the second thread
            self._store.commit(records)

    def _recall(self, round: int, node: str, peer: str) -> RecordedStep | None:
        with self._lock:
            return self._store.recall(round, node, peer)
