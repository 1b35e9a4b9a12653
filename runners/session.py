"""An open run: its peers, store, trackers and terminal, and what happens from round to round."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console

from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.runners.loop.evaluate import Evaluator, evaluation_line, evaluation_table
from genrl_graph.runners.loop.exchange import Behind, Swarm
from genrl_graph.runners.loop.peers import Peer, changing_carries
from genrl_graph.runners.loop.round import Done, Loop
from genrl_graph.runners.loop.runner import Runner, left
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.loop.trace import Trace
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, save_checkpoint
from genrl_graph.runners.resume.previous_run import Start
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.terminal import Terminal
from genrl_graph.store.durable import sync_file
from genrl_graph.store.run_store import RunStore


class Session:
    """Plays the rounds, evaluations and checkpoints of a run; `evaluation` is its schedule there, None for none.

    `see` is shown every step that was committed, `start` says where the run begins or goes on.
    """

    def __init__(
        self,
        schedule: Schedule,
        evaluation: Schedule | None,
        players: Sequence[Peer],
        runner: Runner,
        swarm: Swarm,
        *,
        config: RunConfig,
        store: RunStore,
        metrics: RoundMetrics,
        terminal: Terminal,
        console: Console,
        stop: Stop,
        see: Callable[[Done], None],
        start: Start,
        trace: Trace,
    ) -> None:
        self._schedule, self._players, self._runner, self._config = schedule, players, runner, config
        self._store, self._metrics, self._terminal, self._console = store, metrics, terminal, console
        self._stop, self._see, self._start, self._trace = stop, see, start, trace
        self.rounds = 0 if config.mode == "evaluate" else config.rounds
        self._budget = self._new_budget(config.max_failed_rows)
        self._budget.failed_rows, self._budget.retries = start.failed_rows, start.retries
        self._loop = Loop(
            schedule,
            players,
            swarm,
            seed=config.seed,
            commit=store.commit,
            begin=terminal.step,
            watch=self._watch,
            budget=self._budget,
            recall=start.recall,
            trace=trace,
        )
        self._evaluator = None if evaluation is None else self._new_evaluator(evaluation)

    def play(self) -> None:
        """All rounds, with the evaluations and checkpoints that are due; raises `Interrupted` after a signal."""
        self._evaluate(0)
        if self._start.first:
            self._evaluate(self._start.first)
        number = self._start.first
        while number < self.rounds:
            number = self._round(number)
            if self._stop.wanted or self._due(number, self._config.checkpoint_every):
                self._checkpoint(number)
            self._evaluate(number)
            if number < self.rounds:
                self._stop.check()
        if self._evaluator is not None:
            self._console.print(evaluation_table(self._evaluator.history))

    def _round(self, number: int) -> int:
        """Play a round, or what there is of it where the swarm goes on without this peer; returns the next one."""
        if number in self._start.left:
            self._loop.play(number, only_recorded=True)
            self._metrics.drop()
            return self._start.left[number]
        started = time.perf_counter()
        try:
            if self._loop.meets(number):
                self._begin(number)
            with self._trace.round(number):
                self._loop.play(number)
        except Behind as behind:
            later = min(behind.round, self.rounds)
            self._store.commit([left(number, player.name, to=later) for player in self._players])
            self._metrics.drop()
            self._terminal.left(number, later)
            return later
        seconds = time.perf_counter() - started
        self._terminal.round(number, self._metrics.end(number, seconds, self._budget.metrics()), seconds)
        return number + 1

    def _begin(self, number: int) -> None:
        """Tell the others; where they have gone on, what was committed of the round before a cut is not lost."""
        try:
            self._runner.begin(number)
        except Behind:
            self._loop.play(number, only_recorded=True)
            raise

    def _checkpoint(self, played: int) -> None:
        """Save the carries; the metrics of the rounds that will not be redone are made durable first."""
        sync_file(self._store.folder / "metrics.jsonl")
        folder = checkpoint_folder(self._store.checkpoints, played)
        save_checkpoint(folder, changing_carries(self._schedule, self._players), keep=self._config.keep)

    def _due(self, played: int, every: int) -> bool:
        """Whether what happens every so many rounds, and after the last, happens now."""
        return played == self.rounds or bool(every and played % every == 0)

    def _evaluate(self, played: int) -> None:
        if self._evaluator is not None and (played == 0 or self._due(played, self._config.eval_every)):
            found = self._evaluator.play(played)
            self._metrics.evaluation(played, found)
            if not all(("eval", played, peer) in self._start.reported for peer in found):
                line = evaluation_line(played, found, self._evaluator.history[0][1])
                self._console.print(line, soft_wrap=True, markup=False)

    def _watch(self, done: Done) -> None:
        self._see(done)
        self._metrics.take(done)
        if done.step is not self._schedule.steps[-1]:  # after the last step the round can end
            self._stop.check()

    def _watch_evaluation(self, done: Done) -> None:
        self._see(done)
        self._stop.check()

    def _new_budget(self, max_failed_rows: int | None) -> Budget:
        return Budget(
            max_failed_rows=max_failed_rows,
            max_retries=self._config.max_retries,
            wait_s=self._config.retry_wait_s,
            tell=lambda line: self._console.print(line, markup=False, soft_wrap=True),
        )

    def _new_evaluator(self, evaluation: Schedule) -> Evaluator:
        return Evaluator(
            evaluation,
            self._players,
            config=self._config,
            commit=self._store.commit,
            begin=partial(self._terminal.step, evaluating=True),
            watch=self._watch_evaluation,
            budget=self._new_budget(None),  # what fails there does not end the training
            recall=self._start.recall,
            trace=self._trace,
        )
