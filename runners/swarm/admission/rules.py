"""What is admitted of the rows that a peer sent: a bad row is refused with its rule and value, good ones stay.

Rules of all edge types, each where the type has the column that it is about:

    row_bytes, row_list   the size of the row
    finite                numbers are finite; those that rewards and advantages add may be NaN
    peer                  the sender speaks for itself
    round                 the round is the announced one
    node, stage           a generator whose rows come through this exchange
    name                  ids are short
    repeated, replayed    an authored id is new, in its packet and in the rounds that are remembered
    tasks                 there are not many more tasks than in the own offer: some take long to make
    task                  the own source can make the task

Then come those of the type itself (`Frame.flaws`); of rollouts that ids hash to their content, above all.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.arrow.row_sums import Counts, most_elements, non_finite, per_row, row_bytes
from genrl_graph.contract.node import Exchange, Generator, Source
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.edge_types.violation import Mask, ReceiverContext
from genrl_graph.errors import DataError, PeerRefused
from genrl_graph.messages import short
from genrl_graph.runners.swarm.admission.verdict import MOST_ID, AdmissionVerdict, Admitted, refused_payload
from genrl_graph.wire.packet import decode

MOST_TASK_ID = 1024
LEAST_TASKS = 1024  # are looked up for a packet, and twice as many as in the own offer
LEAST_REMEMBERED = 8  # rounds


class Admission:
    """Judges the packets that come to one exchange, for one peer; remembers the ids that it admitted.

    `makers` names the nodes whose rows can come, with their stages; packets may be `max_staleness` rounds old.
    Packets of a round must come in the order of the sorted peer names. One may come again in the same round.
    """

    def __init__(self, node: Exchange, makers: Mapping[str, int], *, max_staleness: int = 0) -> None:
        self._limits, self._protocol = node.limits, node.place.protocol
        self._makers, self._max_staleness = dict(makers), max_staleness
        self._seen: dict[int, dict[str, str]] = {}  # round -> id -> sender

    def receive(
        self,
        data: bytes | bytearray | memoryview,
        *,
        like: Frame,
        sender: str,
        announced: int,
        round: int,
        tasks: TaskBook,
        vocabularies: Mapping[str, int] | None = None,
    ) -> Admitted:
        """What is admitted of a payload; whatever is in it, nothing is raised. `like` is the own offer."""
        try:
            rows = decode(data, like=like, limits=self._limits)
        except PeerRefused as error:
            return refused_payload(sender, like, error)
        return self.admit(
            rows,
            like=like,
            sender=sender,
            announced=announced,
            round=round,
            tasks=tasks,
            vocabularies=vocabularies,
        )

    def admit(
        self,
        rows: Frame,
        *,
        like: Frame,
        sender: str,
        announced: int,
        round: int,
        tasks: TaskBook,
        vocabularies: Mapping[str, int] | None = None,
    ) -> Admitted:
        """What is admitted of decoded rows: it has the very columns of `like`.

        `vocabularies` gives the number of tokens by fingerprint of tokenizer, where that is known.
        """
        try:
            self._refuse_old(announced, round)
            rows = _with_columns_of(like, rows)
        except PeerRefused as error:
            return refused_payload(sender, like, error)
        verdict = AdmissionVerdict(rows, sender)
        self._judge_sizes(verdict)
        _judge_numbers(verdict)
        self._judge_origin(verdict, announced)
        _judge_names(verdict)
        self._judge_ids(verdict, round)
        known = ReceiverContext(self._protocol, _judge_tasks(verdict, tasks, like), vocabularies or {})
        verdict.refuse_flaws(known)
        admitted = verdict.given()
        if _is_authored(rows):
            self._seen.setdefault(round, {}).update(dict.fromkeys(admitted.rows.values("id"), sender))
        return admitted

    def _refuse_old(self, announced: int, round: int) -> None:
        oldest = round - self._max_staleness
        if not oldest <= announced <= round:
            raise PeerRefused(f"announced: {short(announced)}, not {oldest} to {round}")
        for past in [past for past in self._seen if past < round - max(self._max_staleness, LEAST_REMEMBERED)]:
            del self._seen[past]

    def _judge_sizes(self, verdict: AdmissionVerdict) -> None:
        for rule, sizes, most in (
            ("row_bytes", row_bytes(verdict.rows.table), self._limits.max_row_bytes),
            ("row_list", most_elements(verdict.rows.table), self._limits.max_list),
        ):
            verdict.refuse(rule, sizes > most, sizes)

    def _judge_origin(self, verdict: AdmissionVerdict, announced: int) -> None:
        columns = verdict.rows.table.column_names
        if "peer" in columns:
            verdict.refuse("peer", _differs(verdict.rows, "peer", verdict.sender), "peer")
        if "round" in columns:
            verdict.refuse("round", _differs(verdict.rows, "round", announced), "round")
        if "node" in columns:
            verdict.refuse("node", ~_is_in(verdict.rows, "node", self._makers), "node")
        if {"node", "stage"} <= set(columns):
            stages = {at: self._makers[node] for at, node in verdict.values("node").items()}
            given = verdict.rows.numpy("stage")
            verdict.refuse("stage", verdict.mask(at for at, stage in stages.items() if given[at] != stage), "stage")

    def _judge_ids(self, verdict: AdmissionVerdict, round: int) -> None:
        if _is_authored(verdict.rows):
            ids = verdict.values("id")
            first = {id: at for at, id in reversed(ids.items())}
            verdict.refuse("repeated", verdict.mask(at for at, id in ids.items() if first[id] != at), "id")
            replayed = (at for at, id in ids.items() if self._is_replayed(id, verdict.sender, round))
            verdict.refuse("replayed", verdict.mask(replayed), "id")

    def _is_replayed(self, id: str, sender: str, round: int) -> bool:
        """Whether an id was admitted before, other than in the packet that comes again."""
        return any(id in ids and (past, ids[id]) != (round, sender) for past, ids in self._seen.items())


def makers(schedule: Schedule, exchange: str) -> dict[str, int]:
    """The generators and sources whose rows can come through an exchange, with their stages."""
    found: dict[str, int] = {}
    seen, todo = {exchange}, [exchange]
    while todo:
        for edge in schedule.graph.nodes[todo.pop()].edges():
            kind = schedule.types[edge.ref]
            node = schedule.nodes.get(edge.origin)
            if node is None or edge.origin in seen or not issubclass(kind.base, Frame):
                continue
            seen.add(edge.origin)
            if isinstance(node, Generator | Source):
                found[edge.origin] = node.place.stage
            else:
                todo.append(edge.origin)
    return found


def of_one_shape(admitted: Mapping[str, Admitted]) -> dict[str, Admitted]:
    """What peers offered, without the packets whose tensors have other shapes than those of most peers.

    Only where the own offer has no rows can shapes differ; such rows could not be laid together.
    """
    shapes = Counter(_shapes(admitted[peer].rows) for peer in sorted(admitted) if len(admitted[peer].rows))
    if len(shapes) < 2:
        return dict(admitted)
    usual = shapes.most_common(1)[0][0]
    return {peer: given if _fits(given, usual) else _misshapen(peer, given) for peer, given in admitted.items()}


def _judge_numbers(verdict: AdmissionVerdict) -> None:
    rows = verdict.rows
    for name in type(rows).declared():
        verdict.refuse("finite", non_finite(rows.table.column(name)) > 0, name)


def _judge_names(verdict: AdmissionVerdict) -> None:
    """Refuse long ids, before any of them becomes a Python value."""
    for name, most in (("id", MOST_ID), ("parent_ids", MOST_ID), (verdict.rows.task_column, MOST_TASK_ID)):
        if name in verdict.rows.table.column_names:
            verdict.refuse("name", per_row(verdict.rows.table.column(name), partial(_longer, most)) > 0, name)


def _longer(most: int, texts: pa.Array) -> Counts:
    longer: Counts = (pc.utf8_length(texts).to_numpy(zero_copy_only=False) > most).astype(np.int64)
    return longer


def _judge_tasks(verdict: AdmissionVerdict, tasks: TaskBook, like: Frame) -> dict[str, Task]:
    """The tasks of the rows that are good so far, each made once; rows of those that cannot be made are refused."""
    name = verdict.rows.task_column
    if name not in verdict.rows.table.column_names:
        return {}
    most = max(LEAST_TASKS, 2 * pc.count_distinct(like.table.column(name)).as_py())
    named = set(islice(dict.fromkeys(verdict.values(name).values()), most))
    verdict.refuse("tasks", verdict.mask(at for at, id in verdict.values(name).items() if id not in named), name)
    ids = verdict.values(name)
    found: dict[str, Task] = {}
    reasons: dict[str, str] = {}
    for id in dict.fromkeys(ids.values()):
        try:
            found[id] = tasks[id]
        except DataError as error:
            reasons[id] = short(str(error))
        except Exception as error:  # a source that is asked for what it cannot have made may fail in any way
            reasons[id] = short(f"{type(error).__name__}: {error}")
    shown = {at: f"{short(id)}: {reasons[id]}" for at, id in ids.items() if id in reasons}
    verdict.refuse("task", verdict.mask(shown), shown)
    return found


def _is_authored(rows: Frame) -> bool:
    """Whether ids belong to their author: tasks, in contrast, are the same for all peers."""
    return {"id", "peer"} <= set(rows.table.column_names)


def _with_columns_of(like: Frame, rows: Frame) -> Frame:
    """The rows with the columns of `like` beyond those declared: others are left out, missing ones are NaN."""
    table = rows.table
    if table.column_names == like.table.column_names:
        return rows
    for field in like.table.schema:
        if field.name not in table.column_names:
            if not pa.types.is_floating(field.type):
                raise PeerRefused(f"columns: {field.name!r} is missing, and our offer has it")
            table = table.append_column(field, pa.array(np.full(len(rows), np.nan), field.type))
    return type(rows)(table.select(like.table.column_names), marks=rows.marks)


def _differs(rows: Frame, name: str, value: object) -> Mask:
    column = rows.table.column(name)
    differs: Mask = pc.not_equal(column, pa.scalar(value, column.type)).to_numpy()
    return differs


def _is_in(rows: Frame, name: str, values: Iterable[str]) -> Mask:
    found: Mask = pc.is_in(rows.table.column(name), pa.array(list(values), pa.string())).to_numpy()
    return found


def _shapes(rows: Frame) -> pa.Schema:
    return rows.table.schema


def _fits(given: Admitted, usual: pa.Schema) -> bool:
    return not len(given.rows) or _shapes(given.rows).equals(usual)


def _misshapen(peer: str, given: Admitted) -> Admitted:
    tensors = [field for field in _shapes(given.rows) if isinstance(field.type, pa.FixedShapeTensorType)]
    shown = ", ".join(f"{field.name!r} is {field.type.shape}" for field in tensors)
    return refused_payload(peer, given.rows, PeerRefused(f"shape: {shown}, unlike those of most peers"))
