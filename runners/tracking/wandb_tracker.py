"""Weights & Biases: a run a peer, in one group; offline where nobody is logged in."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from genrl_graph.runners.tracking.metric_names import plain_name
from genrl_graph.runners.tracking.run_card import RunCard

FINISH_S = 30.0


class WandbTracker:
    """The runs of the peers under `<run folder>/wandb`, with the round as their step.

    `WANDB_MODE` and the other settings of wandb win; without a mode and without credentials the runs are offline,
    and `wandb sync` sends them later. Nothing is asked.
    """

    def __init__(self, card: RunCard, *, tell: Callable[[str], None]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which reports to its maker also when offline
        self._runs: dict[str, Any] = {}
        try:
            for peer, settings in ((peer, _settings()) for peer in card.peers):
                self._runs[peer] = _start(card, peer, settings)
        except BaseException:
            self.close()
            raise
        for run in list(self._runs.values())[:1]:
            sync = f"offline; `wandb sync {card.folder / 'wandb'}/offline-run-*` sends it"
            tell(f"wandb: {sync if run.settings.mode == 'offline' else run.url or run.settings.mode}")

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """One row of the history, with `round` as a column."""
        self._runs[peer].log({"round": round, **metrics})

    def close(self) -> None:
        """Send what is left, for `FINISH_S` seconds a run if wandb is not told otherwise."""
        for run in self._runs.values():
            run.finish()


def _start(card: RunCard, peer: str, settings: Any) -> Any:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or card.project,
        group=card.name,
        name=card.title(peer),
        id=f"{card.key()}-{plain_name(peer).replace('/', '-')}",
        resume="allow",
        dir=card.folder,
        config={**card.config, "peer": peer},
        mode=settings.mode,
        settings=settings,
        reinit="create_new",
    )
    run.define_metric("*", step_metric="round")  # wandb's own step refuses to go back, as a resumed run must
    return run


def _settings() -> Any:
    """What the environment says, else quiet, patient for a while at the end, and offline without credentials."""
    import wandb

    known = wandb.setup().settings
    mode = os.environ.get("WANDB_MODE") or known.mode
    if mode == "online" and not wandb.login(prompt=False):
        mode = "offline"
    settings = wandb.Settings(mode=mode, finish_timeout=known.finish_timeout or FINISH_S)
    if "WANDB_SILENT" not in os.environ:
        settings.silent = True
    if "WANDB_CONSOLE" not in os.environ:
        settings.console = "off"
    return settings
