"""MLflow: one MLflow run per peer in one experiment; stored in the run folder unless a tracking server is set."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from genrl_graph.runners.tracking.metric_names import plain_name
from genrl_graph.runners.tracking.run_card import RunCard

LONGEST_PARAM = 6000
PEER, RUN, KEY, GROUP = (f"genrl_graph.{name}" for name in ("peer", "run", "key", "group"))


class MlflowTracker:
    """Logs one run per peer, with the round as step, to `MLFLOW_TRACKING_URI` or else to `<run folder>/mlruns`.

    The local store of mlflow-skinny is a file store, which MLflow reads only on request:
    `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri <run folder>/mlruns` shows it.
    """

    def __init__(self, card: RunCard) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (card.folder / "mlruns").absolute().as_uri()
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or card.project)
        self._runs = {peer: self._run(experiment, card, peer) for peer in card.peers}

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Send all metrics in one request, at step `round`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, round) for name, value in metrics.items()]
        self._client.log_batch(self._runs[peer], metrics=batch)

    def close(self) -> None:
        """Mark the runs as finished."""
        for run in self._runs.values():
            self._client.set_terminated(run)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                experiment = self._client.get_experiment_by_name(name)  # another process of this run may have made it
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _run(self, experiment: str, card: RunCard, peer: str) -> str:
        """Return the id of a peer's MLflow run: that of the same run folder, which is resumed, or a new one."""
        from mlflow.entities import Param

        tags = {RUN: card.name, PEER: peer, KEY: card.key(), GROUP: card.group}
        query = f"tags.`{KEY}` = '{tags[KEY]}' and tags.`{PEER}` = '{peer}'"
        for run in self._client.search_runs([experiment], query):
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        run_id = self._client.create_run(experiment, run_name=card.title(peer), tags=tags).info.run_id
        params = [Param(name, value[:LONGEST_PARAM]) for name, value in dict(_flat(card.config)).items()]
        self._client.log_batch(run_id, params=params)
        return str(run_id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a nested configuration as text, by dotted name."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield plain_name(f"{prefix}{key}"), value if isinstance(value, str) else json.dumps(value, default=str)
