"""The study of a search: Optuna draws settings and keeps results, in a file of the sweep folder."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrl_graph.errors import ParamError, StoreError
from genrl_graph.messages import short
from genrl_graph.runners.sweep.cells import Axes
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.sweep_folder import Goal

if TYPE_CHECKING:
    import optuna

STUDY = "optuna.jsonl"
SETTING = "setting"
MOST_BYTES = 64 * 2**20


class Study:
    """An Optuna study whose trials are settings: their results after some rounds, and which were stopped.

    Only the process that holds the sweep writes it. With `keep`, a setting is stopped unless it is among the best
    1 / `keep` of those that came as far: successive halving (Jamieson and Talwalkar, 2016) over rounds, decided when
    all settings are there, so that neither speed nor order matters.
    """

    def __init__(self, folder: Path, goal: Goal, *, seed: int, keep: int | None) -> None:
        require_optuna()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._seed = seed
        self.goal = goal
        self._sign = 1.0 if goal.direction == "max" else -1.0
        self._keep = keep
        self.path = RunPath(folder) / STUDY
        if self.path.is_file() and self.path.status().st_size > MOST_BYTES:
            raise StoreError(f"{self.path}: has more than {MOST_BYTES} bytes; restore it from a copy")
        try:
            self._study = optuna.create_study(
                storage=_storage(self.path.path),
                study_name="sweep",
                direction="maximize" if goal.direction == "max" else "minimize",
                load_if_exists=True,
            )
        except Exception as error:  # Optuna asserts, indexes and decodes what it reads
            raise StoreError(
                f"{self.path}: no search that a sweep writes ({short(f'{type(error).__name__}: {error}')}); restore it "
                "from a copy"
            ) from error

    def settings(self) -> dict[str, "optuna.trial.FrozenTrial"]:
        """Return the trials by the label of their setting; those without one were not begun."""
        trials = self._study.trials
        return {label: trial for trial in trials if (label := trial.user_attrs.get(SETTING)) is not None}

    def add(self, label: str, values: Mapping[str, str], axes: Axes) -> None:
        """Add a setting of the grid as a trial."""
        self._study.enqueue_trial(dict(values))
        self._study.ask(_distributions(axes)).set_user_attr(SETTING, label)

    def draw(self, axes: Axes) -> "optuna.trial.Trial":
        """Draw a setting by a tree of Parzen estimators, seeded by how many were drawn: a resumed search draws alike.

        A trial that was drawn, but not labelled before the sweep was killed, comes first.
        """
        import optuna

        for trial in self._study.trials:
            if SETTING not in trial.user_attrs and not trial.state.is_finished():
                return self._trial(trial)
        self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + len(self._study.trials))
        return self._study.ask(_distributions(axes))

    def discard(self, trial: "optuna.trial.Trial") -> None:
        """End a trial that drew a known setting again."""
        import optuna

        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def report(self, label: str, rounds: int, value: float) -> None:
        """Record the result of a setting after so many rounds; a result that is not finite counts as the worst."""
        trial = self.settings()[label]
        if rounds not in trial.intermediate_values:
            self._trial(trial).report(value if math.isfinite(value) else -self._sign * math.inf, rounds)

    def stopped(self, rounds: int) -> list[str]:
        """End the trials of settings that are not among the best after so many rounds; returns them, the worst last."""
        import optuna

        reached = {label: t for label, t in self.settings().items() if rounds in t.intermediate_values}
        order = sorted(
            reached, key=lambda label: (-self._sign * reached[label].intermediate_values[rounds], reached[label].number)
        )
        out = order[math.ceil(len(order) / (self._keep or 1)) :]
        for label in out:
            self._tell(label, None, optuna.trial.TrialState.PRUNED)
        return out

    def end(self, label: str, value: float) -> None:
        """End the trial of a setting with its result, or as failed where that is not finite."""
        import optuna

        finite = math.isfinite(value)
        state = optuna.trial.TrialState.COMPLETE if finite else optuna.trial.TrialState.FAIL
        self._tell(label, value if finite else None, state)

    def results(self) -> list[tuple[str, str, int, float]]:
        """Return (setting, state, rounds, result) of all trials, the best first; those without a result last."""
        rows = []
        for label, trial in self.settings().items():
            rounds = max(trial.intermediate_values, default=0)
            value = trial.intermediate_values.get(rounds, math.nan)
            rows.append((label, trial.state.name.lower(), rounds, value))
        return sorted(rows, key=lambda row: (-row[2], math.inf if math.isnan(row[3]) else -self._sign * row[3]))

    def _tell(self, label: str, value: float | None, state: Any) -> None:
        trial = self.settings()[label]
        if not trial.state.is_finished():
            self._study.tell(trial.number, value, state=state)

    def _trial(self, trial: "optuna.trial.FrozenTrial") -> "optuna.trial.Trial":
        import optuna

        return optuna.trial.Trial(self._study, trial._trial_id)


def require_optuna() -> None:
    """Raise `ParamError` where Optuna is not installed; imports nothing."""
    if importlib.util.find_spec("optuna") is None:
        raise ParamError("--early-stop, --trials: optuna is not installed; pip install 'genrl-graph[sweep]'")


def chosen(axes: Axes, params: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the choice of a drawn trial as (key, value, override) of every axis."""
    choice = []
    for axis in axes.axes:
        value = params.get(axis.key, axis.values[0])
        choice.append((axis.key, value, axis.overrides[axis.values.index(value)]))
    for interval in axes.intervals:
        value = params[interval.key]
        choice.append(
            (interval.key, f"{value:.4g}" if isinstance(value, float) else str(value), interval.override(value))
        )
    return choice


def rungs(rounds: int, settings: int, keep: int) -> tuple[int, ...]:
    """Return the rounds after which settings are stopped, so that one is left at the end: a share of `rounds` each."""
    steps = 0
    while keep ** (steps + 1) <= settings and rounds // keep ** (steps + 1) >= 1:
        steps += 1
    return tuple(math.ceil(rounds / keep**step) for step in range(steps, 0, -1))


def _distributions(axes: Axes) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {
        axis.key: CategoricalDistribution(axis.values) for axis in axes.axes if len(axis.values) > 1
    }
    for interval in axes.intervals:
        if interval.whole:
            space[interval.key] = IntDistribution(int(interval.low), int(interval.high), log=interval.log)
        else:
            space[interval.key] = FloatDistribution(interval.low, interval.high, log=interval.log)
    return space


class _HeldSweep:
    """The lock of Optuna's file: the sweep folder is locked already, by a lock that ends with its process."""

    def acquire(self) -> bool:
        """Return at once."""
        return True

    def release(self) -> None:
        """Do nothing."""


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path), lock_obj=_HeldSweep()))
