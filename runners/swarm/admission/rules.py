"""Check the rows that a peer sent: refuse each bad row with its rule and value, and admit the others.

These rules apply to every edge type that has the column they check:

    row_bytes, row_list   the size of the row
    finite                declared numbers are finite; columns that rewards and advantages add may be NaN
    peer                  rows carry the name of their sender
    round                 rows carry the announced round
    node, stage           rows come from a node that feeds this exchange, in its stage
    name                  ids are not too long
    repeated, replayed    an authored id is new, in its packet and in the remembered rounds
    tasks                 a packet names at most 1024 tasks, or twice those of the own offer: some are slow to build
    rows_per_task         a task has at most `max_rows_per_task` rows, or episodes
    seconds               the tasks can be built within `peer_seconds`
    task                  the own source can build the task

The rules of the edge type follow (`Frame.violations`); for rollouts, above all, ids must hash to their content.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
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
LEAST_TASKS = 1024  # a packet may always name this many; more only up to twice those of the own offer
LEAST_REMEMBERED = 8  # rounds
LEAST_ROWS_PER_TASK, USUAL_TIMES = 16, 4  # more rows of a task only up to four times the usual number


class Admission:
    """Checks the packets that one exchange receives from other peers; remembers the ids that it admitted.

    `makers` maps the nodes that may author rows to their stages; packets may be `max_staleness` rounds old. Pass the
    packets of a round in the order of the sorted peer names. The same packet may be passed twice in its round.
    `rows_per_task` is what a peer usually makes (see `rows_per_task`), if this one makes fewer or none.
    """

    def __init__(
        self, node: Exchange, makers: Mapping[str, int], *, max_staleness: int = 0, rows_per_task: int = 0
    ) -> None:
        self._limits, self._protocol = node.limits, node.place.protocol
        self._makers, self._max_staleness = dict(makers), max_staleness
        self._seconds, self._max_rows_per_task = node.peer_seconds, node.max_rows_per_task
        self._usual_rows_per_task = rows_per_task
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
        shown: str = "",
    ) -> Admitted:
        """Decode a payload and return its admitted rows; no payload makes it raise. `like` is the own offer.

        `sender` is the name that the rows carry; where others have that name, they are shown as rows of `shown`.
        """
        try:
            rows = decode(data, like=like, limits=self._limits)
        except PeerRefused as error:
            return refused_payload(shown or sender, like, error)
        return self.admit(
            rows,
            like=like,
            sender=sender,
            announced=announced,
            round=round,
            tasks=tasks,
            vocabularies=vocabularies,
            shown=shown,
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
        shown: str = "",
    ) -> Admitted:
        """Return the admitted rows of decoded ones, with exactly the columns of `like` that are not local.

        `vocabularies` maps tokenizer fingerprints to vocabulary sizes, where they are known.
        """
        until = time.monotonic() + self._seconds
        try:
            self._refuse_old(announced, round)
            rows = _with_columns_of(like, rows)
        except PeerRefused as error:
            return refused_payload(shown or sender, like, error)
        verdict = AdmissionVerdict(rows, shown or sender)
        self._judge_sizes(verdict)
        _judge_numbers(verdict)
        self._judge_origin(verdict, sender, announced)
        _judge_names(verdict)
        self._judge_ids(verdict, round)
        self._judge_rows_per_task(verdict, like)
        known = ReceiverContext(self._protocol, _judge_tasks(verdict, tasks, like, until), vocabularies or {})
        verdict.refuse_flaws(known)
        admitted = replace(verdict.result(), out_of_time=time.monotonic() >= until)
        if _is_authored(rows):
            self._seen.setdefault(round, {}).update(dict.fromkeys(admitted.rows.values("id"), verdict.sender))
        return replace(admitted, rows=_renamed(admitted.rows, verdict.sender))

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

    def _judge_origin(self, verdict: AdmissionVerdict, sender: str, announced: int) -> None:
        columns = verdict.rows.table.column_names
        if "peer" in columns:
            verdict.refuse("peer", _differs(verdict.rows, "peer", sender), "peer")
        if "round" in columns:
            verdict.refuse("round", _differs(verdict.rows, "round", announced), "round")
        if "node" in columns:
            verdict.refuse("node", ~_is_in(verdict.rows, "node", self._makers), "node")
        if {"node", "stage"} <= set(columns):
            stages = {at: self._makers[node] for at, node in verdict.values("node").items()}
            claimed = verdict.rows.numpy("stage")
            verdict.refuse("stage", verdict.mask(at for at, stage in stages.items() if claimed[at] != stage), "stage")

    def _judge_ids(self, verdict: AdmissionVerdict, round: int) -> None:
        if _is_authored(verdict.rows):
            ids = verdict.values("id")
            first = {id: at for at, id in reversed(ids.items())}
            verdict.refuse("repeated", verdict.mask(at for at, id in ids.items() if first[id] != at), "id")
            replayed = (at for at, id in ids.items() if self._is_replayed(id, verdict.sender, round))
            verdict.refuse("replayed", verdict.mask(replayed), "id")

    def _judge_rows_per_task(self, verdict: AdmissionVerdict, like: Frame) -> None:
        """Refuse the rows of a task beyond its limit; rows of one episode count as one."""
        name = verdict.rows.task_column
        if not _is_authored(verdict.rows) or name not in verdict.rows.table.column_names:
            return
        own = Counter(task for task, _ in set(_samples(like)))
        self._usual_rows_per_task = max([self._usual_rows_per_task, *own.values()])
        most = self._max_rows_per_task or max(LEAST_ROWS_PER_TASK, USUAL_TIMES * self._usual_rows_per_task)
        tasks, kept = verdict.values(name), dict[str, set[object]]()
        column = verdict.rows.sample_column
        samples = {at: at for at in tasks} if column is None else verdict.values(column)
        surplus: dict[int, str] = {}
        for at, task in tasks.items():
            known = kept.setdefault(task, set())
            if samples[at] not in known and len(known) >= most:
                surplus[at] = f"{short(task)}: more than {most}"
            else:
                known.add(samples[at])
        verdict.refuse("rows_per_task", verdict.mask(surplus), surplus)

    def _is_replayed(self, id: str, sender: str, round: int) -> bool:
        """Return whether an id was admitted before, other than from the same packet of this round."""
        return any(id in ids and (past, ids[id]) != (round, sender) for past, ids in self._seen.items())


def makers(schedule: Schedule, exchange: str) -> dict[str, int]:
    """Return the stages, by name, of the generators and sources whose rows can pass through an exchange."""
    schedule = schedule.game
    stages: dict[str, int] = {}
    seen, todo = {exchange}, [exchange]
    while todo:
        for edge in schedule.graph.nodes[todo.pop()].edges():
            kind = schedule.types[edge.ref]
            node = schedule.nodes.get(edge.origin)
            if node is None or edge.origin in seen or not issubclass(kind.base, Frame):
                continue
            seen.add(edge.origin)
            if isinstance(node, Generator | Source):
                stages[edge.origin] = node.place.stage
            else:
                todo.append(edge.origin)
    return stages


def roles_of_makers(schedule: Schedule, exchange: str) -> list[str]:
    """Return the roles that alone make rows of an exchange: without a peer of each it lacks some."""
    nodes = schedule.game.graph.nodes
    return list(dict.fromkeys(nodes[name].role for name in makers(schedule, exchange) if nodes[name].role))


def rows_per_task(schedule: Schedule, exchange: str) -> int:
    """Return how many rows, or episodes, of a task a peer with the params of this graph makes for an exchange.

    A generator that branches on the rows of an exchange has as many prompts as `min_peers` peers make there.
    """
    game = schedule.game

    def made_by(name: str) -> int:
        node = game.nodes[name]
        if not isinstance(node, Generator):
            return 1
        branched = [edge for edge in game.graph.nodes[name].edges() if node.branches_on in (edge.key, edge.socket)]
        return node.group_size * (sum(reaching(edge.origin) for edge in branched if edge.origin in game.nodes) or 1)

    def reaching(name: str) -> int:
        node = game.nodes[name]
        if isinstance(node, Generator | Source):
            return made_by(name)
        return sum(map(made_by, makers(schedule, name))) * (node.min_peers if isinstance(node, Exchange) else 1)

    return sum(map(made_by, makers(schedule, exchange)))


def of_one_shape(admitted: Mapping[str, Admitted]) -> dict[str, Admitted]:
    """Refuse the packets whose tensor shapes differ from those of most peers.

    Shapes can differ only where the own offer has no rows; rows of different shapes cannot be concatenated.
    """
    shapes = Counter(_shapes(admitted[peer].rows) for peer in sorted(admitted) if len(admitted[peer].rows))
    if len(shapes) < 2:
        return dict(admitted)
    usual = shapes.most_common(1)[0][0]
    return {peer: packet if _fits(packet, usual) else _misshapen(peer, packet) for peer, packet in admitted.items()}


def _judge_numbers(verdict: AdmissionVerdict) -> None:
    rows = verdict.rows
    for name in type(rows).declared():
        verdict.refuse("finite", non_finite(rows.table.column(name)) > 0, name)


def _judge_names(verdict: AdmissionVerdict) -> None:
    """Refuse long ids before any is converted to a Python string."""
    for name, most in (("id", MOST_ID), ("parent_ids", MOST_ID), (verdict.rows.task_column, MOST_TASK_ID)):
        if name in verdict.rows.table.column_names:
            verdict.refuse("name", per_row(verdict.rows.table.column(name), partial(_longer, most)) > 0, name)


def _longer(most: int, texts: pa.Array) -> Counts:
    longer: Counts = (pc.utf8_length(texts).to_numpy(zero_copy_only=False) > most).astype(np.int64)
    return longer


def _renamed(rows: Frame, name: str) -> Frame:
    """Return the rows under another name of their author, with groups that are its own."""
    table = rows.table
    if "peer" not in table.column_names or not len(rows) or table.column("peer")[0].as_py() == name:
        return rows
    columns = {"peer": pa.array([name] * len(rows), pa.string())}
    if "group_id" in table.column_names:
        columns["group_id"] = pa.array([f"{id}@{name}" for id in rows.values("group_id")], pa.string())
    for column, values in columns.items():
        table = table.set_column(table.column_names.index(column), column, values)
    return type(rows)(table, marks=rows.marks)


def _samples(rows: Frame) -> list[tuple[str, object]]:
    """Return the task and the sample of each row: its episode where rows are steps of episodes, else its position."""
    if rows.sample_column is None:
        return list(zip(rows.values(rows.task_column), range(len(rows)), strict=True))
    return list(zip(rows.values(rows.task_column), rows.values(rows.sample_column), strict=True))


def _judge_tasks(verdict: AdmissionVerdict, tasks: TaskBook, like: Frame, until: float) -> dict[str, Task]:
    """Build each task of the rows that are good so far once, and refuse the rows whose task cannot be built.

    Tasks of the own offer come first. From the monotonic time `until` on no further task is built.
    """
    name = verdict.rows.task_column
    if name not in verdict.rows.table.column_names:
        return {}
    most = max(LEAST_TASKS, 2 * pc.count_distinct(like.table.column(name)).as_py())
    named = set(islice(dict.fromkeys(verdict.values(name).values()), most))
    verdict.refuse("tasks", verdict.mask(at for at, id in verdict.values(name).items() if id not in named), name)
    ids = verdict.values(name)
    built: dict[str, Task] = {}
    reasons: dict[str, str] = {}
    own = set(like.values(name))
    late: set[str] = set()
    for id in sorted(dict.fromkeys(ids.values()), key=lambda id: id not in own):
        if time.monotonic() >= until:
            late.add(id)
            continue
        try:
            built[id] = tasks[id]
        except DataError as error:
            reasons[id] = short(str(error))
        except Exception as error:  # a source may fail in any way on an id that it never issued
            reasons[id] = short(f"{type(error).__name__}: {error}")
    verdict.refuse("seconds", verdict.mask(at for at, id in ids.items() if id in late), name)
    shown = {at: f"{short(id)}: {reasons[id]}" for at, id in ids.items() if id in reasons}
    verdict.refuse("task", verdict.mask(shown), shown)
    return built


def _is_authored(rows: Frame) -> bool:
    """Return whether ids belong to one author; tasks, in contrast, are the same for all peers."""
    return {"id", "peer"} <= set(rows.table.column_names)


def _with_columns_of(like: Frame, rows: Frame) -> Frame:
    """Return the rows with the columns that peers share of `like`: drop others and fill missing ones with NaN."""
    table, like = rows.table, like.without_local()
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
    is_in: Mask = pc.is_in(rows.table.column(name), pa.array(list(values), pa.string())).to_numpy()
    return is_in


def _shapes(rows: Frame) -> pa.Schema:
    return rows.table.schema


def _fits(packet: Admitted, usual: pa.Schema) -> bool:
    return not len(packet.rows) or _shapes(packet.rows).equals(usual)


def _misshapen(peer: str, packet: Admitted) -> Admitted:
    tensors = [field for field in _shapes(packet.rows) if isinstance(field.type, pa.FixedShapeTensorType)]
    shown = ", ".join(f"{field.name!r} is {field.type.shape}" for field in tensors)
    return refused_payload(peer, packet.rows, PeerRefused(f"shape: {shown}, unlike those of most peers"))
