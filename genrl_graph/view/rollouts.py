"""Rollouts of a run as the page shows them: the newest first, a few rounds at a time, as plain values."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.inspection.judged import RewardVerdict, RewardVerdicts, RolloutText, rollout_groups, rollout_texts
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.write import EVAL_PREFIX

MOST_ROUNDS, MOST_ROLLOUTS, MOST_READ = 24, 50, 2000
"""The most rounds and rows that one request looks through, and the most rollouts that it returns."""
MOST_CHARACTERS = 20_000
"""The length to which a message, a completion or an error is cut."""
MOST_PARTS = 400
MOST_IMAGE_BYTES = 1 << 18

JudgedText = tuple[RolloutText, RewardVerdict]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rollouts to show: of a node (`eval/answer` for evaluations), from the round `before` backwards."""

    node: str = ""
    before: int | None = None
    task: str = ""
    peer: str = ""
    least: float | None = None
    most: float | None = None
    failed: bool = False
    limit: int = 20

    def matches(self, rollout: RolloutText, verdict: RewardVerdict) -> bool:
        """Return whether a rollout passes all filters."""
        row, reward = rollout.rows[0], verdict.reward
        bounded = self.least is not None or self.most is not None
        return (
            self.task in row["task_id"]
            and self.peer in ("", row["peer"])
            and (not self.failed or has_failed(rollout, verdict))
            and not (bounded and (reward is None or reward != reward))
            and (self.least is None or (reward or 0.0) >= self.least)
            and (self.most is None or (reward or 0.0) <= self.most)
        )


class RoundTexts:
    """The rollouts of single rounds as text with their verdicts; each round is read once and kept."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.groups: Mapping[str, type[Frame]] = rollout_groups(run)
        self._tables: dict[tuple[str, int], pa.Table] = {}
        self._verdicts: dict[tuple[int, bool], RewardVerdicts] = {}
        self._texts: dict[tuple[str, int], dict[str, JudgedText]] = {}

    def table(self, node: str, round: int) -> pa.Table:
        """Return the stored rows of a node in a round; raises `ParamError` for a node without rollouts."""
        if node not in self.groups:
            known = ", ".join(self.groups) or "none"
            raise ParamError(f"{self.run.name}: no rollouts of {node[:80]!r}; nodes with rollouts: {known}")
        if (node, round) not in self._tables:
            self._tables[node, round] = self.run.table(node, round)
        return self._tables[node, round]

    def texts(self, node: str, round: int) -> Mapping[str, JudgedText]:
        """Return the rollouts or episodes of a node in a round by name."""
        if (node, round) not in self._texts:
            table = self.table(node, round)
            texts = rollout_texts(self.groups[node], table) if table.num_rows else ()
            verdicts = self._verdicts_of(round, node.startswith(EVAL_PREFIX)) if table.num_rows else None
            self._texts[node, round] = {
                text.name: (text, verdicts.combined(text.rows, text.rows[0]["holder"])) for text in texts if verdicts
            }
        return self._texts[node, round]

    def _verdicts_of(self, round: int, evaluation: bool) -> RewardVerdicts:
        if (round, evaluation) not in self._verdicts:
            self._verdicts[round, evaluation] = RewardVerdicts(self.run, round, evaluation=evaluation)
        return self._verdicts[round, evaluation]


def nodes_with_rollouts(run: StoredRun) -> list[str]:
    """List the groups that hold rollouts: generators first, in training before evaluations."""
    return _sorted(run, rollout_groups(run))


def _sorted(run: StoredRun, groups: Iterable[str]) -> list[str]:
    shown = (group for group in groups if group.rpartition("/")[2] != "refusals")
    return sorted(shown, key=lambda group: (group.startswith(EVAL_PREFIX), not _is_generator(run, group)))


def newest_rollouts(run: StoredRun, wanted: Wanted, *, latest: int) -> dict[str, Any]:
    """Return the newest rollouts that match, those of later rounds first, and the round to go on before (or None).

    `nodes` are those with rollouts; where none is wanted, the first one is. `latest` is the last round of the run.
    Raises `ParamError` for a node without rollouts.
    """
    rounds = RoundTexts(run)
    nodes = _sorted(run, rounds.groups)
    if not (wanted.node or nodes):
        return {"rollouts": [], "before": None, "from": 0, "to": 0, "nodes": [], "node": ""}
    wanted = wanted if wanted.node else replace(wanted, node=nodes[0])
    end = latest + 1 if wanted.before is None else min(wanted.before, latest + 1)
    found: list[dict[str, Any]] = []
    read, first = 0, end
    while first > 0 and end - first < MOST_ROUNDS and read < MOST_READ and len(found) < wanted.limit:
        first -= 1
        texts = rounds.texts(wanted.node, first)
        found += islice(_matching(texts.values(), wanted), MOST_ROLLOUTS - len(found))
        read += sum(len(rollout.rows) for rollout, _ in texts.values())
    span = {"before": first if first > 0 else None, "from": first, "to": end - 1}
    return {"rollouts": found, "nodes": nodes, "node": wanted.node, **span}


def as_values(rollout: RolloutText, verdict: RewardVerdict, node: str) -> dict[str, Any]:
    """Return a rollout as plain values: facts about it, and its text as a chat, a dialogue or boards."""
    row = rollout.rows[0]
    return {
        "id": rollout.name,
        "node": node,
        "round": row["round"],
        "peer": row["peer"],
        "holder": row["holder"],
        "task": row["task_id"],
        "policy": f"{row['policy']} version {row['policy_version']}",
        "facts": rollout.facts,
        "gist": rollout.gist[:200],
        "parents": list(row.get("parent_ids") or ())[:MOST_PARTS],
        "reward": _number(verdict.reward),
        "advantage": _number(verdict.advantage),
        "terms": {name: _number(value) for name, value in list(verdict.terms.items())[:32]},
        "reasons": {name: cut(why) for name, why in list(verdict.reasons.items())[:32]},
        "failed": has_failed(rollout, verdict),
        "error": cut(row["error"] or ""),
        "image": _data_url(rollout.image),
        **_text(rollout),
    }


def has_failed(rollout: RolloutText, verdict: RewardVerdict) -> bool:
    """Return whether sampling failed, or a node could not judge the rollout."""
    return any(row["finish_reason"] == "failed" for row in rollout.rows) or bool(verdict.reasons)


def cut(text: str) -> str:
    """Return a text of at most `MOST_CHARACTERS`, and how many are missing."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … (+{len(text) - MOST_CHARACTERS})"


def _matching(texts: Iterable[JudgedText], wanted: Wanted) -> Iterator[dict[str, Any]]:
    return (as_values(*each, wanted.node) for each in texts if wanted.matches(*each))


def _text(rollout: RolloutText) -> dict[str, Any]:
    """Return the form of a rollout's text and the text: boards, turns of seats, or messages."""
    rows = rollout.rows[:MOST_PARTS]
    if rollout.boards:
        moves = [
            {
                "board": list(board),
                "action": str(row["action"]),
                "seat": row["seat"],
                "reward": _number(row.get("reward")),
            }
            for board, row in zip(rollout.boards[:MOST_PARTS], rows, strict=False)
        ]
        return {"form": "boards", "moves": moves}
    if "heard" in rows[0]:
        return {"form": "dialogue", "turns": [_turn(row) for row in rows]}
    parts = [{"role": heading.strip("[]"), "text": cut(text)} for heading, text in rollout.parts[:MOST_PARTS]]
    return {"form": "chat", "parts": parts}


def _turn(row: Mapping[str, Any]) -> dict[str, Any]:
    heard = [
        {"role": message["role"], "text": cut(message["content"])} for message in (row["heard"] or ())[:MOST_PARTS]
    ]
    return {
        "seat": row["seat"],
        "heard": heard,
        "said": cut(row["completion"]),
        "action": cut(row["action"]),
        "reward": _number(row.get("reward")),
        "ending": row["ending"],
    }


def _data_url(image: bytes) -> str:
    """Return a PNG as a page embeds it; empty for none, or for one that is too large to send with the text."""
    if not 0 < len(image) <= MOST_IMAGE_BYTES:
        return ""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _number(value: float | None) -> float | None:
    return None if value is None or value - value != 0.0 else value


def _is_generator(run: StoredRun, group: str) -> bool:
    part = run.graph.nodes.get(group.removeprefix(EVAL_PREFIX).partition("/")[0])
    return part is not None and part.type_name.startswith("generate.")
