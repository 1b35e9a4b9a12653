"""The contract of nodes and carries: the class is the configuration, the signature of `run` declares the sockets.

Fields are params: they are validated and dumped to YAML, and unknown keys are refused. Positional parameters of `run`
are inputs, keyword-only parameters are resources, and the return annotation is the output (a NamedTuple for several).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import ClassVar, Generic, Literal, Self, get_args

from pydantic import Field, PrivateAttr

from genrl_graph.contract.data_path import local_paths
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.origins import Alike, Per, RowOrigin
from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.contract.signature import Signature, method_of, read_hints, read_inputs, read_outputs, read_summary
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED, EdgeType, Mark, Pattern
from genrl_graph.edge_types.rollouts import R
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import NodeError, ParamError
from genrl_graph.wire.packet import PacketLimits

Wire = str | tuple[str, ...] | Mapping[str, str]
"""The wiring of an input: one `node` or `node.field`, several in order, or several by name."""


Phase = Literal["rounds", "evaluations"]
"""Rounds train, evaluations measure: the two occasions on which the nodes of a graph are played."""
PHASES: frozenset[Phase] = frozenset(get_args(Phase))


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a node in a graph: its name, its stage, and the protocol fingerprint of the graph.

    `origins` are the generators whose rows reach the node.
    """

    node: str
    stage: int = 0
    protocol: str = ""
    origins: tuple[RowOrigin, ...] = dataclass_field(default=(), compare=False, repr=False)


class Carry(Declared, kind="carry"):
    """Declares a value that each round passes to the next.

    The return annotation of `init` is its edge type.
    """

    edge: ClassVar[EdgeType]

    @property
    def note(self) -> str:
        """Return what a plan says of this value besides its type, "" by default."""
        return ""

    def init(self, name: str, *, seed: int) -> Carried:
        """Create the value before round 0, as a pure function of params, carry name and run seed."""
        raise NotImplementedError

    def dry(self, name: str, *, seed: int) -> Carried:
        """Create a stand-in for dry play; override this if `init` loads a model or needs a network."""
        return self.init(name, seed=seed)

    def check_readers(self, readers: "Sequence[Node]") -> Iterable[str]:
        """Return conflicts between params and the nodes that read any version of this value, one line each.

        A part of the check of a graph that trains.
        """
        return ()

    @classmethod
    def _read_contract(cls) -> None:
        init = method_of(cls, "init", cls.type_name, missing="has no `init` method")
        hints = read_hints(cls.type_name, init)
        if "return" not in hints:
            raise NodeError(f"{cls.type_name}.init: needs a return annotation, the type of the carried value")
        hint = hints["return"]
        if not (isinstance(hint, type) and issubclass(hint, Carried) and hint is not Carried):
            what = f"declares to return {hint.__name__ if isinstance(hint, type) else hint}"
            raise NodeError(f"{cls.type_name}.init: {what}; annotate a subclass of Carried")
        cls.edge = EdgeType(hint)


class PolicyCarry(Carry, kind="policy"):
    """Declares a policy that each round passes to the next: trained by an update, or frozen.

    Set `small` if it is created in a moment: estimates then time rounds with it. `untrainable` says why updates can
    learn neither this policy nor from its rows; empty if they can. Ranks of a group (`run.replicas`) share what `init`
    returns if it `shards`.
    """

    small: ClassVar[bool] = False
    shards: ClassVar[bool] = False
    untrainable: ClassVar[str] = ""


class Node(Declared):
    """One typed step of a graph. Subclass a kind below and name the type: `class Mine(Reward, name="mine")`.

    Set `wants_whole_policy` if it copies a policy or computes with its model, which no rank has whole in a group.
    """

    signature: ClassVar[Signature]
    wants_whole_policy: ClassVar[bool] = False
    phases: ClassVar[frozenset[Phase]] = PHASES
    _place: Place | None = PrivateAttr(default=None)

    @property
    def overlaps(self) -> bool:
        """Return whether this node may run in a background thread while a generator runs.

        Background nodes run one after another in that thread. A node that reads a policy never overlaps.
        """
        return False

    @property
    def place(self) -> Place:
        """Return the place of this node; outside a graph its name is the name of its type."""
        return self._place or Place(type(self).type_name)

    def prepare(self) -> None:
        """Load external data that may be missing or broken; called once, before a policy is created."""

    def check_data(self) -> Iterable[str]:
        """Return what is missing of local data, one line each, for the command `check`.

        Must take a moment: look at names and headers only. `prepare` reads the data.
        """
        return ()

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Return conflicts between params and wired inputs, one line each; part of the check of a graph."""
        return ()

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Return conflicts between params of this node and of its wired parts, one line each, for the graph check.

        `parts` maps each input with a single edge to the node or carry behind it, if that part could be read. Behind a
        value that updates or forks passed on is the carry that it began as.
        """
        return ()

    def wired(self, parts: Mapping[str, Declared]) -> Self:
        """Return this node as it works on what these parts make; called once, where a graph is compiled.

        `parts` is that of `check_parts`. Override this for a node that needs params of the part it reads, so that the
        graph does not state them twice.
        """
        return self

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Return why this node can never do its work on rows of these generators, one line each, for the graph check.

        `origins` maps each input to the generators whose rows reach it through rewards, selects, advantages and
        exchanges. A graph that only evaluates is not asked.
        """
        return ()

    def check_carries(self, carries: Mapping[str, Carried]) -> Iterable[str]:
        """Return why carried values cannot serve this node, one line each; asked once, before the first round.

        `carries` maps each input that reads a carry, or a later version of it, by a single edge to its live value.
        """
        return ()

    def evaluated(self, how: Evaluation) -> Self:
        """Return this node as it runs in an evaluation: a source with held-out tasks, a generator with its sampling.

        The result must not depend on the round, even if the node does in training: evaluations are compared.
        """
        return self

    def dry(self) -> "Node":
        """Return a stand-in for dry play, where no model is loaded and no network is used."""
        return self

    def placed(self, place: Place) -> Self:
        """Return a copy of this node at a place in a graph."""
        copy = self.model_copy()
        copy._place = place
        return copy

    @classmethod
    def _read_contract(cls) -> None:
        run = method_of(cls, "run", cls.type_name, missing="has no `run` method")
        inputs, resources = read_inputs(cls.type_name, run)
        cls.signature = Signature(inputs, read_outputs(cls.type_name, run), resources, read_summary(run))
        cls._require(not any(map(_from_peers, cls._outputs())), "only an exchange returns Peer[...]")
        cls._check_kind()
        for phase in sorted(PHASES - cls.phases):
            cls._require(not cls._outputs(), f"a node without a part in {phase} returns None, as nothing could read it")

    @classmethod
    def _check_kind(cls) -> None:
        """Check the rule of the kind; kinds without their own rule must not return carried values."""
        cls._require(not cls.returns_carried(), "only an update, a fork or an average returns a carried value")

    @classmethod
    def returns_carried(cls) -> bool:
        """Return whether this node returns a carried value: its next version, or a copy."""
        return any(map(_is_carried, cls._outputs()))

    @classmethod
    def _outputs(cls) -> list[Pattern]:
        return list(cls.signature.outputs.values())

    @classmethod
    def _require(cls, ok: bool, rule: str) -> None:
        """Raise `NodeError` with the rule and the actual outputs unless `ok`."""
        if not ok:
            outputs = ", ".join(map(str, cls._outputs())) or "nothing"
            raise NodeError(f"{cls.type_name}: {rule}, but this {cls.kind} returns {outputs}")

    @classmethod
    def _require_replaced(cls) -> None:
        """Check that every carried output is the next version of an input."""
        for field, pattern in cls.signature.outputs.items():
            if _is_carried(pattern) and field not in cls.signature.replaced:
                what = f"output {field!r}" if field else "the output"
                advice = "take it as an input" + (" of this name" if field else "")
                raise NodeError(f"{cls.type_name}: {what} replaces no input; {advice}")

    @classmethod
    def _require_rows(cls, *marks: Mark) -> None:
        """Check that there is an output, and that all outputs are rows with these marks."""
        outputs = cls._outputs()
        ok = bool(outputs) and not any(map(_is_carried, outputs)) and all(p.marks >= set(marks) for p in outputs)
        wanted = f"{marks[0].name}[...]" if marks else "rows"
        cls._require(ok, f"a node of kind {cls.kind} must return {wanted}")


def _is_carried(pattern: Pattern) -> bool:
    return issubclass(pattern.bound.base, Carried)


def _from_peers(pattern: Pattern) -> bool:
    return PEER in pattern.marks


class Source(Node, kind="source"):
    """Returns the tasks of a round; `resolve` makes any of these tasks again from its id.

    The `rng` of a source does not depend on the round, so a source can shuffle its data once for the whole run. Its
    seed is (run seed, node) if `shared`, and (run seed, node, peer) otherwise. Task ids are `<source node>/<key>`.
    """

    shared: bool = Field(default=True, description="true: all peers get the same tasks; false: each peer draws its own")

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for an id that this source cannot have made."""
        raise NotImplementedError

    def prepare_to_resolve(self) -> None:
        """Load what `resolve` needs, for a replay, which plays no task again; by default all that `prepare` loads."""
        self.prepare()

    def task_id(self, key: str | int) -> str:
        """Return the id of the task that this source makes from `key`."""
        return f"{self.place.node}/{key}"

    def data_paths(self) -> list[Path]:
        """Return the local files and folders that this source reads; their digests are recorded with a run."""
        return local_paths(self)

    def evaluated(self, how: Evaluation) -> Self:
        """Return this source with held-out tasks: no training tasks, and the same tasks in every evaluation.

        `resolve` of the original source must make them too. Raises `ParamError` if it has no held-out tasks.
        """
        raise ParamError(f"{self.type_name}: has no tasks to evaluate on; its class gives none")

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()
        if cls.resolve is Source.resolve:
            raise NodeError(f"{cls.type_name}: a source needs `resolve(self, task_id)`, which makes a task again")


class Generator(Node, kind="generate"):
    """Samples rollouts or trajectories from a policy. Each generator starts a new stage."""

    @property
    def group_size(self) -> int:
        """Return how many rows, or episodes, a prompt has; override this in a class with a param for it."""
        return 1

    @property
    def branches_on(self) -> str:
        """Return the input of which each row has a prompt of its own; "" where a task has one prompt."""
        return ""

    def alike(self, per: Per) -> Alike | None:
        """Return the param by which all rows of a prompt (or of a task) are alike; None if they may differ.

        Nodes that compare the rows of a group can never learn from such rows, which is then an error of the check.
        """
        return None

    def untrainable(self) -> Alike | None:
        """Return the param by which no update can learn from the rows of this generator; None if one can."""
        return None

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()


class Exchange(Node, kind="exchange"):
    """Exchanges rows with other peers, in two pure methods; the runner sends, waits and keeps deadlines.

    `offer(rows: R) -> R` returns the rows to send, and `admit(packets, *, tasks, ...) -> Peer[R]` the rows to use from
    the received packets, which are sorted by peer name. The peer's own packet is always among them; `admit` must drop
    it if `include_self` is false.

    An exchange may return the next version of a carried value instead, as an average of weights does: then `offer`
    takes the value and returns rows made of it, and `admit` takes it again, after the packets. The rows of the other
    peers are stored in the group `<exchange>/received`.
    """

    admitted_with: ClassVar[tuple[str, ...]] = ()  # inputs of `offer` that `admit` takes, too

    include_self: bool = Field(default=True, description="whether this peer's own rows are among the output")
    min_peers: int = Field(ge=1, description="peers that the exchange needs, this one included")
    timeout_s: float = Field(default=60.0, gt=0, description="seconds to wait for the offers of the others")
    on_short: Literal["wait", "continue", "fail"] = Field(
        default="wait",
        description="with too few peers: wait for more, continue with those that came, or fail the run (exit code 11)",
    )
    max_staleness: int = Field(
        default=0, ge=0, le=64, description="largest age in rounds of rows from a peer that is behind (swarm runner)"
    )
    max_rows: int = Field(default=4096, ge=1, le=2**20, description="largest number of rows that a peer may offer")
    max_rows_per_task: int | None = Field(
        default=None,
        ge=1,
        description="rows, or episodes, of one task that a peer may offer; null: 16, or 4 times those "
        "that this peer makes, or that the params of the generators before the exchange say",
    )
    peer_seconds: float = Field(
        default=10.0, gt=0, description="seconds for admitting the rows of one peer, building their tasks included"
    )
    max_row_kb: int = Field(
        default=1024, ge=1, le=2**20, description="largest size of a row in KiB; larger rows are refused"
    )
    max_payload_mb: int = Field(
        default=64, ge=1, le=2048, description="largest size of an offer in MiB; four times as much once unpacked"
    )

    @property
    def limits(self) -> PacketLimits:
        """Return the limits on the packet of one peer in one round."""
        row, payload = self.max_row_kb * 2**10, self.max_payload_mb * 2**20
        return PacketLimits(
            max_rows=self.max_rows,
            max_row_bytes=row,
            max_payload_bytes=payload,
            max_decoded_bytes=4 * payload,
            max_list=row // 4,
        )

    def meets(self, round: int) -> bool:
        """Return whether peers meet in this round; if not, carried values are passed on unchanged."""
        return True

    def evaluated(self, how: Evaluation) -> Self:
        """Return this exchange for an evaluation, where each peer plays alone and receives only its own packet."""
        return self.model_copy(update={"include_self": True, "min_peers": 1})

    @classmethod
    def _read_contract(cls) -> None:
        where, missing = cls.type_name, "an exchange has two methods, `offer` and `admit`"
        offer = method_of(cls, "offer", where, missing=missing)
        admit = method_of(cls, "admit", where, missing=missing)
        inputs, offer_resources = read_inputs(where, offer)
        admit_inputs, resources = read_inputs(where, admit, after=2)
        for name in offer_resources:
            raise NodeError(f"{where}.offer: takes the resource {name!r}; only `admit` has resources")
        for socket in admit_inputs:
            if socket.name not in {known.name for known in inputs}:
                raise NodeError(f"{where}.admit.{socket.name}: is no input of `offer`; make it one")
        cls.admitted_with = tuple(socket.name for socket in admit_inputs)
        cls.signature = Signature(inputs, read_outputs(where, admit), resources, read_summary(admit))
        if cls.returns_carried():
            cls._require_replaced()
        else:
            cls._require(cls.meets is Exchange.meets, "an exchange that leaves out rounds returns carried values")
            cls._require_rows(PEER)


@dataclass(frozen=True, slots=True)
class Packet(Generic[R]):
    """The offer of one peer to an exchange in one round."""

    peer: str
    round: int
    rows: R


class Select(Node, kind="select"):
    """Keeps some of its input rows, unchanged."""

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()


class Reward(Node, kind="reward"):
    """Adds a `reward` column and one column per reward term (see `genrl_graph.score`).

    A row that cannot be judged gets NaN and is left out of baselines and training. A reward that leaves more than
    the share `max_unjudged` of this peer's own rows unjudged fails the run; with 1, even a round without any judged row
    passes. Rows of other peers never fail it. They are judged peer by peer, each within `peer_seconds`, or four times
    the time that the own rows took if that is longer; the rest of a peer's rows stay unjudged.

    Set `is_correctness` to false for a reward by which no row is right or wrong: evaluations report no pass@k of it.
    """

    is_correctness: ClassVar[bool] = True
    max_unjudged: float = Field(
        default=0.99, ge=0, le=1, description="share of the own rows that may stay unjudged (NaN)"
    )
    peer_seconds: float = Field(
        default=10.0,
        gt=0,
        description="seconds for the rows of one other peer in a round; its other rows stay unjudged",
    )

    @property
    def overlaps(self) -> bool:
        """Return true; override this for a reward that needs the main thread, for example for signals."""
        return True

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows(SCORED)


class Advantage(Node, kind="advantage"):
    """Computes advantages from rewards and adds them as an `advantage` column (see `genrl_graph.credit`)."""

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows(CREDITED)


class Update(Node, kind="update"):
    """Trains a policy or another carried value and returns its next version.

    A single output replaces the first carried input of its type; each field of a NamedTuple replaces the input of its
    name. `trains_critic` says whether the critic of the policy is trained, too.
    """

    trains_critic: ClassVar[bool] = False

    @classmethod
    def _check_kind(cls) -> None:
        cls._require(cls.returns_carried(), "an update returns the next version of a carried value")
        cls._require_replaced()


class Fork(Node, kind="policy"):
    """Copies a policy, such that one version may be updated while the other stays in use."""

    wants_whole_policy = True

    @classmethod
    def _check_kind(cls) -> None:
        outputs = cls._outputs()
        ok = bool(outputs) and all(issubclass(pattern.bound.base, Policy) for pattern in outputs)
        cls._require(ok, "a fork returns a policy")


class Coordinate(Node, kind="coordinate"):
    """Reports the round to an external coordinator; it changes no rows, and nobody outside hears of evaluations.

    Its `run` computes what to report and calls `log.submit`: that is committed with the step, and the coordinator of
    the run sends it, if there is one.
    """

    phases = frozenset({"rounds"})

    @property
    def stages_needed(self) -> int:
        """Return how many stages the coordinator must have for what this node submits."""
        return 0

    @property
    def follows_round(self) -> bool:
        """Return whether a new run begins at the round of the coordinator."""
        return False


class Eval(Node, kind="eval"):
    """Measures a policy or rows in evaluations, and takes no part in rounds. All it gives are the metrics that it logs.

    Nothing reads it, so adding one to a graph changes no row and no id.
    """

    phases = frozenset({"evaluations"})


KINDS: tuple[type[Node], ...] = (
    Source,
    Generator,
    Exchange,
    Select,
    Reward,
    Advantage,
    Update,
    Fork,
    Coordinate,
    Eval,
)
