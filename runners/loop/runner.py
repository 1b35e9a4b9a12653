"""Who plays in this process, where they write, and how they meet the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genrl_graph.contract.node import Exchange
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.runners.loop.exchange import LocalSwarm, Swarm
from genrl_graph.runners.loop.peers import peer_names, require_enough
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.store.journal import Record

BEHIND = "swarm/behind"
"""The node of the record that says where a round was left because the swarm had gone on."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What a process has of a run that goes on: how many exchanges it has closed, and whether nothing is left."""

    closed: int = 0
    complete: bool = False


class Runner(Protocol):
    """One way to play a schedule: in one process, as the ranks of a job, or as a peer of a swarm.

    `names` are the peers of this process; one that `leads` speaks to the terminal for all.
    """

    names: Sequence[str]
    leads: bool

    def configured(self, config: RunConfig) -> RunConfig:
        """The options of the run as they are with this runner."""

    def home(self, run: Path) -> Path:
        """The folder that this process writes, of a run folder."""

    def start(
        self, schedule: Schedule, *, run: Path | None, free: Callable[[], Path], stop: Stop, tell: Tell
    ) -> tuple[Path, Swarm]:
        """Get ready to meet; gives the run folder, the same for all processes: the one that was named, else a free one.

        Raises `ExchangeTimeout` where there can never be enough peers for an exchange.
        """

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """What all processes of the run have, and the latest round from which they may go on (None: any)."""

    def begin(self, round: int) -> None:
        """A round begins; raises `PeerBehind` where the swarm is in a later one."""

    def close(self, *, failed: bool) -> None:
        """Leave the others; waits for them where they need this process and nothing failed."""


class LocalRunner:
    """All peers play in this process, in lockstep."""

    leads = True

    def __init__(self, peers: int) -> None:
        self.names: Sequence[str] = peer_names(peers)

    def configured(self, config: RunConfig) -> RunConfig:
        """As they are."""
        return config

    def home(self, run: Path) -> Path:
        """The run folder itself: the peers of one process share a store."""
        return run

    def start(
        self, schedule: Schedule, *, run: Path | None, free: Callable[[], Path], stop: Stop, tell: Tell
    ) -> tuple[Path, Swarm]:
        """Raises `ExchangeTimeout` where an exchange wants more peers than play here."""
        require_enough(schedule, self.names)
        return run or free(), LocalSwarm(self.names)

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """There is nobody to ask."""
        return kept, None

    def begin(self, round: int) -> None:
        """Nobody is ahead."""

    def close(self, *, failed: bool) -> None:
        """Nobody waits."""


def exchanges(schedule: Schedule) -> dict[str, Exchange]:
    """The exchanges in the order in which a round closes them."""
    nodes = {step.node: schedule.nodes[step.node] for step in schedule.steps if step.action == "close"}
    return {name: node for name, node in nodes.items() if isinstance(node, Exchange)}


def left(round: int, peer: str, *, to: int) -> Record:
    """The record of a round that a peer left for a later one."""
    return Record(round, BEHIND, peer, {"to": to}, {})
