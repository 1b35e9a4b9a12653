"""What trackers are told of a run: its names, its peers and its configuration."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrl_graph.store.durable import write_file


@dataclass(frozen=True, slots=True)
class RunCard:
    """A run as trackers show it; each of its peers is a run of its own there, in one group."""

    folder: Path
    name: str
    project: str
    peers: Sequence[str]
    config: Mapping[str, Any] = field(default_factory=dict)

    def title(self, peer: str) -> str:
        """The name of a peer's run."""
        return f"{self.name}/{peer}"

    def key(self) -> str:
        """Letters that stay with the run folder: a run that resumes goes on in the same runs of the trackers."""
        path = self.folder / "tracker_key"
        if not path.exists():
            write_file(path, secrets.token_hex(4).encode())
        return path.read_text()
