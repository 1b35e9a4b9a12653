"""Several rounds of the game in one round of the contract: what their steps submit, added up."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genrl_graph.nodes.coordinate.report import INT256_MAX
from genrl_graph.records import merkle
from genrl_graph.store.journal import Record
from genrl_graph.store.outbox import submissions_of

MOST_WINNERS = 32


@dataclass(frozen=True, slots=True)
class Report:
    """A submission by a node of a peer for a round of the contract."""

    round: int
    node: str
    holder: str
    submissions: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class _Window:
    """The submissions of the game rounds of one round of the contract so far, and the leaves of their rows."""

    round: int
    submissions: list[Mapping[str, Any]] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)


class ContractRounds:
    """Turns committed steps into reports: rounds `g * n` to `g * n + n - 1` of the game are round `g` of the contract.

    Rewards are added by stage. The winners are the peers that were named in most of these rounds, all of them where
    several were. The root is that of the rows of all these rounds, in order. A report is complete with the last of its
    rounds, or when a step of a later one is committed: a peer may skip rounds.
    """

    def __init__(self, game_rounds: int) -> None:
        self._game_rounds = game_rounds
        self._windows: dict[tuple[str, str], _Window] = {}

    def of_game(self, round: int) -> int:
        """Return the round of the contract in which a round of the game is."""
        return round // self._game_rounds

    def first_of(self, round: int) -> int:
        """Return the first round of the game in a round of the contract."""
        return round * self._game_rounds

    def take(self, record: Record, leaves: Iterable[str]) -> list[Report]:
        """Add a committed step, with the leaves of the rows that it reports, and return the reports that are complete.

        Steps come in the order of commit.
        """
        submissions, key, reports = submissions_of(record.facts, record.node), (record.node, record.holder), []
        if not submissions:
            return []
        if self._game_rounds == 1:
            return [Report(record.round, record.node, record.holder, submissions)]
        number = self.of_game(record.round)
        window = self._windows.get(key)
        if window is not None and window.round < number:
            reports.append(_report(window, key))
            window = None
        if window is None:
            window = self._windows[key] = _Window(number)
        window.submissions += submissions
        window.leaves += map(bytes.fromhex, leaves)
        if self.first_of(number + 1) - 1 == record.round:
            reports.append(_report(self._windows.pop(key), key))
        return [report for report in reports if report.submissions]

    @property
    def unfinished(self) -> int:
        """The number of reports of which rounds of the game are still to be played."""
        return len(self._windows)


def _report(window: _Window, key: tuple[str, str]) -> Report:
    rewards: dict[int, int] = {}
    votes: Counter[str] = Counter()
    made: list[Mapping[str, Any]] = []
    for each in window.submissions:
        match each:
            case {"call": "reward", "stage": int(stage), "reward": int(reward)}:
                rewards[stage] = rewards.get(stage, 0) + reward
            case {"call": "winners", "winners": [*names]}:
                votes.update(map(str, names))
    for stage, reward in sorted(rewards.items()):
        bounded = max(-INT256_MAX, min(reward, INT256_MAX))
        made.append({"call": "reward", "round": window.round, "stage": stage, "reward": bounded})
    if votes:
        most = max(votes.values())
        named = sorted(name for name, count in votes.items() if count == most)[:MOST_WINNERS]
        made.append({"call": "winners", "round": window.round, "winners": named})
    if any(each.get("call") == "root" for each in window.submissions):
        root, rows = merkle.root(window.leaves).hex(), len(window.leaves)
        made.append({"call": "root", "round": window.round, "root": root, "rows": rows})
    if any(each.get("call") == "advance" for each in window.submissions):
        made.append({"call": "advance", "round": window.round + 1})
    return Report(window.round, *key, made)
