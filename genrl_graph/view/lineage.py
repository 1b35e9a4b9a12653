"""The lineage of one rollout for the page: what it quotes, what quotes it, and the updates that trained on it.

Rows stand near each other: what a prompt quotes is of the same round or, from late peers, of one shortly before. So
only rounds near that of the rollout are read; a request for all of them reads them span by span.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.inspection.judged import RolloutText
from genrl_graph.inspection.lineage import training
from genrl_graph.view.rollouts import JudgedText, RoundTexts, as_values

NEAR = 8
"""Rounds before and after that of the rollout which are searched."""
MOST_DEPTH, MOST_RELATIVES = 6, 100


def lineage(
    rounds: RoundTexts, *, id: str, node: str, round: int, latest: int, everywhere: bool = False
) -> dict[str, Any]:
    """Return a rollout with its ancestors, the rollouts that quote it, and the updates that trained on it.

    `latest` is the last round of the run. Updates of all rounds are searched with `everywhere`, else those that are
    near.
    """
    match = rounds.texts(node, round).get(rounds.groups[node].trajectory_id(id))
    if match is None:
        return {"rollout": None}
    later = range(round, min(latest, round + NEAR) + 1)
    rows = [row["id"] for row in match[0].rows]
    trained = training(rounds.run, rows, rounds=None if everywhere else later)
    return {
        "rollout": as_values(*match, node),
        "ancestors": list(_ancestors(rounds, match[0], round)),
        "quoted_by": list(islice(_children(rounds, {id, *rows}, later), MOST_RELATIVES)),
        "trained": list(islice(trained, MOST_RELATIVES)),
    }


def _ancestors(rounds: RoundTexts, rollout: RolloutText, round: int) -> Iterator[dict[str, Any]]:
    """Yield each ancestor once, with its depth; one that is not found is an entry without text."""
    seen: set[str] = {rollout.name}
    level = list(rollout.rows[0].get("parent_ids") or ())
    for depth in range(1, MOST_DEPTH + 1):
        above: list[str] = []
        for id in level:
            if id in seen or len(seen) > MOST_RELATIVES:
                continue
            seen.add(id)
            found = _nearest(rounds, id, round)
            if found is None:
                yield {"id": id, "depth": depth, "missing": True}
                continue
            match, node = found
            yield {**as_values(*match, node), "depth": depth}
            above += match[0].rows[0].get("parent_ids") or ()
        level = above


def _nearest(rounds: RoundTexts, id: str, round: int) -> tuple[JudgedText, str] | None:
    """Return the rollout of this id in the nearest round up to `round`, with the node that has it."""
    for at in range(round, max(-1, round - NEAR - 1), -1):
        for node, kind in rounds.groups.items():
            if rounds.table(node, at).num_rows and (match := rounds.texts(node, at).get(kind.trajectory_id(id))):
                return match, node
    return None


def _children(rounds: RoundTexts, ids: set[str], later: range) -> Iterator[dict[str, Any]]:
    """Yield the rollouts of some rounds whose prompt quotes one of the ids."""
    wanted = pa.array(sorted(ids), pa.string())
    for at in later:
        for node, kind in rounds.groups.items():
            if "parent_ids" not in kind.columns or (table := rounds.table(node, at)).num_rows == 0:
                continue
            parents = table.column("parent_ids").combine_chunks()
            hits = pc.list_parent_indices(parents).filter(pc.is_in(pc.list_flatten(parents), wanted))
            for id in dict.fromkeys(map(kind.trajectory_id, table.column("id").take(hits).to_pylist())):
                yield as_values(*rounds.texts(node, at)[id], node)
