"""Prove that a rollout was among the rows of a report: its row, and the hashes that lead to the root of the round."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrl_graph.errors import ParamError, StoreError
from genrl_graph.records import merkle
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.store.outbox import submissions_of
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.strict_json import parse_object

VERSION = 1
MAX_PROOF_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Proof:
    """A row in a tree of `count` rows: its place, and the hashes that lead to `root`, which is the root of `round`."""

    rollout_id: str
    peer: str
    round: int
    row: Mapping[str, Any]
    at: int
    count: int
    hashes: tuple[bytes, ...]
    root: bytes

    def require_consistent(self) -> None:
        """Raise `ParamError` where the row does not lead to the root, or is not that of the rollout."""
        leaf = merkle.leaf(merkle.canonical(dict(self.row)))
        where = f"rollout {self.rollout_id}"
        if merkle.root_of_path(leaf, self.at, self.count, self.hashes) != self.root:
            raise ParamError(f"{where}: the proof does not hold: its row does not lead to root {self.root.hex()}")
        if self.row.get("id") != self.rollout_id:
            raise ParamError(f"{where}: the proof does not hold: its row is that of {str(self.row.get('id'))[:80]}")

    def json(self) -> str:
        """Return the proof as JSON."""
        values = {
            "version": VERSION,
            "rollout_id": self.rollout_id,
            "peer": self.peer,
            "round": self.round,
            "row": dict(self.row),
            "at": self.at,
            "count": self.count,
            "hashes": [value.hex() for value in self.hashes],
            "root": self.root.hex(),
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def read_proof(path: Path) -> Proof:
    """Read a proof; raises `ParamError` for a file that is none."""
    try:
        if path.stat().st_size > MAX_PROOF_BYTES:
            raise ParamError(f"{path}: has more than {MAX_PROOF_BYTES} bytes, so it is no proof")
        values = parse_object(path.read_bytes(), path)
        if values["version"] != VERSION:
            raise ParamError(f"{path}: is a proof of version {str(values['version'])[:20]}, this reads {VERSION}")
        hashes = tuple(bytes.fromhex(text) for text in values["hashes"])
        numbers = [values[name] for name in ("round", "at", "count")]
        if not all(type(number) is int for number in numbers) or not isinstance(values["row"], dict):
            raise TypeError("row, round, at, count")
        root, texts = bytes.fromhex(values["root"]), (str(values["rollout_id"]), str(values["peer"]))
        return Proof(*texts, numbers[0], values["row"], numbers[1], numbers[2], hashes, root)
    except OSError as error:
        raise ParamError(f"{path}: cannot be read: {error.strerror}") from error
    except (StoreError, ValueError, KeyError, TypeError) as error:
        raise ParamError(f"{path}: is no proof of `store prove` ({type(error).__name__}: {str(error)[:80]})") from error


def prove(run: StoredRun, rollout_id: str) -> Proof:
    """Prove a rollout of a run, from its arrays.

    Raises `ParamError` for a rollout that no report has, and `StoreError` with the row that is not as it was reported.
    """
    try:
        return _proven(run, rollout_id)
    except StoreError as error:
        raise StoreError(_changed_row(run, rollout_id, error)) from error


def _changed_row(run: StoredRun, rollout_id: str, error: StoreError) -> str:
    """Return which row a damaged file changes; where the file cannot be decoded, what it keeps from being proven."""
    salvaged = StoredRun(run.folder, [RunStore.salvage(folder) for folder in run.folders])
    damage = f"rollout {rollout_id} cannot be proven: {error}"
    try:
        _proven(salvaged, rollout_id)
    except _ChangedRowError as row:
        return str(row) if isinstance(error, _ChangedRowError) else f"{row} ({error})"
    except (StoreError, ParamError):
        return damage
    return f"{damage}; its row is as it was reported"


class _ChangedRowError(StoreError):
    """A row of a report is not the one that was reported."""


def _proven(run: StoredRun, rollout_id: str) -> Proof:
    for node, part in run.graph.nodes.items():
        if part.type_name != "coordinate.report" or f"{node}/leaves" not in run.groups:
            continue
        leaves = run.table(f"{node}/leaves").to_pylist()
        own = next((row for row in leaves if row["rollout_id"] == rollout_id), None)
        if own is not None:
            of_peer = [row for row in leaves if row["holder"] == own["holder"]]
            return _proof(run, node, own["round"], own["holder"], of_peer, rollout_id)
    raise ParamError(f"{run.folder}: no report with `audit` has a rollout {rollout_id!r}; `rollouts` lists ids")


def _proof(
    run: StoredRun, node: str, number: int, peer: str, leaves: Sequence[Mapping[str, Any]], rollout_id: str
) -> Proof:
    """Prove a rollout of a round by all rows that the contract got with it: those of one or more rounds of the game."""
    coordinator = run.graph.run.coordinator
    game_rounds = 1 if coordinator is None else coordinator.game_rounds
    round = number // game_rounds
    reported: dict[int, list[Mapping[str, Any]]] = {}
    for leaf in leaves:
        if leaf["round"] // game_rounds == round:
            reported.setdefault(leaf["round"], []).append(leaf)
    rows = [row for each in sorted(reported) for row in _rows(run, node, each, peer, reported[each])]
    ids = [leaf["rollout_id"] for each in sorted(reported) for leaf in reported[each]]
    at, hashes = ids.index(rollout_id), [merkle.leaf(row) for row in rows]
    path, root = tuple(merkle.path(hashes, at)), merkle.root(hashes)
    return Proof(rollout_id, peer, round, json.loads(rows[at]), at, len(rows), path, root)


def _rows(run: StoredRun, node: str, number: int, peer: str, reported: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return the rows of a report, each as it was reported; raises `StoreError` with the first other one."""
    where = f"{run.folder}: nodes.{node} (round {number}, {peer})"
    rows: list[bytes] = []
    for edge in run.graph.nodes[node].edges():
        frame = run.frame(edge.ref, number, holder=peer)
        rows += merkle.canonical_rows(frame.where([author == peer for author in frame.values("peer")]))
    leaves = [merkle.leaf(row) for row in rows]
    for place, then in enumerate(reported):
        if place >= len(leaves) or leaves[place].hex() != then["leaf"]:
            what = f"row {place}, rollout {then['rollout_id']}, is not the one that was reported"
            raise _ChangedRowError(f"{where}: {what}; restore the folder from a copy")
    root, then_root = merkle.root(leaves).hex(), _reported_root(run, node, number, peer)
    if len(leaves) != len(reported) or root != then_root:
        what = f"{len(leaves)} rows give root {root}, not {then_root}, which was reported"
        raise StoreError(f"{where}: {what}; restore the folder from a copy")
    return rows


def _reported_root(run: StoredRun, node: str, number: int, peer: str) -> str:
    facts = run.facts(node, number).get(peer, {})
    submissions = submissions_of(facts, run.folder)
    return next((str(each.get("root")) for each in submissions if each.get("call") == "root"), "none")
