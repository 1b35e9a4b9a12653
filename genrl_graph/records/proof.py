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

    Raises `ParamError` for a rollout that no report has, `StoreError` where a row is not the one that was reported.
    """
    for node, part in run.graph.nodes.items():
        if part.type_name != "coordinate.report" or f"{node}/leaves" not in run.groups:
            continue
        leaves = run.table(f"{node}/leaves").to_pylist()
        own = next((row for row in leaves if row["rollout_id"] == rollout_id), None)
        if own is not None:
            number, peer = own["round"], own["holder"]
            reported = [row for row in leaves if (row["round"], row["holder"]) == (number, peer)]
            sources = [edge.ref for edge in part.edges()]
            return _proof(run, node, sources, number, peer, reported, rollout_id)
    raise ParamError(f"{run.folder}: no report with `audit` has a rollout {rollout_id!r}; `rollouts` lists ids")


def _proof(
    run: StoredRun,
    node: str,
    sources: Sequence[str],
    number: int,
    peer: str,
    reported: Sequence[Mapping[str, Any]],
    rollout_id: str,
) -> Proof:
    where = f"{run.folder}: nodes.{node} (round {number}, {peer})"
    rows: list[bytes] = []
    try:
        for source in sources:
            frame = run.frame(source, number, holder=peer)
            rows += merkle.canonical_rows(frame.where([author == peer for author in frame.values("peer")]))
    except StoreError as error:
        raise StoreError(f"{where}: rollout {rollout_id} cannot be proven: {error}") from error
    leaves = [merkle.leaf(row) for row in rows]
    for place, then in enumerate(reported):
        if place >= len(leaves) or leaves[place].hex() != then["leaf"]:
            what = f"row {place}, rollout {then['rollout_id']}, is not the one that was reported"
            raise StoreError(f"{where}: {what}; restore the folder from a copy")
    root = merkle.root(leaves)
    then_root = _reported_root(run, node, number, peer)
    if len(leaves) != len(reported) or root.hex() != then_root:
        what = f"{len(leaves)} rows give root {root.hex()}, not {then_root}, which was reported"
        raise StoreError(f"{where}: {what}; restore the folder from a copy")
    at = [row["rollout_id"] for row in reported].index(rollout_id)
    return Proof(rollout_id, peer, number, json.loads(rows[at]), at, len(rows), tuple(merkle.path(leaves, at)), root)


def _reported_root(run: StoredRun, node: str, number: int, peer: str) -> str:
    facts = run.facts(node, number).get(peer, {})
    submissions = submissions_of(facts, run.folder)
    return next((str(each.get("root")) for each in submissions if each.get("call") == "root"), "none")
