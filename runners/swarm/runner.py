"""The swarm runner: this process is one peer of a swarm that others join and leave."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from genrl_graph.contract.node import Carry
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.errors import ParamError
from genrl_graph.runners.loop.exchange import Swarm
from genrl_graph.runners.loop.peers import Make
from genrl_graph.runners.loop.runner import Bootnodes, RunProgress, Tell, exchanges
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.swarm.admission.rules import Admission, makers, roles_of_makers, rows_per_task
from genrl_graph.runners.swarm.claims import proof_of
from genrl_graph.runners.swarm.exchange import PAUSE_S, PeerSwarm
from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.offers import MAX_ANNOUNCEMENT, Inbox
from genrl_graph.runners.swarm.transport.heartbeat import qualified
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.signed import sign_message
from genrl_graph.store.run_folder import GRAPH


class SwarmRunner:
    """One peer of a swarm; its `name` goes into seeds and rows, and `identity` is its key file.

    Where another key has the name, `@` and 8 characters of the own key are added; a resumed run keeps its name.
    `swarm` distinguishes swarms that play the same graph; it defaults to the name of the graph. The run is stored in
    `<run folder>/<name>`, and the key in `<run folder>/<name>.key` by default.
    """

    leads = True

    def __init__(
        self, *, name: str, network: NetworkOptions, identity: Path | None = None, swarm: str | None = None
    ) -> None:
        self.names: Sequence[str] = (name,)
        self._network, self._identity, self._swarm_name = network, identity, swarm
        self._host: Host | None = None
        self._swarm: PeerSwarm | None = None
        self._stop: Stop | None = None
        self._rounds = 0
        self._peer_ids: dict[str, str] = {}
        self._linger_s = 0.0

    def configured(self, config: RunConfig) -> RunConfig:
        """Return the config with `peers=1`: this process runs one peer; raises `ParamError` for what it cannot do."""
        if config.replicas > 1:
            raise ParamError(f"run.replicas: {config.replicas}, but a peer of a swarm is one process; set it to 1")
        if config.pipeline_depth:
            raise ParamError("run.pipeline_depth: 1, but the peers of a swarm keep step round by round; set it to 0")
        self._rounds = config.rounds
        return config.model_copy(update={"peers": 1})

    def home(self, run: Path) -> Path:
        """Return the folder of this peer: `<run folder>/<peer name>`."""
        return run / self.names[0]

    def metrics(self) -> dict[str, float]:
        """Return what each other peer cost since the last call: bytes, rows, seconds, refusals, lateness."""
        return self._swarm.conduct.accounts.take() if self._swarm is not None else {}

    def _name_in(self, run: Path, identity: Identity) -> tuple[str, bool]:
        """Return the name that the run in a folder has, else that which was asked for, and whether there is a run."""
        own = self.names[0]
        for name in (qualified(own, identity.peer_id), own):
            if (run / name / GRAPH).exists():
                return name, True
        return own, False

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
        """Join the swarm, or start one as its first peer; raises `SwarmError` if that fails.

        Without an address to join, those of `bootnodes` are joined.
        """
        run, self._stop = run or free(), stop
        path = self._identity or run / f"{self.names[0]}.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = Identity.load(path)
        name, is_resumed = self._name_in(run, identity)
        nodes = exchanges(schedule)
        inbox = Inbox(schedule.protocol, {name: node.max_staleness for name, node in nodes.items()})
        play = PeerIdentity(
            swarm=self._swarm_name or schedule.graph.name,
            protocol=schedule.protocol,
            name=name,
            fixed=is_resumed,
            roles=tuple(schedule.graph.run.roles),
        )
        host = Host.start(
            identity,
            play,
            network=self._joining(bootnodes, identity.peer_id, tell),
            limits=TransportLimits(push_bytes=MAX_ANNOUNCEMENT),
            on_push=inbox.take,
            tell=tell,
        )
        self.names = (host.name,)
        self._host, self._linger_s = host, 2 * max((node.timeout_s for node in nodes.values()), default=0.0)
        self._swarm = PeerSwarm(
            host,
            inbox,
            name=self.names[0],
            protocol=schedule.protocol,
            admissions={
                name: Admission(
                    node,
                    makers(schedule, name),
                    max_staleness=node.max_staleness,
                    rows_per_task=rows_per_task(schedule, name),
                )
                for name, node in nodes.items()
            },
            roles={name: roles_of_makers(schedule, name) for name in nodes},
            staleness=max((node.max_staleness for node in nodes.values()), default=0),
            sign=partial(sign_message, identity),
            stop=stop,
            tell=tell,
            proof=proof_of(schedule),
        )
        for address in host.addresses:
            tell(f"{self.names[0]}: others come with --join {address}")
        return run, self._swarm

    def overrides(self, run: Path) -> Sequence[str]:
        """Return none."""
        return ()

    def serve(self, schedule: Schedule, config: RunConfig, make: Make) -> bool:
        """Return False: a peer of a swarm plays."""
        return False

    def shared(self, carry: Carry, value: Carried) -> Carried:
        """Return the value as it is: a peer of a swarm is one process."""
        return value

    def peer_id(self, name: str) -> str | None:
        """Return the libp2p id of a peer that was on the roster once, None for another name."""
        assert self._host is not None
        self._peer_ids |= {member.name: member.peer_id for member in self._host.roster()}
        return self._peer_ids.get(name)

    def _joining(self, bootnodes: Bootnodes, own_id: str, tell: Tell) -> NetworkOptions:
        """Return the network options, with the bootnodes of others to join where the user names no address."""
        known: list[str] = []
        for address in () if self._network.join else bootnodes():
            try:
                if not address.endswith(f"/p2p/{own_id}"):
                    known = [*replace(self._network, join=(*known, address)).join]
            except ParamError:
                tell(f"bootnode {address[:100]}: is no address of a peer; left out")
        return replace(self._network, join=tuple(known)) if known else self._network

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """Resume from this peer's own progress, without asking the others; they may still fetch its last offers."""
        assert self._swarm is not None
        self._swarm.resume(kept.closed)
        return kept, None

    def begin(self, round: int) -> None:
        """Announce the round to the swarm; raises `PeerBehind` if most of the others are in a later one."""
        assert self._swarm is not None
        self._swarm.begin(round)

    def close(self, *, failed: bool) -> None:
        """Serve the others until they finish, then leave the swarm; at most for twice the longest exchange timeout.

        After once that time, those that wait in vain for more peers begin to ask who is in a later round.
        """
        if self._host is None:
            return
        try:
            until = time.monotonic() + (0.0 if failed or self._swarm is None else self._linger_s)
            if self._swarm is not None and not failed:
                self._swarm.end(self._rounds)
            while self._swarm is not None and time.monotonic() < until and self._swarm.is_needed(self._rounds):
                if self._stop is not None and self._stop.wanted:
                    break
                time.sleep(PAUSE_S)
        finally:
            self._host.close()
