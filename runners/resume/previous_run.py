"""Resume an interrupted run: check that it is the same game, load the newest checkpoint, recall committed steps."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.diff import compare
from genrl_graph.errors import GraphError, ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.records.facts import read_facts
from genrl_graph.records.recall import Recall, RecordedStep
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.runners.loop.failures import FailedRows, first_failure
from genrl_graph.runners.loop.peers import Peer, changing_carries
from genrl_graph.runners.loop.runner import BEHIND, RunProgress, exchanges
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, damage, load_checkpoint, newest_checkpoint
from genrl_graph.runners.resume.data_digests import changed_data
from genrl_graph.runners.resume.metric_lines import Line, Peers, keyed_lines, played_rounds
from genrl_graph.store.run_folder import GRAPH, write_graph
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.strict_json import is_count

MAY_DIFFER = frozenset(
    {
        "rounds",
        "replicas",
        "checkpoint_every",
        "trackers",
        "keep",
        "coordinator",
        "max_failed_share",
        "max_failed_rows",
        "max_retries",
        "retry_wait_s",
    }
)
"""Run options that may change on resume: they do not affect what the rounds compute."""

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
"""Entries among the versions of a run folder that are not package versions."""

OPTIONAL = frozenset({"python", "commit"})
"""Entries that older run folders and wheels lack: compared only where both sides have them."""

OTHER_START = "starts as {}, but as {} when the run began; was its model or its file changed?"


@dataclass(slots=True)
class Spent:
    """Failed rows and retries before a checkpoint, those of evaluations apart, and why the first row failed."""

    failed_rows: int = 0
    retries: int = 0
    evaluation_retries: int = 0
    first_failure: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """The state that a session starts from: round 0 of a new run, or the newest checkpoint of a previous run.

    `recall` returns what the previous run committed of a round, node and peer; `reported` are the lines that
    metrics.jsonl already has; `skipped` maps each round that was left for a later one, because the swarm was there, to
    that one. `spent` is what the rounds before `first` spent of the limits. `played` yields the metrics of these rounds
    by peer; `measured` are those of the rounds from `first` on that are recalled, by round.
    """

    first: int = 0
    recall: Callable[[int, str, str], RecordedStep | None] = lambda round, node, peer: None
    reported: frozenset[Line] = frozenset()
    skipped: Mapping[int, int] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    played: Iterable[Peers] = ()
    measured: Mapping[int, Peers] = field(default_factory=dict)


class PreviousRun:
    """A previous run in the folder, open for writing, before it is resumed from round `first`."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._run = _run_options(store)
        self.reported = frozenset(line for line, _ in keyed_lines(store.folder))
        self._damage: dict[int, str | None] = {}  # by round, of the checkpoints that were checked
        self.first = self._newest_undamaged(None)

    def refuse_another(self, graph: Graph, versions: Mapping[str, Any]) -> None:
        """Raise where `graph` is not the game of the previous run.

        Of its options only those in `MAY_DIFFER` may have changed. `versions` are the current ones, with the digests
        of scripts and data files. Raises `GraphError` for another game, `ParamError` where fewer rounds are asked for
        than were begun, `StoreError` for a replay.
        """
        if replayed := self.store.versions.get("replayed"):
            what = f"is a replay of {replayed['run']}, which has an end; replay it again, or resume that run"
            raise StoreError(f"{self.store.folder}: {what}")
        refuse_other_imports(self.store.folder, self.store.versions, versions.get("imports", {}))
        differences = self._differences(graph)
        differences += _changed("version of {}", self.store.versions.get("classes", {}), versions.get("classes", {}))
        differences += [
            f"{change}; bring it back, or start a new run" for change in changed_data(self.store.versions, versions)
        ]
        if differences:
            may = ", ".join(f"run.{name}" for name in sorted(MAY_DIFFER))
            raise GraphError("\n".join([f"{self.store.folder}: ran another game; only {may} may differ", *differences]))
        begun = max([self.first, *(step["round"] + 1 for step in self._steps_from(self.first) if _trains(step))])
        if graph.run.rounds < begun and graph.run.mode != "evaluate":
            what = f"run.rounds: {graph.run.rounds}, but round {begun} was begun in {self.store.folder}"
            raise ParamError(f"{what}; give at least {begun}")

    def warnings(self, versions: Mapping[str, Any]) -> list[str]:
        """Return a line for each damaged checkpoint, and for each package whose version has changed."""
        damaged = [f"{what}; that checkpoint is passed over" for what in self._damage.values() if what is not None]
        return damaged + [
            f"{name} was {then or 'not installed'}, is {_now(versions, name) or 'not installed'}: bits may differ"
            for name, then in self._changed_versions(versions).items()
        ]

    def progress(self, schedule: Schedule, rounds: int, peers: Sequence[str], *, evaluated: bool) -> RunProgress:
        """Return how many exchanges the run closed, and whether it is complete."""
        order = list(exchanges(schedule))
        steps = self.store.steps().to_pylist()
        places = [step["round"] * len(order) + order.index(step["node"]) for step in steps if step["node"] in order]
        return RunProgress(max(places, default=-1) + 1, self.is_complete(rounds, peers, evaluated=evaluated))

    def choose_checkpoint(self, latest: int | None) -> None:
        """Resume from the newest undamaged checkpoint after at most `latest` rounds (None: any)."""
        self.first = self._newest_undamaged(latest)

    def is_complete(self, rounds: int, peers: Sequence[str], *, evaluated: bool) -> bool:
        """Return whether the last round has its checkpoint, its metrics and, if `evaluated`, its evaluation."""
        last = {("eval", rounds, peer) for peer in peers if evaluated}
        last |= {("round", rounds - 1, peer) for peer in peers if rounds}
        return self.first >= rounds and last <= self.reported

    def digests(self, schedule: Schedule, peers: Sequence[str], *, rounds: int) -> dict[tuple[str, str], str]:
        """Return the recorded digests of the carries after `rounds` rounds, by peer and carry.

        A carry without a record, such as one that a skipped round did not update, is missing.
        """
        initial = self.store.versions.get("carries", {})
        digests = {(peer, name): digest for peer in peers for name, digest in initial.items()}
        if rounds:
            trained = {name for name, part in schedule.graph.carries.items() if part.next is not None}
            digests = {key: digest for key, digest in digests.items() if key[1] not in trained}
            for step in self.store.steps(range(rounds - 1, rounds)).to_pylist():
                recorded = read_facts(step["facts"], self.store.folder).get("digests", {})
                for name, part in schedule.graph.carries.items():
                    if part.next in recorded and _trains(step):
                        digests[step["holder"], name] = recorded[part.next]
        return digests

    def read_through(self, schedule: Schedule, peers: Sequence[str]) -> None:
        """Read what a resume reads of the steps; raises as `restore` would."""
        for rounds in range(self.first + 1):
            self.digests(schedule, peers, rounds=rounds)
        self._skipped_rounds()
        self._spent()

    def restore(self, schedule: Schedule, players: Sequence[Peer]) -> Start:
        """Load the carries from the chosen checkpoint and verify them against the recorded digests.

        Returns the state that the session starts from. Raises `StoreError` where a digest differs.
        """
        peers, carries = [player.name for player in players], changing_carries(schedule, players)
        frozen = [name for name, part in schedule.graph.carries.items() if part.next is None or not self.first]
        self._verify(players, frozen, self.digests(schedule, peers, rounds=0), OTHER_START)
        if self.first:
            folder = checkpoint_folder(self.store.checkpoints, self.first)
            load_checkpoint(folder, carries)
            known = self.digests(schedule, peers, rounds=self.first)
            damaged = f"is {{}} in {folder}, but was {{}} then; remove that folder to go on from an earlier one"
            self._verify(players, list(schedule.graph.carries), known, damaged)
        last = max([self.first - 1, *(step["round"] for step in self._steps_from(self.first))])
        return Start(
            first=self.first,
            recall=Recall(self.store, last=last),
            reported=self.reported,
            skipped=self._skipped_rounds(),
            spent=self._spent(),
            played=(peers for number, peers in played_rounds(self.store.folder) if number < self.first),
            measured={number: peers for number, peers in played_rounds(self.store.folder) if number >= self.first},
        )

    def _skipped_rounds(self) -> dict[int, int]:
        skipped = {}
        for step in self._steps_from(0):
            if step["node"] == BEHIND:
                later, after = read_facts(step["facts"], self.store.folder).get("to"), step["round"] + 1
                skipped[step["round"]] = max(later, after) if is_count(later) else after  # never back to this round
        return skipped

    def record_resume(self, graph: Graph, versions: Mapping[str, Any]) -> None:
        """Add the options and versions that changed since the run was last started to graph.yaml."""
        run, old = graph.run.model_dump(mode="json"), self._run.model_dump(mode="json")
        changed: dict[str, Any] = {name: [old[name], value] for name, value in run.items() if value != old[name]}
        packages = {name: _now(versions, name) for name in self._changed_versions(versions)}
        if not changed and not packages:
            return
        record = {"round": self.first, "run": changed, "versions": packages}
        resumed = [*self.store.versions.get("resumed", []), record]
        write_graph(self.store.folder, graph.record(), {**self.store.versions, "resumed": resumed})

    def _newest_undamaged(self, latest: int | None) -> int:
        """Return the number of rounds before the newest undamaged checkpoint; 0 where there is none."""
        first = newest_checkpoint(self.store.checkpoints, at_most=latest)
        while first and self._damaged(first):
            first = newest_checkpoint(self.store.checkpoints, at_most=first - 1)
        return first

    def _damaged(self, rounds: int) -> str | None:
        if rounds not in self._damage:
            self._damage[rounds] = damage(checkpoint_folder(self.store.checkpoints, rounds))
        return self._damage[rounds]

    def _differences(self, graph: Graph) -> list[str]:
        """Return a line for each difference from the graph that ran, without the options in `MAY_DIFFER`."""
        free = {name: getattr(graph.run, name) for name in MAY_DIFFER & set(RunConfig.model_fields)}
        run = self._run.model_copy(update=free)
        if _content(self.store.graph_yaml) == _content(graph.record()) and run == graph.run:
            return []
        document = parse_document(self.store.graph_yaml, file=str(self.store.folder / GRAPH))
        ran = read_document(document, folder=self.store.folder).graph
        ran.run = run
        return compare(ran, graph).lines()

    def _changed_versions(self, versions: Mapping[str, Any]) -> dict[str, Any]:
        """Return the packages and compute settings that changed since the run was last started, with the old values."""
        then = {name: version for name, version in self.store.versions.items() if name not in NOT_PACKAGES}
        now = {name: version for name, version in versions.items() if name not in NOT_PACKAGES}
        if "computing" in self.store.versions:
            then, now = then | self.store.versions["computing"], now | versions.get("computing", {})
        for record in self.store.versions.get("resumed", []):
            then |= record.get("versions", {})
        names = (then.keys() | now.keys()) - (OPTIONAL - (then.keys() & now.keys()))
        return {name: then.get(name) for name in sorted(names) if then.get(name) != now.get(name)}

    def _verify(
        self, players: Sequence[Peer], names: Sequence[str], known: Mapping[tuple[str, str], str], what: str
    ) -> None:
        """Raise `StoreError` where a carry in `names` has another digest than the known one."""
        for player in players:
            for name in names:
                digest, then = player.carries[name].digest(), known.get((player.name, name))
                if then not in (None, digest):
                    raise StoreError(f"{self.store.folder}: carry.{name} ({player.name}) {what.format(digest, then)}")

    def _steps_from(self, round: int) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = self.store.steps(range(round, sys.maxsize)).to_pylist()
        return steps

    def _spent(self) -> Spent:
        """Return what the rounds before the checkpoint spent of the limits.

        Failed rows of evaluations have no limit. The evaluation before round 0 is left out: a resumed run recalls it.
        """
        spent = Spent()
        for step in self.store.steps(range(self.first)).to_pylist() if self.first else ():
            if '"failed_rows"' not in step["facts"] and '"retried"' not in step["facts"]:
                continue
            recorded = RecordedStep(read_facts(step["facts"], self.store.folder), {})
            if not _trains(step):
                spent.evaluation_retries += recorded.retries if step["round"] else 0
                continue
            spent.failed_rows += int(recorded.metrics.get("failed_rows", 0))
            spent.retries += recorded.retries
            if (failed := FailedRows.recorded(recorded.facts)).count and not spent.first_failure:
                spent.first_failure = first_failure(step["node"], step["round"], failed.reason)
        return spent


def refuse_other_imports(folder: Path, versions: Mapping[str, Any], imports: Mapping[str, str]) -> None:
    """Raise `GraphError` where a script or module that the run was given with --import is missing or has changed."""
    for name, digest in versions.get("imports", {}).items():
        if name in imports and imports[name] != digest:
            what = f"has changed since the run began ({digest[:12]} then, {imports[name][:12]} now)"
            raise GraphError(f"{folder}: --import {name}: {what}; bring it back, or start a new run")
        if digest not in imports.values():
            raise GraphError(f"{folder}: was given --import {name}; give it again")


def _trains(step: Mapping[str, Any]) -> bool:
    return not step["node"].startswith(EVAL_PREFIX)


def _run_options(store: RunStore) -> RunConfig:
    """Return the options of a run; raises `StoreError` where its graph.yaml has others than a run writes."""
    path = store.folder / GRAPH
    try:
        return RunConfig.model_validate(parse_document(store.graph_yaml, file=str(path)).values.get("run") or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, ("run", *first["loc"])))
        raise StoreError(f"{path}: {at}: {first['msg']}; restore the file as the run wrote it") from error


def _content(graph_yaml: str) -> str:
    """Return a graph file as JSON in the order of the file, without its run options."""
    values = parse_document(graph_yaml, file=GRAPH).values
    return json.dumps({name: value for name, value in values.items() if name != "run"})


def _changed(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(then.keys() | now.keys()):
        if then.get(name, 1) != now.get(name, 1):
            yield f"{what.format(name)}: {then.get(name, 1)} then, {now.get(name, 1)} now"


def _now(versions: Mapping[str, Any], name: str) -> Any:
    return versions.get(name, versions.get("computing", {}).get(name))
