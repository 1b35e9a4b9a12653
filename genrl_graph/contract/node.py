"""The contract of nodes and carries: the class is the configuration, `run` is the sockets.

Fields are params: validated, dumped to YAML, unknown keys refused. The positional parameters of `run` are input
edges, its return annotation is the output (a NamedTuple for several), keyword-only parameters are resources.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, Self

from pydantic import Field, PrivateAttr

from genrl_graph.contract.data_path import local_paths
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.contract.signature import Signature, method_of, read_hints, read_inputs, read_outputs
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED, EdgeType, Mark, Pattern
from genrl_graph.edge_types.rollouts import R
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import NodeError, ParamError
from genrl_graph.wire.packet import PacketLimits

Wire = str | tuple[str, ...] | Mapping[str, str]
"""What an input reads: one `node` or `node.field`, several in order, or several by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: its name in the graph, its stage, and the protocol fingerprint of the graph."""

    node: str
    stage: int = 0
    protocol: str = ""


class Carry(Declared, kind="carry"):
    """Declares a value that a round carries to the next; `init` makes it, and its annotation is the edge type."""

    edge: ClassVar[EdgeType]

    def init(self, name: str, *, seed: int) -> Carried:
        """The value before round 0; a pure function of params, carry name and run seed."""
        raise NotImplementedError

    def dry(self, name: str, *, seed: int) -> Carried:
        """What stands in for the value in dry play; one that takes a model or a network to make overrides this."""
        return self.init(name, seed=seed)

    @classmethod
    def _read_contract(cls) -> None:
        init = method_of(cls, "init", cls.type_name, missing="has no `init` method")
        hint = read_hints(cls.type_name, init).get("return")
        if not (isinstance(hint, type) and issubclass(hint, Carried) and hint is not Carried):
            what = f"declares to return {hint.__name__ if isinstance(hint, type) else hint}"
            raise NodeError(f"{cls.type_name}.init: {what}; annotate a subclass of Carried")
        cls.edge = EdgeType(hint)


class PolicyCarry(Carry, kind="policy"):
    """Declares a policy; one that is `small` is made in a moment, so that an estimate plays with it to time it."""

    small: ClassVar[bool] = False


class Node(Declared):
    """One typed step. Subclass one of the kinds below and give it a name: `class Mine(Reward, name="mine")`."""

    signature: ClassVar[Signature]
    _place: Place | None = PrivateAttr(default=None)

    @property
    def overlaps(self) -> bool:
        """Whether this node may run in another thread while a generator generates; one that reads a policy never does.

        Nodes that overlap run one after the other in that thread.
        """
        return False

    @property
    def place(self) -> Place:
        """Where this node stands; a node outside any graph stands at its type's name."""
        return self._place or Place(type(self).type_name)

    def prepare(self) -> None:
        """Load what may be missing or broken outside the program; called once, before a policy is made."""

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Problems between params and wired inputs, one line each; part of the check of a graph."""
        return ()

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Problems between params and those of the wired parts, one line each; part of the check of a graph.

        `parts` has, for every input of one edge, the node or carry that gives it, where that can be read.
        """
        return ()

    def evaluated(self, how: Evaluation) -> Self:
        """This node as it is in an evaluation: a source gives held-out tasks, a generator samples as asked.

        What changes with the round in training must not do so here, or evaluations could not be compared.
        """
        return self

    def dry(self) -> "Node":
        """What stands in for this node in dry play, where no model is loaded and no network asked."""
        return self

    def placed(self, place: Place) -> Self:
        """A copy of this node that knows where it stands."""
        copy = self.model_copy()
        copy._place = place
        return copy

    @classmethod
    def _read_contract(cls) -> None:
        run = method_of(cls, "run", cls.type_name, missing="has no `run` method")
        inputs, resources = read_inputs(cls.type_name, run)
        cls.signature = Signature(inputs, read_outputs(cls.type_name, run), resources)
        cls._require(not any(map(_from_peers, cls._outputs())), "only an exchange meets peers and gives Peer[...]")
        cls._check_kind()

    @classmethod
    def _check_kind(cls) -> None:
        """The rule of the kind; that of kinds without one of their own: nothing carried comes out."""
        cls._require(not any(map(_is_carried, cls._outputs())), "only an update or a fork gives a carried value")

    @classmethod
    def _outputs(cls) -> list[Pattern]:
        return list(cls.signature.outputs.values())

    @classmethod
    def _require(cls, ok: bool, rule: str) -> None:
        if not ok:
            given = ", ".join(map(str, cls._outputs())) or "nothing"
            raise NodeError(f"{cls.type_name}: {rule}, but this {cls.kind} returns {given}")

    @classmethod
    def _require_rows(cls, *marks: Mark) -> None:
        """Every output is rows with these marks, and there is one."""
        outputs = cls._outputs()
        ok = bool(outputs) and not any(map(_is_carried, outputs)) and all(p.marks >= set(marks) for p in outputs)
        wanted = f"{marks[0].name}[...]" if marks else "rows"
        cls._require(ok, f"what a node of kind {cls.kind} returns is {wanted}")


def _is_carried(pattern: Pattern) -> bool:
    return issubclass(pattern.bound.base, Carried)


def _from_peers(pattern: Pattern) -> bool:
    return PEER in pattern.marks


class Source(Node, kind="source"):
    """Gives the tasks of a round. `resolve` makes any of its tasks again from the id.

    `rng` of a source does not depend on the round (so that data can be shuffled without replacement over the run):
    it is seeded from (run seed, node) when `shared`, and from (run seed, node, peer) when not.
    Task ids are `<source node>/<key>`.
    """

    shared: bool = True

    def resolve(self, task_id: str) -> Task:
        """The task of this id; raises `DataError` for one that this source cannot have made."""
        raise NotImplementedError

    def task_id(self, key: str | int) -> str:
        """The id of the task that this source makes from `key`."""
        return f"{self.place.node}/{key}"

    def data_paths(self) -> list[Path]:
        """Return the local files and folders that this source reads; their digests are recorded with a run."""
        return local_paths(self)

    def evaluated(self, how: Evaluation) -> Self:
        """This source as it gives held-out tasks, never one of training, the same in every evaluation.

        `resolve` of the original makes them too. Raises `ParamError` where there are none.
        """
        raise ParamError(f"{self.type_name}: has no tasks to evaluate on; its class gives none")

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()
        if cls.resolve is Source.resolve:
            raise NodeError(f"{cls.type_name}: a source needs `resolve(self, task_id)`, which makes a task again")


class Generator(Node, kind="generate"):
    """Lets a policy act: rows of rollouts or trajectories. A generator opens a stage."""

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()


class Exchange(Node, kind="exchange"):
    """Meets the peers, in two pure methods; sending, waiting and deadlines are the runner's.

    `offer(rows: R) -> R` gives the rows to send, `admit(packets, *, tasks, ...) -> Peer[R]` what is taken from the
    packets that came, in the order of the sorted peer names. The own packet is always among them: `include_self`
    is for `admit` to keep.
    """

    include_self: bool = True
    min_peers: int = Field(ge=1)
    timeout_s: float = Field(60.0, gt=0)
    on_short: Literal["wait", "continue", "fail"] = "wait"
    max_staleness: int = Field(
        0, ge=0, le=64, description="rounds that rows of a peer which is behind may be old (swarm runner)"
    )
    max_rows: int = Field(4096, ge=1, le=2**20, description="the most rows that a peer may offer")
    max_row_kb: int = Field(1024, ge=1, le=2**20, description="the most that one row may hold; a larger one is refused")
    max_payload_mb: int = Field(64, ge=1, le=2048, description="the most that an offer may weigh; unpacked, four times")

    @property
    def limits(self) -> PacketLimits:
        """What is taken of one peer in one round."""
        row, payload = self.max_row_kb * 2**10, self.max_payload_mb * 2**20
        return PacketLimits(
            max_rows=self.max_rows,
            max_row_bytes=row,
            max_payload_bytes=payload,
            max_decoded_bytes=4 * payload,
            max_list=row // 4,
        )

    def evaluated(self, how: Evaluation) -> Self:
        """A peer is evaluated alone: it meets itself."""
        return self.model_copy(update={"include_self": True, "min_peers": 1})

    @classmethod
    def _read_contract(cls) -> None:
        where, missing = cls.type_name, "an exchange has two methods, `offer` and `admit`"
        offer = method_of(cls, "offer", where, missing=missing)
        admit = method_of(cls, "admit", where, missing=missing)
        inputs, unused = read_inputs(where, offer)
        further, resources = read_inputs(where, admit, after=2)
        for name in unused:
            raise NodeError(f"{where}.offer: takes the resource {name!r}; only `admit` has resources")
        for socket in further:
            raise NodeError(f"{where}.admit.{socket.name}: takes the packets alone; what else is read comes to `offer`")
        cls.signature = Signature(inputs, read_outputs(where, admit), resources)
        cls._require_rows(PEER)


@dataclass(frozen=True, slots=True)
class Packet(Generic[R]):
    """What one peer offered to an exchange in a round."""

    peer: str
    round: int
    rows: R


class Select(Node, kind="select"):
    """Keeps some of the rows it is given, and changes none."""

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows()


class Reward(Node, kind="reward"):
    """Judges rows: adds a `reward` and one column a term (`genrl_graph.score`).

    A row that cannot be judged gets NaN and is left out of baselines and training; a reward that leaves more than
    the share `max_unjudged` of its rows unjudged fails the run (1 tolerates a round in which nothing was judged).
    """

    max_unjudged: float = Field(0.99, ge=0, le=1, description="share of the rows that may stay unjudged (NaN)")

    @property
    def overlaps(self) -> bool:
        """Rewards do; one that wants the main thread, as for signals, says no."""
        return True

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows(SCORED)


class Advantage(Node, kind="advantage"):
    """Turns rewards into advantages: adds an `advantage` (`genrl_graph.credit`)."""

    @classmethod
    def _check_kind(cls) -> None:
        cls._require_rows(CREDITED)


class Update(Node, kind="update"):
    """Trains: takes a policy (or another carried value) and returns its next version.

    A single output replaces the first carried input of its type; the outputs of a NamedTuple those of their names.
    """

    @classmethod
    def _check_kind(cls) -> None:
        carried = [field for field, pattern in cls.signature.outputs.items() if _is_carried(pattern)]
        cls._require(bool(carried), "an update returns the next version of a carried value")
        for field in carried:
            if field not in cls.signature.replaced:
                what = f"output {field!r}" if field else "the output"
                advice = "take it as an input" + (" of this name" if field else "")
                raise NodeError(f"{cls.type_name}: {what} is the next version of no input; {advice}")


class Fork(Node, kind="policy"):
    """Takes a policy and returns a second live version, while the first may be updated."""

    @classmethod
    def _check_kind(cls) -> None:
        outputs = cls._outputs()
        ok = bool(outputs) and all(issubclass(pattern.bound.base, Policy) for pattern in outputs)
        cls._require(ok, "a fork returns a policy")


class Coordinate(Node, kind="coordinate"):
    """Tells an outside coordinator about the round; it changes no rows."""


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
)
