"""Where a run that was cut goes on: what is given is held against what ran, and the newest checkpoint is loaded."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.diff import compare
from genrl_graph.errors import GraphError, ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.records.recall import Recall, Recorded
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.runners.loop.peers import Peer, changing_carries
from genrl_graph.runners.loop.runner import BEHIND, RunProgress, exchanges
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, damage, load_checkpoint, newest_checkpoint
from genrl_graph.runners.resume.data_digests import changed_data
from genrl_graph.store.run_folder import GRAPH, write_graph
from genrl_graph.store.run_store import RunStore

MAY_DIFFER = frozenset(
    {"rounds", "checkpoint_every", "trackers", "keep", "max_failed_rows", "max_retries", "retry_wait_s"}
)
"""Run options that change neither what is played nor how: where a run ends, what it keeps, how patient it is."""

NOT_PACKAGES = frozenset(
    {
        "lock",
        "unlocked",
        "data",
        "fingerprint",
        "imports",
        "carries",
        "classes",
        "packages",
        "computing",
        "resumed",
        "replayed",
    }
)
"""Entries among the versions of a run folder that are the version of no package."""

NOTED_SINCE = frozenset({"python", "commit"})
"""Entries that older run folders lack, and wheels may lack: compared only where both sides have them."""

MOVED = "starts as {}, but as {} when the run began; was its model or its file changed?"

Line = tuple[str, int, str]
"""A line of metrics.jsonl: "round" or "eval", its number and its peer."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the rounds begin: at round 0 of a new run, or behind the newest checkpoint of one that goes on.

    `reported` are the lines that metrics.jsonl has; `left` says of rounds that were left because the swarm had gone
    on which one came next; rows that failed and steps tried again are those before `first`.
    """

    first: int = 0
    recall: Callable[[int, str, str], Recorded | None] = lambda round, node, peer: None
    reported: frozenset[Line] = frozenset()
    left: Mapping[int, int] = field(default_factory=dict)
    failed_rows: int = 0
    retries: int = 0


class PreviousRun:
    """A run that exists, open for writing, before it goes on."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._run = RunConfig.model_validate(yaml.safe_load(store.graph_yaml).get("run") or {})
        self.reported = frozenset(_lines(store.folder / "metrics.jsonl"))
        self._damage: dict[int, str | None] = {}  # of the checkpoints that were looked at
        self.first = self._newest_sound(None)

    def refuse_another(self, graph: Graph, versions: Mapping[str, Any]) -> None:
        """Raise where something else is asked for than what ran: `GraphError`, or `ParamError` for `rounds`.

        `graph` has the options that are asked for, of which only those in `MAY_DIFFER` may have changed; `versions`
        are those of now, with the digests of scripts and data files.
        """
        if replayed := self.store.versions.get("replayed"):
            what = f"is a replay of {replayed['run']}, which has an end; replay it again, or resume that run"
            raise StoreError(f"{self.store.folder}: {what}")
        refuse_other_imports(self.store.folder, self.store.versions, versions.get("imports", {}))
        told = self._differences(graph)
        told += _changed("version of {}", self.store.versions.get("classes", {}), versions.get("classes", {}))
        told += [
            f"{change}; bring it back, or start a new run" for change in changed_data(self.store.versions, versions)
        ]
        if told:
            may = ", ".join(f"run.{name}" for name in sorted(MAY_DIFFER))
            raise GraphError("\n".join([f"{self.store.folder}: ran another game; only {may} may differ", *told]))
        begun = max([self.first, *(step["round"] + 1 for step in self._steps_from(self.first) if _trains(step))])
        if graph.run.rounds < begun and graph.run.mode != "evaluate":
            what = f"run.rounds: {graph.run.rounds}, but round {begun} was begun in {self.store.folder}"
            raise ParamError(f"{what}; give at least {begun}")

    def warnings(self, versions: Mapping[str, Any]) -> list[str]:
        """One line for each checkpoint that is damaged, and for each package that is now another."""
        damaged = [f"{what}; that checkpoint is passed over" for what in self._damage.values() if what is not None]
        return damaged + [
            f"{name} was {then or 'not installed'}, is {_now(versions, name) or 'not installed'}: bits may differ"
            for name, then in self._others(versions).items()
        ]

    def kept(self, schedule: Schedule, rounds: int, peers: Sequence[str], *, evaluated: bool) -> RunProgress:
        """How many exchanges of the run were closed, and whether nothing is left to do."""
        order = list(exchanges(schedule))
        steps = self.store.steps().to_pylist()
        places = [step["round"] * len(order) + order.index(step["node"]) for step in steps if step["node"] in order]
        return RunProgress(max(places, default=-1) + 1, self.is_complete(rounds, peers, evaluated=evaluated))

    def go_on_from(self, latest: int | None) -> None:
        """Take the newest undamaged checkpoint that was made after at most `latest` rounds."""
        self.first = self._newest_sound(latest)

    def is_complete(self, rounds: int, peers: Sequence[str], *, evaluated: bool) -> bool:
        """Whether nothing of the run is left to do."""
        wanted = {("eval", rounds, peer) for peer in peers if evaluated}
        wanted |= {("round", rounds - 1, peer) for peer in peers if rounds}
        return self.first >= rounds and wanted <= self.reported

    def digests(self, schedule: Schedule, peers: Sequence[str], *, rounds: int) -> dict[tuple[str, str], str]:
        """What all carries were after so many rounds, by peer and name, as far as it is recorded."""
        begun = self.store.versions.get("carries", {})
        found = {(peer, name): digest for peer in peers for name, digest in begun.items()}
        if rounds:
            trained = {name for name, part in schedule.graph.carries.items() if part.next is not None}
            found = {key: digest for key, digest in found.items() if key[1] not in trained}  # of a left round: unknown
            for step in self.store.steps(range(rounds - 1, rounds)).to_pylist():
                given = json.loads(step["facts"]).get("digests", {})
                for name, part in schedule.graph.carries.items():
                    if part.next in given and _trains(step):
                        found[step["holder"], name] = given[part.next]
        return found

    def restore(self, schedule: Schedule, players: Sequence[Peer]) -> Start:
        """Let the carries become what the newest checkpoint holds, and verify all that is known of them.

        Raises `StoreError` where a carry is not what it was.
        """
        peers, carries = [player.name for player in players], changing_carries(schedule, players)
        frozen = [name for name, part in schedule.graph.carries.items() if part.next is None or not self.first]
        self._verify(players, frozen, self.digests(schedule, peers, rounds=0), MOVED)
        if self.first:
            folder = checkpoint_folder(self.store.checkpoints, self.first)
            load_checkpoint(folder, carries)
            known = self.digests(schedule, peers, rounds=self.first)
            damaged = f"is {{}} in {folder}, but was {{}} then; remove that folder to go on from an earlier one"
            self._verify(players, list(schedule.graph.carries), known, damaged)
        last = max([self.first - 1, *(step["round"] for step in self._steps_from(self.first))])
        return Start(self.first, Recall(self.store, last=last), self.reported, self._left(), *self._spent())

    def _left(self) -> dict[int, int]:
        steps = (step for step in self._steps_from(self.first) if step["node"] == BEHIND)
        return {step["round"]: json.loads(step["facts"])["to"] for step in steps}

    def note(self, graph: Graph, versions: Mapping[str, Any]) -> None:
        """Write the options and versions with which the run goes on to graph.yaml, where they are others."""
        run, old = graph.run.model_dump(mode="json"), self._run.model_dump(mode="json")
        changed: dict[str, Any] = {name: [old[name], value] for name, value in run.items() if value != old[name]}
        packages = {name: _now(versions, name) for name in self._others(versions)}
        if not changed and not packages:
            return
        noted = {"round": self.first, "run": changed, "versions": packages}
        resumed = [*self.store.versions.get("resumed", []), noted]
        write_graph(self.store.folder, graph.record(), {**self.store.versions, "resumed": resumed})

    def _newest_sound(self, latest: int | None) -> int:
        """After how many rounds the newest checkpoint was made that is as it was written, 0 where there is none."""
        first = newest_checkpoint(self.store.checkpoints, at_most=latest)
        while first and self._damaged(first):
            first = newest_checkpoint(self.store.checkpoints, at_most=first - 1)
        return first

    def _damaged(self, rounds: int) -> str | None:
        if rounds not in self._damage:
            self._damage[rounds] = damage(checkpoint_folder(self.store.checkpoints, rounds))
        return self._damage[rounds]

    def _differences(self, graph: Graph) -> list[str]:
        """What differs from the graph that ran, in words, but for the options that may."""
        free = {name: getattr(graph.run, name) for name in MAY_DIFFER & set(RunConfig.model_fields)}
        run = self._run.model_copy(update=free)
        if _content(self.store.graph_yaml) == _content(graph.record()) and run == graph.run:
            return []
        document = parse_document(self.store.graph_yaml, file=str(self.store.folder / GRAPH))
        ran = read_document(document, folder=self.store.folder).graph
        ran.run = run
        return compare(ran, graph).lines()

    def _others(self, versions: Mapping[str, Any]) -> dict[str, Any]:
        """The packages, and ways to compute, that are others than when the run was last begun, with those of then."""
        then = {name: version for name, version in self.store.versions.items() if name not in NOT_PACKAGES}
        now = {name: version for name, version in versions.items() if name not in NOT_PACKAGES}
        if "computing" in self.store.versions:
            then, now = then | self.store.versions["computing"], now | versions.get("computing", {})
        for noted in self.store.versions.get("resumed", []):
            then |= noted.get("versions", {})
        names = (then.keys() | now.keys()) - (NOTED_SINCE - (then.keys() & now.keys()))
        return {name: then.get(name) for name in sorted(names) if then.get(name) != now.get(name)}

    def _verify(
        self, players: Sequence[Peer], names: Sequence[str], known: Mapping[tuple[str, str], str], what: str
    ) -> None:
        for player in players:
            for name in names:
                digest, then = player.carries[name].digest(), known.get((player.name, name))
                if then not in (None, digest):
                    raise StoreError(f"{self.store.folder}: carry.{name} ({player.name}) {what.format(digest, then)}")

    def _steps_from(self, round: int) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = self.store.steps(range(round, sys.maxsize)).to_pylist()
        return steps

    def _spent(self) -> tuple[int, int]:
        """Rows that failed, and steps tried again, before the checkpoint; the baseline is recalled, so not counted."""
        failed_rows = retries = 0
        for step in self.store.steps(range(self.first)).to_pylist() if self.first else ():
            if '"failed_rows"' in step["facts"] or '"retried"' in step["facts"]:
                recorded = Recorded(json.loads(step["facts"]), {})
                if _trains(step) or step["round"]:
                    failed_rows += int(recorded.metrics.get("failed_rows", 0))
                    retries += recorded.retries
        return failed_rows, retries


def refuse_other_imports(folder: Path, versions: Mapping[str, Any], imports: Mapping[str, str]) -> None:
    """Raise `GraphError` where a run was given a script or module with --import that is missing or another one now."""
    for name, digest in versions.get("imports", {}).items():
        if name in imports and imports[name] != digest:
            what = f"has changed since the run began ({digest[:12]} then, {imports[name][:12]} now)"
            raise GraphError(f"{folder}: --import {name}: {what}; bring it back, or start a new run")
        if digest not in imports.values():
            raise GraphError(f"{folder}: was given --import {name}; give it again")


def _trains(step: Mapping[str, Any]) -> bool:
    return not step["node"].startswith(EVAL_PREFIX)


def _lines(path: Path) -> Iterator[Line]:
    """The whole lines of metrics.jsonl."""
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            values = json.loads(line)
            yield "eval" if f"{EVAL_PREFIX}time" in values else "round", values["round"], values["peer"]


def _content(graph_yaml: str) -> str:
    """A graph as its file has it, in its order, without its run options."""
    return json.dumps({name: value for name, value in yaml.safe_load(graph_yaml).items() if name != "run"})


def _changed(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(then.keys() | now.keys()):
        if then.get(name, 1) != now.get(name, 1):
            yield f"{what.format(name)}: {then.get(name, 1)} then, {now.get(name, 1)} now"


def _now(versions: Mapping[str, Any], name: str) -> Any:
    return versions.get(name, versions.get("computing", {}).get(name))
