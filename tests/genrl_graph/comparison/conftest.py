"""Writes run folders as a run leaves them: graph.yaml with versions, and metrics.jsonl."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrl_graph.store.run_folder import VERSIONS

GRAPH = """graph: game
version: 1
nodes:
  tasks:
    type: source.list
    params: {{rate: {rate}}}
  score:
    type: reward.regex
run: {{rounds: {rounds}, seed: {seed}}}
"""
WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a run whose rounds report the given metrics; a metric is a list of values, None where it was not finite."""

    def write(
        name: str,
        metrics: Mapping[str, Sequence[float | None]],
        *,
        seed: int = 0,
        rate: float = 1.0,
        evaluations: Mapping[int, Mapping[str, float]] | None = None,
        peers: Mapping[str, float] | None = None,
        versions: Mapping[str, Any] | None = None,
        asked: int | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rounds = max(map(len, metrics.values()))
        text = GRAPH.format(rate=rate, rounds=asked or rounds, seed=seed)
        head = f"# A graph.\n{VERSIONS}{json.dumps({'genrl-graph': '0.1.0', **(versions or {})})}\n"
        (folder / "graph.yaml").write_text(head + text)  # `write_graph` would sync each of hundreds
        lines = []
        for number in range(rounds):
            for peer, shift in (peers or {"peer0000": 0.0}).items():
                values = {key: value[number] for key, value in metrics.items() if number < len(value)}
                shifted = {key: v if v is None or "/reward" not in key else v + shift for key, v in values.items()}
                lines.append({"round": number, "peer": peer, **shifted})
        for number, evaluated in (evaluations or {}).items():
            lines.append({"round": number, "peer": "peer0000", **evaluated})
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return folder

    return write
