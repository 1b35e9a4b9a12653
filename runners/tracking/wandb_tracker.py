"""Weights & Biases: one W&B run per peer, in the group of its run or sweep; offline without credentials."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from genrl_graph.runners.tracking.metric_names import plain_name
from genrl_graph.runners.tracking.run_card import RunCard

FINISH_S = 30.0


class WandbTracker:
    """Logs one run per peer under `<run folder>/wandb`, with the round as step.

    `WANDB_MODE` and the other settings of wandb win. Without a mode and without credentials the runs are offline, and
    `wandb sync` sends them later. There is never a prompt.
    """

    def __init__(self, card: RunCard, *, tell: Callable[[str], None]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb would report errors even when offline
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
        """Log one row of the history, with `round` as a column."""
        self._runs[peer].log({"round": round, **metrics})

    def close(self) -> None:
        """Send what is buffered; each run waits at most `FINISH_S` seconds unless wandb's settings say otherwise."""
        for run in self._runs.values():
            run.finish()


def _start(card: RunCard, peer: str, settings: Any) -> Any:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or card.project,
        group=card.group,
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
    """Return wandb's settings: the environment wins; else silent, and offline without credentials."""
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
