"""The description of a run for trackers: its names, its peers and its configuration."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrl_graph.store.run_path import RunPath
from genrl_graph.store.sweep_folder import sweep_of

KEY_BYTES = 64


@dataclass(frozen=True, slots=True)
class RunCard:
    """The names and configuration of a run for trackers, which show each peer as a run of its own in a group."""

    folder: Path
    name: str
    project: str
    peers: Sequence[str]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The tracker's name for the runs that belong together: the sweep of which this is a cell, or else the run."""
        return sweep_of(self.folder) or self.name

    def title(self, peer: str) -> str:
        """Return the tracker's name for the run of a peer."""
        return f"{self.name}/{peer}"

    def key(self) -> str:
        """Return an id stored in the run folder, by which a resumed run finds its runs in the trackers."""
        path = RunPath(self.folder) / "tracker_key"
        if not path.exists():
            path.write(secrets.token_hex(4).encode())
        return path.read(KEY_BYTES).decode()
