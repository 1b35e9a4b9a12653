"""An open run: its peers, store, trackers and terminal, and what happens from round to round."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console

from genrl_graph.run_config import RunConfig
from genrl_graph.runners.budget import Budget
from genrl_graph.runners.checkpoint import save_checkpoint
from genrl_graph.runners.evaluate import Evaluator, evaluation_line, evaluation_table
from genrl_graph.runners.meet import LocalSwarm
from genrl_graph.runners.metrics import RoundMetrics
from genrl_graph.runners.peers import changing_carries
from genrl_graph.runners.progress import Terminal
from genrl_graph.runners.round import Done, Loop, Peer
from genrl_graph.runners.signals import Stop
from genrl_graph.schedule import Schedule
from genrl_graph.store import RunStore


class Session:
    """Plays the rounds, evaluations and checkpoints of a run; `evaluation` is its schedule there, None for none.

    `see` is shown every step that was committed.
    """

    def __init__(
        self,
        schedule: Schedule,
        evaluation: Schedule | None,
        players: Sequence[Peer],
        *,
        config: RunConfig,
        store: RunStore,
        metrics: RoundMetrics,
        terminal: Terminal,
        console: Console,
        stop: Stop,
        see: Callable[[Done], None],
    ) -> None:
        self._schedule, self._players, self._config = schedule, players, config
        self._store, self._metrics, self._terminal, self._console = store, metrics, terminal, console
        self._stop, self._see = stop, see
        self.rounds = 0 if config.mode == "evaluate" else config.rounds
        self._budget = Budget(
            max_failed_rows=config.max_failed_rows, max_retries=config.max_retries, wait_s=config.retry_wait_s
        )
        self._loop = Loop(
            schedule,
            players,
            LocalSwarm([player.name for player in players]),
            seed=config.seed,
            commit=store.commit,
            begin=terminal.step,
            watch=self._watch,
            budget=self._budget,
        )
        self._evaluator = None if evaluation is None else self._new_evaluator(evaluation)

    def play(self) -> None:
        """All rounds, with the evaluations and checkpoints that are due; raises `Interrupted` after a signal."""
        self._evaluate(0)
        for number in range(self.rounds):
            started = time.perf_counter()
            self._loop.play(number)
            seconds = time.perf_counter() - started
            self._terminal.round(number, self._metrics.end(number, seconds, self._budget.metrics()), seconds)
            if self._stop.wanted or self._due(number + 1, self._config.checkpoint_every):
                folder = self._store.checkpoints / f"{number + 1:06d}"
                save_checkpoint(folder, changing_carries(self._schedule, self._players))
            self._evaluate(number + 1)
            if number < self.rounds - 1:
                self._stop.check()
        if self._evaluator is not None:
            self._console.print(evaluation_table(self._evaluator.history))

    def _due(self, played: int, every: int) -> bool:
        """Whether what happens every so many rounds, and after the last, happens now."""
        return played == self.rounds or bool(every and played % every == 0)

    def _evaluate(self, played: int) -> None:
        if self._evaluator is not None and (played == 0 or self._due(played, self._config.eval_every)):
            found = self._evaluator.play(played)
            self._metrics.evaluation(played, found)
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

    def _new_evaluator(self, evaluation: Schedule) -> Evaluator:
        return Evaluator(
            evaluation,
            self._players,
            config=self._config,
            commit=self._store.commit,
            begin=self._terminal.step,
            watch=self._watch_evaluation,
            budget=self._budget,
        )
