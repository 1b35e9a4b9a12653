"""The coordinator of a run on a chain: connects, registers the peers, queues what nodes submit, sends it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genrl_graph.contract.node import Coordinate
from genrl_graph.dag.coordinator_config import EMBEDDED, CoordinatorConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.errors import ChainError, GraphError, ParamError, StoreError
from genrl_graph.messages import counted
from genrl_graph.records.facts import read_facts
from genrl_graph.runners.chain.abi import indexed_in
from genrl_graph.runners.chain.contract_client import Call, ContractClient, call_of
from genrl_graph.runners.chain.contract_rounds import ContractRounds, Report
from genrl_graph.runners.chain.endpoint import ChainDown, Endpoint
from genrl_graph.runners.chain.proxy import Proxy
from genrl_graph.runners.chain.sender import Sender, SenderThread
from genrl_graph.runners.chain.sending import empty_wallet
from genrl_graph.runners.chain.wallet import Wallet
from genrl_graph.runners.loop.coordinator import PeerIds
from genrl_graph.runners.loop.exchange import PeerBehind
from genrl_graph.store.journal import Record
from genrl_graph.store.outbox import Entry, Outbox, pending_line
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.strict_json import parse_json

Tell = Callable[[str], None]
MAX_ID_BYTES = 128
MAX_ABI_BYTES = 4 * 2**20
REGISTER = "register"
LEAVES = "leaves"


class ChainCoordinator:
    """Coordinates the peers of one process through a contract.

    The id of a peer on the chain is that of the runner, such as a libp2p id; where the runner has none, it is
    `<name>@<first digits of the account>`.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        schedule: Schedule,
        client: ContractClient,
        submitter: Wallet | Proxy,
        tell: Tell,
    ) -> None:
        self._config, self._schedule, self._client, self._submitter = config, schedule, client, submitter
        self._tell = tell
        self._outbox: Outbox | None = None
        self._thread: SenderThread | None = None
        self._peer_ids: PeerIds = _no_ids
        self._rounds = ContractRounds(config.game_rounds)
        self._first_round: int | None = None

    def connect(self, *, may_be_down: bool) -> None:
        """Check chain, contract and wallet; raises `ChainError`, and `GraphError` for a contract of too few stages.

        Where the endpoint is down and `may_be_down`, a line says so and the run goes on.
        """
        try:
            self._client.require(chain_id=_chain_id(self._config, self._client))
            self._require_stages()
            self._require_funds()
            self._first_round = self._client.round()
        except ChainDown as down:
            if not may_be_down:
                raise
            self._tell(f"{down}; goes on, and sends what is pending when it is back")

    def bootnodes(self) -> Sequence[str]:
        """Return the bootnodes of the contract; none while it is down."""
        try:
            return [address for address in self._client.bootnodes() if address.startswith("/")]
        except ChainError:
            return ()

    def open(self, store: RunStore, home: Path, *, names: Sequence[str], peer_ids: PeerIds) -> None:
        """Open the outbox, queue what the store has and the outbox lacks, register the peers, begin to send."""
        self._peer_ids = peer_ids
        self._outbox = outbox = Outbox(home)
        outbox.bind(bound_to(self._config, self._client))
        if self._config.endpoint == EMBEDDED:
            _begin_anew(outbox)
        for name in names:
            outbox.queue(0, REGISTER, name, [{"call": REGISTER, "peer": self._id_of(name)}])
        self._queue_stored(store, outbox)
        sender = Sender(
            outbox,
            self._client,
            self._submitter,
            self._call_of,
            on_later=self._config.on_later,
            stuck_s=self._config.stuck_s,
            leads=self._config.endpoint == EMBEDDED,
        )
        self._thread = SenderThread(sender, outbox)

    def begin(self, round: int) -> None:
        """Raise `PeerBehind` where the graph follows the chain's round, and that is a later one as the run begins."""
        follows = any(isinstance(node, Coordinate) and node.follows_round for node in self._schedule.nodes.values())
        if round == 0 and follows and self._first_round:
            raise PeerBehind(self._rounds.first_of(self._first_round))

    def committed(self, records: Sequence[Record]) -> None:
        """Queue what records submit, and wake the sender; raises what made the sender end."""
        if self._outbox is None or self._thread is None:
            return
        if self._thread.error is not None:
            raise self._thread.error
        if sum(self._queue(record, _leaves_in(record), self._outbox) for record in records):
            self._thread.wake()

    def metrics(self) -> Mapping[str, float]:
        """Return how many submissions are pending."""
        return {} if self._outbox is None else {"chain/pending": float(len(self._outbox.open_entries()))}

    def close(self, *, failed: bool) -> None:
        """Send what can be sent within `drain_s`, unless the run `failed`, and say what is left."""
        if self._outbox is None or self._thread is None:
            return
        ended = self._thread.close(0.0 if failed else self._config.drain_s)
        if line := pending_line([self._outbox.state]):
            self._tell(f"coordinator: {line}")
        if count := self._rounds.unfinished:
            rounds = f"{self._config.game_rounds} rounds of the game are one of the contract"
            self._tell(f"coordinator: {counted(count, 'report')} not complete: {rounds}; play more of them")
        if ended:
            self._outbox.close()
        self._outbox = self._thread = None

    def _queue_stored(self, store: RunStore, outbox: Outbox) -> None:
        """Queue what a crash kept from the outbox: the submissions of committed steps."""
        nodes = {name for name, node in self._schedule.nodes.items() if isinstance(node, Coordinate)}
        leaves: dict[tuple[str, str, int], list[str]] = {}
        for node in nodes if self._config.game_rounds > 1 else ():
            if f"{node}/{LEAVES}" in store.groups():
                for row in store.table(f"{node}/{LEAVES}", columns=["round", "holder", "leaf"]).to_pylist():
                    leaves.setdefault((node, row["holder"], row["round"]), []).append(row["leaf"])
        for step in store.steps().to_pylist() if nodes else ():
            if step["node"] in nodes:
                record = Record(step["round"], step["node"], step["holder"], read_facts(step["facts"], store.folder))
                self._queue(record, leaves.get((record.node, record.holder, record.round), ()), outbox)

    def _queue(self, record: Record, leaves: Iterable[str], outbox: Outbox) -> int:
        """Queue the reports that a committed step completes, and return how many submissions are new."""
        return sum(
            outbox.queue(report.round, report.node, report.holder, self._with_ids(report))
            for report in self._rounds.take(record, leaves)
        )

    def _with_ids(self, report: Report) -> list[dict[str, Any]]:
        """Return submissions with the ids of the peer, and of the peers that they name, in place of names."""
        own, result = self._id_of(report.holder), []
        for submission in report.submissions:
            values = dict(submission) | {"peer": own}
            if "winners" in values:
                values["winners"] = [self._id_of(str(name)) for name in values["winners"]]
            result.append(values)
        return result

    def _id_of(self, name: str) -> str:
        known = self._peer_ids(name)
        account = (
            self._submitter.address[2:10].lower() if isinstance(self._submitter, Wallet) else self._config.organisation
        )
        peer_id = known if known is not None else f"{name}@{account}"
        if len(peer_id.encode()) > MAX_ID_BYTES:
            raise ChainError(f"coordinator: peer id {peer_id[:40]!r}... has more than {MAX_ID_BYTES} bytes; rename it")
        return peer_id

    def _call_of(self, entry: Entry) -> Call:
        return call_of(entry.submission, str(entry.submission["peer"]))

    def _require_stages(self) -> None:
        """Raise `GraphError` where a node reports a stage that the contract does not have."""
        for name, node in self._schedule.nodes.items():
            wanted = node.stages_needed if isinstance(node, Coordinate) else 0
            if wanted > (count := self._client.stage_count):
                what = f"reports {counted(wanted, 'stage')}, but a round of {self._client.where} has {count}"
                raise GraphError(f"nodes.{name}: {what}; report their sum (`stages: sum`)")

    def _require_funds(self) -> None:
        wallet, endpoint = self._submitter, self._client.endpoint
        if isinstance(wallet, Wallet) and sum(endpoint.fees()) > 0 and not endpoint.balance(wallet.address):
            raise ChainError(empty_wallet(endpoint, wallet))


def chain_coordinator(
    config: CoordinatorConfig, schedule: Schedule, *, tell: Tell, may_be_down: bool
) -> ChainCoordinator:
    """Connect to the coordinator of a run; raises `ChainError` where it cannot serve."""
    if config.endpoint == EMBEDDED:
        client, wallet = embedded()
        coordinator = ChainCoordinator(config, schedule, client, wallet, tell)
    else:
        coordinator = ChainCoordinator(config, schedule, client_of(config), submitter_of(config), tell)
    coordinator.connect(may_be_down=may_be_down)
    return coordinator


def client_of(config: CoordinatorConfig) -> ContractClient:
    """Return a client of the contract that a config names."""
    assert config.contract is not None
    indexed = None if config.abi is None else _indexed_in(Path(config.abi))
    return ContractClient(Endpoint.at(config.endpoint, timeout_s=config.timeout_s), config.contract, indexed=indexed)


def _indexed_in(path: Path) -> Mapping[bytes, tuple[bool, ...]]:
    try:
        if path.stat().st_size > MAX_ABI_BYTES:
            raise ParamError(f"abi {path}: has more than {MAX_ABI_BYTES} bytes, so it is no ABI")
        return indexed_in(parse_json(path.read_bytes(), path))
    except OSError as error:
        raise ParamError(f"abi {path}: cannot be read: {error.strerror}") from error
    except (StoreError, ValueError) as error:
        why = str(error).removeprefix(f"{path}: ")
        raise ParamError(f"abi {path}: {why}; name the JSON of its compiler") from error


def bound_to(config: CoordinatorConfig, client: ContractClient) -> dict[str, Any]:
    """Return what the outbox of a run is for: it must stay the same as long as the run goes on."""
    embedded = config.endpoint == EMBEDDED
    chain_id = client.endpoint.chain_id() if embedded else config.chain_id
    bound = {"chain_id": chain_id, "contract": EMBEDDED if embedded else client.address.lower()}
    return bound | ({"game_rounds": config.game_rounds} if config.game_rounds > 1 else {})


def _leaves_in(record: Record) -> Iterable[str]:
    table = record.tables.get(f"{record.node}/{LEAVES}")
    leaves: list[str] = [] if table is None else table.column("leaf").to_pylist()
    return leaves


def submitter_of(config: CoordinatorConfig) -> Wallet | Proxy:
    """Return what submits: the wallet of this peer, or a proxy."""
    if config.proxy is not None:
        return Proxy(config.proxy, config.organisation or "", timeout_s=config.timeout_s)
    return Wallet.open(config.keystore)


def embedded() -> tuple[ContractClient, Wallet]:
    """Start a chain in this process; its wallet owns the contract and is funded."""
    from genrl_graph.runners.chain.node import ChainNode, NodeProvider

    wallet = Wallet.new()
    node = ChainNode(wallet.address)
    return ContractClient(Endpoint(NodeProvider(node), where="embedded chain"), node.contract), wallet


def _chain_id(config: CoordinatorConfig, client: ContractClient) -> int:
    return config.chain_id if config.chain_id is not None else client.endpoint.chain_id()


def _begin_anew(outbox: Outbox) -> None:
    """Register the peers again on an embedded chain: the last one ended with its session."""
    for entry in list(outbox.state.entries.values()):
        if entry.is_open or entry.call == REGISTER:
            outbox.change(entry, "pending", "", [])


def _no_ids(name: str) -> None:
    return None
