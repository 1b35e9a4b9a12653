"""`carry.snapshots` and `update.snapshot`: a pool of earlier versions of a policy to play against."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from genrl_graph.contract.node import Carry, Update
from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.contract.resources import Log
from genrl_graph.errors import StoreError
from genrl_graph.nodes.update.steps.cadence import due
from genrl_graph.seeds import digest

POOL = "snapshots.json"


class Snapshots(Carried):
    """Frozen policies, oldest first. An update returns a new pool."""

    mutable = False

    def __init__(self, members: Sequence[Policy] = ()) -> None:
        self.members = tuple(members)

    def save(self, folder: Path) -> None:
        """Write every member into its own sub-folder of `folder`."""
        for at, member in enumerate(self.members):
            (folder / str(at)).mkdir()
            member.save_frozen(folder / str(at))
        (folder / POOL).write_text(json.dumps({"members": len(self.members)}) + "\n")

    def load(self, folder: Path) -> None:
        """Load the pool in `folder`; raises `StoreError` if it holds none."""
        from genrl_graph.nodes.policy.loading.frozen import load_frozen

        try:
            count = int(json.loads((folder / POOL).read_text())["members"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{folder / POOL}: holds no pool of policies: {error}") from error
        self.members = tuple(load_frozen(folder / str(at)) for at in range(count))

    def digest(self) -> str:
        """Hex digest of the members in order."""
        return digest(("snapshots", *(part for member in self.members for part in (member.name, member.digest()))))


class SnapshotsCarry(Carry, name="snapshots"):
    """A pool of earlier versions of a policy to play against (arXiv 1710.03748), empty in the first round."""

    def init(self, name: str, *, seed: int) -> Snapshots:
        """Return the empty pool of the first round."""
        return Snapshots()


class TakeSnapshot(Update, name="snapshot"):
    """Adds a frozen copy of the policy to the pool in every `every`-th round; the oldest beyond `size` are dropped."""

    wants_whole_policy = True

    every: int = Field(default=10, ge=1, description="rounds from one copy to the next")
    size: int = Field(default=8, ge=1, description="most copies in the pool")

    def run(self, snapshots: Snapshots, policy: Policy, *, round: int, log: Log) -> Snapshots:
        """Return the pool of the next round.

        Inputs:
            snapshots: pool of earlier versions
            policy: policy that is copied into it
        """
        members = snapshots.members
        if due(round, self.every):
            members = (*members, policy.frozen(f"{policy.name}@{policy.version}"))[-self.size :]
        log.metric("snapshots", len(members))
        return Snapshots(members)
