"""The session of a run: play round after round, with evaluations, checkpoints and metrics."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.messages import escaped
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.coordinator import Coordinator
from genrl_graph.runners.loop.diagnosis import Diagnosis
from genrl_graph.runners.loop.evaluate import Evaluator, evaluation_line, evaluation_table
from genrl_graph.runners.loop.exchange import PeerBehind, Swarm
from genrl_graph.runners.loop.failures import first_failure
from genrl_graph.runners.loop.peers import Peer, changing_carries
from genrl_graph.runners.loop.pipeline import Pipeline
from genrl_graph.runners.loop.round import needs_others, run_round
from genrl_graph.runners.loop.runner import Runner, skipped_round
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.loop.threads import Threads
from genrl_graph.runners.loop.trace import Trace
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, save_checkpoint
from genrl_graph.runners.resume.previous_run import Start
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.terminal import Terminal
from genrl_graph.store.journal import Record
from genrl_graph.store.metrics_file import METRICS
from genrl_graph.store.notes_file import add_note
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """All that a session needs: schedules, peers, store, and where results are shown.

    `evaluation` is the schedule of the evaluations, None for none; `see` gets the report of every committed step;
    `start` says with which round the session begins.
    """

    schedule: Schedule
    evaluation: Schedule | None
    players: Sequence[Peer]
    runner: Runner
    swarm: Swarm
    coordinator: Coordinator
    config: RunConfig
    store: RunStore
    metrics: RoundMetrics
    terminal: Terminal
    console: Console
    stop: Stop
    see: Callable[[StepReport], None]
    start: Start
    trace: Trace
    diagnosis: Diagnosis

    @property
    def rounds(self) -> int:
        """The number of rounds to train, those of previous sessions included."""
        return 0 if self.config.mode == "evaluate" else self.config.rounds


class Session:
    """Plays the rounds of an open run, with its evaluations and checkpoints."""

    def __init__(self, run: OpenRun, *, threads: Threads) -> None:
        self._run = run
        self._skipped = dict(run.start.skipped)
        self._budget = self._new_budget(run.config.max_failed_share, run.config.max_failed_rows)
        self._budget.failed_rows, self._budget.retries = run.start.spent.failed_rows, run.start.spent.retries
        self._context = RunContext(
            schedule=run.schedule,
            swarm=run.swarm,
            seed=run.config.seed,
            commit=self._commit,
            begin=run.terminal.step,
            watch=self._watch,
            budget=self._budget,
            recall=run.start.recall,
            trace=run.trace,
            threads=threads,
        )
        self._first_failure = run.start.spent.first_failure
        self._pipeline: Pipeline | None = None
        self._evaluator = None if run.evaluation is None else self._new_evaluator(run.evaluation)

    @property
    def unplayed(self) -> int:
        """The number of rounds that were left out because the swarm was in a later one, previous sessions included."""
        return sum(later - number for number, later in self._skipped.items())

    def play(self) -> None:
        """Play all rounds, with the evaluations and checkpoints between them; raises `Interrupted` after a signal."""
        with ExitStack() as stack:
            if self._run.schedule.ahead:
                pipeline = Pipeline(self._context, self._run.players, rounds=self._run.rounds)
                self._pipeline = stack.enter_context(pipeline)
            self._play()

    def _play(self) -> None:
        self._evaluate(0)
        if self._run.start.first:
            self._evaluate(self._run.start.first)
        number = self._run.start.first
        while number < self._run.rounds:
            number = self._round(number)
            if self._run.stop.wanted or self._is_due(number, self._run.config.checkpoint_every):
                self._checkpoint(number)
            self._evaluate(number)
            if number < self._run.rounds:
                self._run.stop.check()
        if self._evaluator is not None:
            self._run.console.print(evaluation_table(self._evaluator.history))

    def _round(self, number: int) -> int:
        """Play a round and return the number of the next one.

        When the swarm is in a later round, the rest of this one is skipped. A previous run may have skipped it, too:
        then only its recorded steps are restored.
        """
        if number in self._run.start.skipped:
            run_round(self._context, self._run.players, number, only_recorded=True)
            self._drop()
            return self._run.start.skipped[number]
        started = time.perf_counter()
        try:
            if needs_others(self._context, self._run.players, number):
                self._begin(number)
            with self._run.trace.round(number):
                if self._pipeline is None:
                    run_round(self._context, self._run.players, number)
                else:
                    self._pipeline.run_round(number)
        except PeerBehind as behind:
            later = min(behind.round, self._run.rounds)
            self._run.store.commit([skipped_round(number, player.name, to=later) for player in self._run.players])
            self._drop()
            self._run.terminal.skipped(number, later)
            self._skipped[number] = later
            return later
        self._end(number, time.perf_counter() - started)
        if self._pipeline is not None:
            self._pipeline.require_sampled()
        return number + 1

    def _end(self, number: int, seconds: float) -> None:
        """Write the metrics of a round and show its results; a recalled round has the metrics of its first time."""
        failed, lines, stalled = self._run.diagnosis.end(number)
        more = {**self._budget.metrics(), **stalled, **self._run.runner.metrics(), **self._run.coordinator.metrics()}
        peers = self._run.metrics.end(number, seconds, more)
        self._run.terminal.round(number, self._run.start.measured.get(number, peers), seconds, failed=failed)
        for line in lines:
            self._warn(line)

    def _drop(self) -> None:
        self._run.metrics.drop()
        self._run.diagnosis.drop()

    def summary(self) -> list[str]:
        """Return what the end of a run says of all its rounds: failed rows, and rounds in which nothing was learned."""
        lines = []
        if self._budget.failed_rows:
            first = f", the first because: {self._first_failure}" if self._first_failure else ""
            lines.append(f"rows that failed or could not be judged: {self._budget.failed_rows}{first}")
        return [line for line in (*lines, self._run.diagnosis.summary()) if line]

    def _commit(self, records: Sequence[Record]) -> None:
        """Commit records, then let the coordinator take what they submit."""
        self._run.store.commit(records)
        self._run.coordinator.committed(records)

    def _begin(self, number: int) -> None:
        """Announce the round; when the others are in a later one, restore what a previous run committed of this one."""
        try:
            self._run.coordinator.begin(number)
            self._run.runner.begin(number)
        except PeerBehind:
            run_round(self._context, self._run.players, number, only_recorded=True)
            raise

    def _checkpoint(self, played: int) -> None:
        """Save the carries, once the metrics of their rounds are on disk: a resumed run does not write these again."""
        (RunPath(self._run.store.folder) / METRICS).sync()
        folder = checkpoint_folder(self._run.store.checkpoints, played)
        save_checkpoint(folder, changing_carries(self._run.schedule, self._run.players), keep=self._run.config.keep)

    def _is_due(self, played: int, every: int) -> bool:
        """Return whether `played` is the last round or a multiple of `every` (0: never)."""
        return played == self._run.rounds or bool(every and played % every == 0)

    def _evaluate(self, played: int) -> None:
        """Evaluate where it is due; a resumed run recalls earlier evaluations and prints only new ones."""
        if self._evaluator is not None and (played == 0 or self._is_due(played, self._run.config.eval_every)):
            metrics = self._evaluator.play(played)
            self._run.metrics.evaluation(played, metrics)
            if not all(("eval", played, peer) in self._run.start.reported for peer in metrics):
                line = evaluation_line(played, metrics, self._evaluator.history[0][1])
                self._tell(line)

    def _watch(self, done: StepReport) -> None:
        self._run.see(done)
        self._run.metrics.take(done)
        self._run.diagnosis.take(done)
        if done.failed.count and not self._first_failure:
            self._first_failure = first_failure(done.step.node, done.round, done.failed.reason)
        self._look_at_threads()
        if done.step is not self._run.schedule.steps[-1]:  # after the last step the round can end
            self._run.stop.check()

    def _watch_evaluation(self, done: StepReport) -> None:
        self._run.see(done)
        self._look_at_threads()
        self._run.stop.check()

    def _look_at_threads(self) -> None:
        if (line := self._context.threads.look()) is not None:
            self._warn(line)

    def _new_budget(self, max_failed_share: float, max_failed_rows: int | None) -> Budget:
        return Budget(
            max_failed_share=max_failed_share,
            max_failed_rows=max_failed_rows,
            max_retries=self._run.config.max_retries,
            wait_s=self._run.config.retry_wait_s,
            tell=self._warn,
        )

    def _warn(self, line: str) -> None:
        """Print a line and add it to the notes of the run."""
        self._tell(line)
        add_note(self._run.store.folder, line)

    def _tell(self, line: str) -> None:
        self._run.console.print(escaped(line), markup=False, soft_wrap=True)

    def _new_evaluator(self, evaluation: Schedule) -> Evaluator:
        only = self._run.config.mode == "evaluate"  # else rows that fail in an evaluation do not end the training
        budget = self._new_budget(self._run.config.max_failed_share if only else 1.0, None)
        budget.retries = self._run.start.spent.evaluation_retries
        context = replace(
            self._context,
            schedule=evaluation,
            begin=partial(self._run.terminal.step, evaluating=True),
            watch=self._watch_evaluation,
            budget=budget,
        )
        return Evaluator(context, self._run.players, self._run.config)
