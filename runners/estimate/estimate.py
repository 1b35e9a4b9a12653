"""Estimates a run before it plays: rehearses a few rounds, and multiplies by what was measured on this machine."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from genrl_graph.contract.node import Exchange, Fork, Generator, Node, PolicyCarry, Reward, Source, Update
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.errors import ParamError, named
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.loading.stub import CHAT, stub_policy
from genrl_graph.nodes.reward.judge import Judge
from genrl_graph.runners.estimate.assumptions import assumptions
from genrl_graph.runners.estimate.calibrate import Calibration
from genrl_graph.runners.estimate.costs import Memory, Model, Range, Work, peak_memory, work_seconds
from genrl_graph.runners.estimate.forecast import Forecast, StepCost, compared, compared_text, forecast_text
from genrl_graph.runners.estimate.models import PolicySize, UnknownSize, size_policy
from genrl_graph.runners.estimate.observed import Observed, read_observed
from genrl_graph.runners.estimate.rehearse import Rehearsal, RehearsedStep
from genrl_graph.runners.estimate.stand_ins import Assumptions, CountingPolicy
from genrl_graph.runners.estimate.tryout import is_small, tried_forecast, try_out
from genrl_graph.runners.loop.peers import peer_names, require_enough
from genrl_graph.runners.loop.threads import set_threads

REHEARSED_ROUNDS = 3
SHORT, LONG = Assumptions(share=0.45, prior=0.15), Assumptions(share=1.0, prior=0.5)
"""The ends of what is assumed: completions fill this share of max_new_tokens; tasks pass with a chance from
Beta(a, a), so that 29 % to 61 % of the groups of eight pass-or-fail rewards vary."""
PACES: Mapping[str, Range] = {"generate": Range(0.7, 1.9), "update": Range(0.75, 1.3)}
OTHER_PACE, KNOWN_PACE = Range(0.7, 1.9), Range(0.65, 1.6)
"""How much faster or slower than measured a step may be, without and with a stored run to go by."""
ROOM, KNOWN_ROOM = Range(0.9, 1.15), Range(0.85, 1.25)
"""How much less or more memory than the arithmetic says a process may hold: fragments, temporary values."""
WORKER_S, IMPORT_S, ROW_S = 3.0, 1.0, 0.002
"""The most that starting the workers of a step takes, loading the code that it needs, and each of its rows."""
LIBRARIES_S = Range(3.0, 25.0)


@dataclass(frozen=True, slots=True)
class Costs:
    """One rehearsal in numbers: what the steps of a round did, by step, and the seconds and bytes that this takes."""

    rows: Mapping[str, float]
    prompts: Mapping[str, float]
    sampled: Mapping[str, float]
    seconds: Mapping[str, float]
    memory: Memory


def estimate(
    graph: Graph,
    *,
    completion_tokens: float | None = None,
    observed: Observed | None = None,
    recalibrate: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Forecast:
    """The costs of playing a graph in this process, as ranges; nothing is loaded, and nothing played but small games.

    Where all policies are small, as in games in steps, a few rounds are tried out and timed. Else
    completions are `completion_tokens` long, or as long as in a stored run, or 45 % to 100 % of max_new_tokens.
    Speeds are measured on this machine with layers of the models and kept; `recalibrate` measures them anew. A run of
    the same kind corrects them. Raises `GraphError`, and what sources and templates raise.
    """
    if completion_tokens is not None and completion_tokens < 1:
        raise ParamError(f"completion_tokens: {completion_tokens:g}; wants at least 1")
    schedule = compile_graph(graph)
    if is_small(schedule):
        if completion_tokens is not None:
            raise ParamError(f"completion_tokens: {graph.name!r} samples no tokens; leave it out")
        set_threads(graph.run.threads)
        require_enough(schedule, peer_names(graph.run.peers))
        tell(f"trying out rounds of {graph.name} (a few seconds)")
        tried = try_out(_rehearsable(schedule, known=True))
        return tried_forecast(schedule, tried, fact=None if observed is None else observed.fact)
    return _Estimator(graph, calibration=Calibration(afresh=recalibrate, tell=tell)).forecast(
        completion_tokens, observed
    )


def report(
    graph: Graph,
    *,
    run: Path | None = None,
    compare: Path | None = None,
    completion_tokens: float | None = None,
    recalibrate: bool = False,
    as_json: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> str:
    """The estimate of a graph as text or JSON, with what a stored run took beside it where `compare` names one."""
    observed = None if run is None else read_observed(run)
    fact = None if compare is None else read_observed(compare).fact
    forecast = estimate(
        graph, completion_tokens=completion_tokens, observed=observed, recalibrate=recalibrate, tell=tell
    )
    pairs = [] if fact is None else compared(forecast, fact)
    if as_json:
        told = {"compared": [asdict(pair) | {"inside": pair.inside} for pair in pairs]} if pairs else {}
        return json.dumps(forecast.as_json() | told, indent=1) + "\n"
    return forecast_text(forecast) + ("" if fact is None else "\n" + compared_text(pairs, fact))


class _Estimator:
    def __init__(self, graph: Graph, *, calibration: Calibration) -> None:
        set_threads(graph.run.threads)
        self.graph, self.calibration = graph, calibration
        self.schedule = compile_graph(graph)
        self.names = peer_names(graph.run.peers)
        require_enough(self.schedule, self.names)
        self.sized, self.unknown = _sizes(graph)
        self.machine = calibration.machine()
        self.devices = sorted({str(sized.device) for sized in self.sized.values()} - {"cpu"})
        if self.devices:  # what counts there is the memory of the device
            self.machine = replace(self.machine, base=0.0)
        self.speeds = {name: calibration.speeds(sized, name=f"carry.{name}") for name, sized in self.sized.items()}
        self.updated = {name for name, part in graph.carries.items() if part.next is not None}
        self.rehearsed = _rehearsable(self.schedule, known=not self.unknown)
        for name, node in self.rehearsed.nodes.items():
            if isinstance(node, Source):
                with named(f"nodes.{name}"):
                    node.prepare()

    @property
    def models(self) -> dict[str, Model]:
        return {name: sized.model for name, sized in self.sized.items()}

    def costs(self, assumed: Assumptions) -> Costs:
        count = min(self.graph.run.rounds, REHEARSED_ROUNDS)
        rehearsal = Rehearsal(
            self.rehearsed, self.names, seed=self.graph.run.seed, assumed=assumed, make=self._counting
        )
        done = list(rehearsal.rounds(count))
        works = [work for step in done for work in step.works]
        held, updated = self._held()
        memory = peak_memory(held, works, self.speeds, self.machine, updated=updated, peers=len(self.names))
        return Costs(
            _mean(done, count, lambda step: step.rows),
            _mean(done, count, lambda step: step.prompt_tokens),
            _mean(done, count, lambda step: step.completion_tokens),
            _mean(done, count, lambda step: sum(self._seconds(work) for work in step.works)),
            memory,
        )

    def _held(self) -> tuple[dict[str, Model], set[str]]:
        """The models that a peer holds, forks among them, and which of them have an optimiser."""
        held, updated = dict(self.models), set(self.updated)
        for name, node in self.schedule.nodes.items():
            if isinstance(node, Fork):
                edges = list(self.graph.nodes[name].edges())
                for policy, model in self.models.items():
                    if any(self._stems(edge.ref, policy) for edge in edges):
                        held[name] = model
                trained = any(isinstance(self.schedule.nodes[e.reader], Update) for e in self.graph.readers(name))
                updated |= {name} if trained else set()
        return held, updated

    def _seconds(self, work: Work) -> float:
        if work.policy not in self.sized:
            return 0.0
        return work_seconds(work, self.models[work.policy], self.speeds[work.policy], self.machine)

    def _counting(self, name: str) -> Carried:
        part = self.graph.carries[name]
        if isinstance(part.carry, PolicyCarry) and part.carry.small:
            return part.carry.init(name, seed=self.graph.run.seed)
        if not isinstance(part.carry, PolicyCarry):
            return part.carry.dry(name, seed=self.graph.run.seed)
        sized = self.sized.get(name)
        if sized is not None:
            return CountingPolicy(name, sized.tokens, context=sized.context, shares=sized.shares)
        stub = stub_policy(name, seed=0)
        tokens = ChatTokens(stub.hf_tokenizer, chat_template=CHAT, where="estimate")
        return CountingPolicy(name, tokens, context=stub.context)

    def forecast(self, completion_tokens: float | None, observed: Observed | None) -> Forecast:
        lengths = {} if observed is None or completion_tokens is not None else observed.lengths
        varied = None if observed is None else observed.varied
        low, high = (replace(a, tokens=completion_tokens, observed=lengths, varied=varied) for a in (SHORT, LONG))
        few, many = self.costs(low), self.costs(high)
        paces, room = PACES, ROOM
        if observed is not None:
            paces, room = self._corrected(observed, few, many)
        steps = tuple(self._step(str(step), step.node, few, many, paces) for step in self.schedule.steps)
        open_memory = bool(self.unknown)
        full = (
            many.memory if observed else self.costs(replace(high, varied=1.0)).memory
        )  # once all may have an advantage
        memory = Range.over(few.memory.bytes * room.low, full.bytes * room.high).narrowed()
        return Forecast(
            graph=self.graph.name,
            rounds=self.graph.run.rounds,
            peers=len(self.names),
            steps=steps,
            start_seconds=None if open_memory else self._start(),
            end_seconds=None if open_memory else self._end(),
            memory=None if open_memory else memory,
            memory_parts=full.parts,
            device=", ".join(self.devices) or "cpu",
            assumptions=tuple(assumptions(self.schedule, self.rehearsed, ends=(low, high), observed=observed)),
        )

    def _step(self, step: str, name: str, few: Costs, many: Costs, paces: Mapping[str, Range]) -> StepCost:
        node, part = self.schedule.nodes[name], self.graph.nodes[name]
        opened = self._open(node, name)
        first = self._first(node, name, step, many)
        works = Range.over(few.seconds[step], many.seconds[step])
        rows = Range.over(few.rows[step], many.rows[step])
        if works.high > 0:
            once = first / self.graph.run.rounds
            paced = works.between(paces.get(node.kind, OTHER_PACE))
            seconds = Range(paced.low, paced.high + once).narrowed()
        else:
            seconds = Range(0.0, rows.high * ROW_S + first / self.graph.run.rounds)
        talks = isinstance(node, Generator) or many.sampled[step] > 0
        prompts = Range.over(few.prompts[step], many.prompts[step]) if talks else Range(0, 0)
        return StepCost(
            step=step,
            node=name,
            type_name=part.type_name,
            rows=rows,
            prompt_tokens=None if opened and talks else prompts,
            completion_tokens=Range.over(few.sampled[step], many.sampled[step]) if talks else Range(0, 0),
            seconds=None if opened else seconds,
            first_seconds=0.0 if opened else first,
            open=opened,
        )

    def _open(self, node: Node, name: str) -> str:
        """Why the costs of a step cannot be known, or ""."""
        carried = [edge.ref for edge in self.graph.nodes[name].edges()]
        for policy, reason in self.unknown.items():
            if isinstance(node, Generator | Update | Reward) and any(self._stems(ref, policy) for ref in carried):
                return f"carry.{policy}: {reason}"
        if isinstance(node, Judge) and not any(self._stems(ref, policy) for ref in carried for policy in self.sized):
            return f"nodes.{name}: asks a server, whose speed is its own"
        return ""

    def _stems(self, ref: str, policy: str) -> bool:
        """Whether an edge carries a policy, in whatever version."""
        seen = ref.partition(".")[0]
        if seen in self.graph.carries:
            return seen == policy
        node = self.schedule.nodes[seen]
        replaced = self.schedule.replaced(seen).values()
        inputs = [edge for edge in self.graph.nodes[seen].edges() if edge.socket in replaced or node.kind == "policy"]
        return any(self._stems(edge.ref, policy) for edge in inputs)

    def _first(self, node: Node, name: str, step: str, many: Costs) -> float:
        """Seconds that the first round may take more: memory that was never used, workers that start."""
        if isinstance(node, Reward | Source):
            return WORKER_S if getattr(node, "timeout_s", None) is not None else IMPORT_S
        if isinstance(node, Exchange) or not many.seconds[step]:
            return 0.0
        if isinstance(node, Update):
            used = many.memory.parts.get("training", 0.0) + many.memory.parts.get("optimiser", 0.0)
        else:  # weights in both precisions, and what kernels are made for
            used = 6.0 * len(self.names) * max(model.parameters for model in self.models.values())
        return used / self.machine.touch + IMPORT_S

    def _corrected(self, observed: Observed, few: Costs, many: Costs) -> tuple[Mapping[str, Range], Range]:
        """Paces and room as a stored run had them, against an estimate of that very run."""
        stored = self
        if observed.graph != self.graph:
            stored = _Estimator(observed.graph, calibration=self.calibration)
            exact = Assumptions(0.6, SHORT.prior, observed=observed.lengths, varied=observed.varied)
            few = many = stored.costs(exact)
        paces = {}
        for kind in ("generate", "update"):
            steps = [s for s in stored.schedule.steps if stored.schedule.nodes[s.node].kind == kind]
            thought = sum(few.seconds[str(s)] + many.seconds[str(s)] for s in steps) / 2
            took = sum(observed.fact.seconds.get(s.node, 0.0) for s in steps)
            paces[kind] = KNOWN_PACE.times(took / thought) if thought and took else PACES[kind]
        if observed.fact.memory is None:
            return paces, ROOM
        thought = (few.memory.bytes + many.memory.bytes) / 2
        return paces, KNOWN_ROOM.times(observed.fact.memory / thought)

    def _start(self) -> Range:
        """Libraries, weights and their digests, before the first round."""
        weights = sum(4 * model.parameters for model in self.models.values()) * len(self.names)
        once = sum(max(sized.loaded_bytes, 4 * sized.model.parameters) for sized in self.sized.values())
        fastest = once / self.machine.read / 4 + weights / self.machine.digest
        slowest = once / self.machine.read + weights * (1 / self.machine.touch + 1 / self.machine.copy)
        return LIBRARIES_S + Range(fastest, fastest + slowest * OTHER_PACE.high)

    def _end(self) -> Range:
        """Digests and checkpoints."""
        run, models = self.graph.run, [self.models[name] for name in self.updated if name in self.models]
        every = run.checkpoint_every
        count = (run.rounds // every + bool(run.rounds % every)) if every else 1
        written = sum(4 * model.trained + model.moment_bytes for model in models) * len(self.names) * count
        digests = sum(4 * model.parameters for model in models) * len(self.names) / self.machine.digest
        return Range(digests / 2 + written / self.machine.write / 3, digests * 2 + 2 * written / self.machine.write)


def _sizes(graph: Graph) -> tuple[dict[str, PolicySize], dict[str, str]]:
    """The policies whose size is known, and why it is not of the others."""
    sized, unknown = {}, {}
    for name, part in graph.carries.items():
        if isinstance(part.carry, PolicyCarry) and not part.carry.small:
            try:
                sized[name] = size_policy(part.carry)
            except UnknownSize as reason:
                unknown[name] = str(reason)
    return sized, unknown


def _rehearsable(schedule: Schedule, *, known: bool) -> Schedule:
    """The schedule with stand-ins for what would ask a network, and for limits that a stand-in's tokens would break."""
    nodes = dict(schedule.nodes)
    for name, node in nodes.items():
        if isinstance(node, Source | Judge) or (isinstance(node, Generator) and not known):
            nodes[name] = node.dry().placed(node.place)
    return replace(schedule, nodes=nodes)


def _mean(done: Sequence[RehearsedStep], rounds: int, value: Callable[[RehearsedStep], float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for step in done:
        found[str(step.step)] = found.get(str(step.step), 0.0) + value(step) / rounds
    return found
