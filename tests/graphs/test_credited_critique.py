"""credited_critique.yaml: every critique has answers of its own, and its stored credit is what those earned."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import load, play
from genrl_graph.store.run_store import RunStore

PEERS = ("peer0000", "peer0001")
ROUNDS = 2
EACH = ROUNDS * len(PEERS) * 6  # tasks


@pytest.fixture(scope="module")
def store(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> RunStore:
    """Two rounds of two peers."""
    run = play(
        load(graphs / "credited_critique.yaml"),
        out=tmp_path_factory.mktemp("credited") / "run",
        rounds=ROUNDS,
        peers=len(PEERS),
        quiet=True,
    )
    return RunStore.open(run.folder)


def rows(store: RunStore, group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.table(group).to_pylist()
    return found


def test_every_peer_answers_again_for_every_critique_of_all_peers(store: RunStore) -> None:
    answers = {row["id"] for row in rows(store, "answer")}
    critiques = {row["id"]: row for row in rows(store, "critique")}
    finals = rows(store, "final")
    assert len(critiques) == EACH * 32
    assert len(finals) == EACH * 32 * len(PEERS) * 2
    quoting: dict[str, list[str]] = {}
    for row in finals:
        (parent,) = row["parent_ids"]  # answers are not shown, so none is a parent
        assert parent not in answers
        assert critiques[parent]["task_id"] == row["task_id"]
        assert row["messages"][-1]["content"] == critiques[parent]["completion"] + ">"
        quoting.setdefault(parent, []).append(row["peer"])
    assert quoting.keys() == critiques.keys()
    assert {tuple(sorted(peers)) for peers in quoting.values()} == {(PEERS[0],) * 2 + (PEERS[1],) * 2}


def test_the_stored_credit_of_a_critique_is_what_the_answers_of_all_peers_earned(store: RunStore) -> None:
    parents = {row["id"]: row["parent_ids"][0] for row in rows(store, "final")}
    groups = {row["id"]: (row["group_id"], row["peer"]) for row in rows(store, "critique")}
    for peer in PEERS:
        earned: dict[str, list[Fraction]] = {}
        for row in rows(store, "score_final"):
            if row["holder"] == peer:
                earned.setdefault(parents[row["id"]], []).append(Fraction(row["reward"]))
        told = {row["id"]: row for row in rows(store, "credit_critique/backup") if row["holder"] == peer}
        assert len(told) == EACH * 32 // len(PEERS)
        values: dict[Any, list[float]] = {}
        for id, row in told.items():
            assert row["children"] == 4
            assert row["value"] == row["backed_up"] == float(sum(earned[id]) / 4)
            values.setdefault(groups[id], []).append(row["value"])
        for row in rows(store, "credit_critique"):
            if row["holder"] == peer:
                group = np.asarray(values[groups[row["id"]]])
                wanted = (told[row["id"]]["value"] - group.mean()) / (group.std(ddof=1) + 1e-4)
                assert row["advantage"] == pytest.approx(wanted, abs=1e-9)


def test_the_critic_trains_on_critiques_and_the_solver_on_first_answers_alone(store: RunStore) -> None:
    made = {node: {row["id"] for row in rows(store, node)} for node in ("answer", "critique")}
    for update, node in (("update_critic", "critique"), ("update_solver", "answer")):
        trained = {row["id"] for row in rows(store, f"{update}/trained")}
        assert trained
        assert trained <= made[node]
