"""Runners: which peers play in this process, which folder they write, and the swarm that they exchange rows in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genrl_graph.contract.node import Carry, Exchange
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.errors import ParamError
from genrl_graph.runners.loop.exchange import LocalSwarm, Swarm
from genrl_graph.runners.loop.peers import Make, peer_names, require_enough
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.store.journal import Record

BEHIND = "swarm/behind"
"""The node name of the record of a round that was skipped because the swarm was in a later one."""

Tell = Callable[[str], None]
Bootnodes = Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a resumed run in one process: the number of closed exchanges, and whether it is complete."""

    closed: int = 0
    complete: bool = False


class Runner(Protocol):
    """One way to play a schedule: in one process, as the ranks of a job, or as a peer of a swarm.

    `names` are the peers of this process. Only the process that `leads` writes to the terminal.
    """

    names: Sequence[str]
    leads: bool

    def configured(self, config: RunConfig) -> RunConfig:
        """Return the run options with the changes that this runner makes, such as the number of peers."""

    def home(self, run: Path) -> Path:
        """Return the folder that this process writes, inside the run folder."""

    def start(
        self,
        schedule: Schedule,
        *,
        run: Path | None,
        free: Callable[[], Path],
        stop: Stop,
        tell: Tell,
        bootnodes: Bootnodes,
    ) -> tuple[Path, Swarm]:
        """Connect to the other processes; returns the run folder, which all share, and the swarm.

        The run folder is `run`, or where that is None the one that `free` returns. `bootnodes` returns the addresses
        that a coordinator has of the swarm. Raises `ExchangeTimeout` where there can never be enough peers for an
        exchange.
        """

    def overrides(self, run: Path) -> Sequence[str]:
        """Return the overrides with which a run is resumed here; raises `ParamError` where it cannot be."""

    def serve(self, schedule: Schedule, config: RunConfig, make: Make) -> bool:
        """Compute for a process that plays until it ends, if this one does not play; returns whether that is so."""

    def shared(self, carry: Carry, value: Carried) -> Carried:
        """Return a new carried value as this process plays with it: as it is, or shared with other ranks."""

    def peer_id(self, name: str) -> str | None:
        """Return the id by which a coordinator knows a peer; None where this runner gives peers none."""

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """Return the progress that all processes share, and the latest round they may resume from (None: any)."""

    def begin(self, round: int) -> None:
        """Announce a round to the others; raises `PeerBehind` where they are in a later one."""

    def metrics(self) -> Mapping[str, float]:
        """Return metrics of the connection to the others since the last call."""

    def close(self, *, failed: bool) -> None:
        """Disconnect; waits for processes that still need this one, unless the run `failed`."""


class LocalRunner:
    """Plays all peers in this process, in lockstep."""

    leads = True

    def __init__(self, peers: int) -> None:
        self.names: Sequence[str] = peer_names(peers)

    def configured(self, config: RunConfig) -> RunConfig:
        """Return the options unchanged; raises `ParamError` for roles: there are no others to play the rest."""
        if config.roles:
            what = f"run.roles ({', '.join(config.roles)}): all roles play in one process"
            raise ParamError(f"{what}; leave --role out, or play with --runner torch or swarm")
        return config

    def home(self, run: Path) -> Path:
        """Return the run folder itself: the peers of one process share a store."""
        return run

    def start(
        self,
        schedule: Schedule,
        *,
        run: Path | None,
        free: Callable[[], Path],
        stop: Stop,
        tell: Tell,
        bootnodes: Bootnodes,
    ) -> tuple[Path, Swarm]:
        """Return the run folder and a local swarm; raises `ExchangeTimeout` where an exchange wants more peers."""
        require_enough(schedule, self.names)
        return run or free(), LocalSwarm(self.names)

    def overrides(self, run: Path) -> Sequence[str]:
        """Return none."""
        return ()

    def serve(self, schedule: Schedule, config: RunConfig, make: Make) -> bool:
        """Return False: this process plays."""
        return False

    def shared(self, carry: Carry, value: Carried) -> Carried:
        """Return the value as it is: there are no other ranks."""
        return value

    def peer_id(self, name: str) -> str | None:
        """Return None: peers of one process have names only."""
        return None

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """Return the progress of this process: there are no others."""
        return kept, None

    def begin(self, round: int) -> None:
        """Do nothing: there are no other processes."""

    def metrics(self) -> Mapping[str, float]:
        """Return nothing: there are no other processes."""
        return {}

    def close(self, *, failed: bool) -> None:
        """Do nothing: there are no other processes."""


def exchanges(schedule: Schedule) -> dict[str, Exchange]:
    """Return the exchanges by node name, in the order in which a round closes them."""
    nodes = {step.node: schedule.nodes[step.node] for step in schedule.steps if step.action == "close"}
    return {name: node for name, node in nodes.items() if isinstance(node, Exchange)}


def skipped_round(round: int, peer: str, *, to: int) -> Record:
    """Return the record of a round that a peer skipped; `to` is the round that it plays next."""
    return Record(round, BEHIND, peer, {"to": to}, {})
