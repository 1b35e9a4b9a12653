"""Estimate the costs of a run before it plays: rehearse a few rounds, multiply by speeds measured on this machine."""

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
from genrl_graph.runners.tracking.memory import free_device_memory, free_memory

REHEARSED_ROUNDS = 3
SHORT, LONG = Assumptions(share=0.45, prior=0.15), Assumptions(share=1.0, prior=0.5)
"""Assumptions of the low and the high end: completions fill this share of max_new_tokens, and pass probabilities follow
Beta(prior, prior): 29 % to 61 % of the groups of eight pass-or-fail rewards have variance."""
PACES: Mapping[str, Range] = {"generate": Range(0.7, 1.9), "update": Range(0.75, 1.3)}
OTHER_PACE, KNOWN_PACE = Range(0.7, 1.9), Range(0.65, 1.6)
"""Factors between computed and actual seconds of a step, without and with a stored run for comparison."""
ROOM, KNOWN_ROOM = Range(0.9, 1.15), Range(0.85, 1.25)
"""Factors between computed and actual memory, for fragmentation and temporary values."""
WORKER_S, IMPORT_S, ROW_S = 3.0, 1.0, 0.002
"""The most that the workers of a step take to start, its imports, and each of its rows, in seconds."""
LIBRARIES_S = Range(3.0, 25.0)


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a rehearsal by step of a mean round: rows, prompt tokens, sampled tokens, seconds; peak memory."""

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
    calibration: Calibration | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Forecast:
    """Estimate the costs of playing a graph in this process, as ranges; no model is loaded.

    Where all policies are small, a few rounds are played and timed. Otherwise completions are assumed to have
    `completion_tokens` tokens, or as many as in the stored run `observed`, or 45 % to 100 % of max_new_tokens. Speeds
    are measured on this machine with a few layers of the models, and stored; `recalibrate` measures them again, and a
    `calibration` that was made before is used as it is. The measured costs of `observed` correct them.

    Raises `GraphError`, `ParamError` for a wrong `completion_tokens`, and the errors of sources and templates.
    """
    if completion_tokens is not None and completion_tokens < 1:
        raise ParamError(f"completion_tokens: {completion_tokens:g}; wants at least 1")
    schedule = compile_graph(graph).played_in("rounds")
    if is_small(schedule):
        if completion_tokens is not None:
            raise ParamError(f"completion_tokens: {graph.name!r} samples no tokens; leave it out")
        set_threads(graph.run.threads)
        require_enough(schedule, peer_names(graph.run.peers))
        tell(f"trying out rounds of {graph.name} (a few seconds)")
        tried = try_out(_rehearsable(schedule, known=True))
        return tried_forecast(schedule, tried, fact=None if observed is None else observed.fact)
    calibration = calibration or Calibration(afresh=recalibrate, tell=tell)
    return _Estimator(graph, calibration=calibration).forecast(completion_tokens, observed)


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
    """Return the estimate of a graph as text or JSON.

    `run` is a run folder that corrects the estimate, `compare` one whose measured costs are shown beside it.
    """
    observed = None if run is None else read_observed(run)
    fact = None if compare is None else read_observed(compare).fact
    forecast = estimate(
        graph, completion_tokens=completion_tokens, observed=observed, recalibrate=recalibrate, tell=tell
    )
    pairs = [] if fact is None else compared(forecast, fact)
    if as_json:
        comparisons = {"compared": [asdict(pair) | {"inside": pair.inside} for pair in pairs]} if pairs else {}
        return json.dumps(forecast.as_json() | comparisons, indent=1) + "\n"
    return forecast_text(forecast) + ("" if fact is None else "\n" + compared_text(pairs, fact))


class _Estimator:
    """Estimates a graph: rehearses it under short and long assumptions, and turns the work into seconds and bytes."""

    def __init__(self, graph: Graph, *, calibration: Calibration) -> None:
        set_threads(graph.run.threads)
        self.graph, self.calibration = graph, calibration
        self.schedule = compile_graph(graph).played_in("rounds")
        self.names = peer_names(graph.run.peers)
        require_enough(self.schedule, self.names)
        self.sized, self.unknown = _sizes(graph)
        self.machine = calibration.machine()
        self.devices = sorted({str(sized.device) for sized in self.sized.values()} - {"cpu"})
        if self.devices:  # the estimate is of device memory, and `base` is host memory
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
        """The sizes of the policies, by carry."""
        return {name: sized.model for name, sized in self.sized.items()}

    def costs(self, assumed: Assumptions) -> Costs:
        """Rehearse the first rounds under some assumptions, and return the costs of a mean round."""
        count = min(self.graph.run.rounds, REHEARSED_ROUNDS)
        rehearsal = Rehearsal(
            self.rehearsed, self.names, seed=self.graph.run.seed, assumed=assumed, make=self._counting
        )
        done = list(rehearsal.rounds(count))
        works = [work for step in done for work in step.works]
        models, updated = self._loaded_models()
        replicas = self.graph.run.replicas
        peers = len(self.names) if replicas == 1 else 1  # the first rank of each peer is a process of its own
        memory = peak_memory(
            models,
            works,
            self.speeds,
            self.machine,
            updated=updated,
            peers=peers,
            replicas=replicas,
            ahead=bool(self.schedule.ahead),
        )
        return Costs(
            _mean(done, count, lambda step: step.rows),
            _mean(done, count, lambda step: step.prompt_tokens),
            _mean(done, count, lambda step: step.completion_tokens),
            _mean(done, count, lambda step: sum(self._seconds(work) for work in step.works)),
            memory,
        )

    def _loaded_models(self) -> tuple[dict[str, Model], set[str]]:
        """Return the models in memory, forks included, and the names of those with an optimiser."""
        models, updated = dict(self.models), set(self.updated)
        for name, node in self.schedule.nodes.items():
            if isinstance(node, Fork):
                edges = list(self.graph.nodes[name].edges())
                for policy, model in self.models.items():
                    if any(self._is_version_of(edge.ref, policy) for edge in edges):
                        models[name] = model
                trained = any(isinstance(self.schedule.nodes[e.reader], Update) for e in self.graph.readers(name))
                updated |= {name} if trained else set()
        return models, updated

    def _seconds(self, work: Work) -> float:
        if work.policy not in self.sized:
            return 0.0
        seconds = work_seconds(work, self.models[work.policy], self.speeds[work.policy], self.machine)
        return seconds / self.graph.run.replicas

    def _counting(self, name: str) -> Carried:
        """Return the stand-in of a carry: a counting policy; small policies and other carries are themselves cheap."""
        part = self.graph.carries[name]
        if isinstance(part.carry, PolicyCarry) and part.carry.small:
            return part.carry.init(name, seed=self.graph.run.seed)
        if not isinstance(part.carry, PolicyCarry):
            return part.carry.dry(name, seed=self.graph.run.seed)
        sized = self.sized.get(name)
        if sized is not None:
            return CountingPolicy(name, sized.tokens, context=sized.context, shares=sized.shares, critic=sized.critic)
        stub = stub_policy(name, seed=0)
        tokens = ChatTokens(stub.hf_tokenizer, chat_template=CHAT, where="estimate")
        critic = getattr(part.carry, "critic", None)
        return CountingPolicy(name, tokens, context=stub.context_length, critic=critic)

    def forecast(self, completion_tokens: float | None, observed: Observed | None) -> Forecast:
        """Return the forecast: each range goes from the costs under `SHORT` to those under `LONG`."""
        lengths = {} if observed is None or completion_tokens is not None else observed.lengths
        varied = None if observed is None else observed.varied
        low, high = (replace(a, tokens=completion_tokens, observed=lengths, varied=varied) for a in (SHORT, LONG))
        few, many = self.costs(low), self.costs(high)
        paces, room = PACES, ROOM
        if observed is not None:
            paces, room = self._corrected(observed, few, many)
        steps = tuple(self._step(str(step), step.node, few, many, paces) for step in self.schedule.steps)
        unknown = bool(self.unknown)
        # the peak is that of the largest micro-batch, and in some round all groups may have variance
        full = many.memory if observed else self.costs(replace(high, varied=1.0)).memory
        memory = Range.over(few.memory.bytes * room.low, full.bytes * room.high).narrowed()
        return Forecast(
            graph=self.graph.name,
            rounds=self.graph.run.rounds,
            peers=len(self.names),
            steps=steps,
            start_seconds=None if unknown else self._start_seconds(),
            end_seconds=None if unknown else self._end_seconds(),
            memory=None if unknown else memory,
            memory_parts=full.parts,
            device=", ".join(self.devices) or "cpu",
            assumptions=tuple(
                assumptions(
                    self.schedule,
                    self.rehearsed,
                    ends=(low, high),
                    observed=observed,
                    rough=self.calibration.is_rough,
                )
            ),
            checkpoint_bytes=None if unknown else self._checkpoint_bytes() * self._checkpoints(kept=True),
            free=free_device_memory() if self.devices else free_memory(),
        )

    def _step(self, step: str, name: str, few: Costs, many: Costs, paces: Mapping[str, Range]) -> StepCost:
        node, part = self.schedule.nodes[name], self.graph.nodes[name]
        unknown = self._unknown_reason(node, name)
        first = self._first_seconds(node, step, many)
        works = Range.over(few.seconds[step], many.seconds[step])
        rows = Range.over(few.rows[step], many.rows[step])
        if works.high > 0:
            once = first / self.graph.run.rounds
            paced = works.between(paces.get(node.kind, OTHER_PACE))
            seconds = Range(paced.low, paced.high + once).narrowed()
        else:
            seconds = Range(0.0, rows.high * ROW_S + first / self.graph.run.rounds)
        samples = isinstance(node, Generator) or many.sampled[step] > 0
        prompts = Range.over(few.prompts[step], many.prompts[step]) if samples else Range(0, 0)
        return StepCost(
            step=step,
            node=name,
            type_name=part.type_name,
            rows=rows,
            prompt_tokens=None if unknown and samples else prompts,
            completion_tokens=Range.over(few.sampled[step], many.sampled[step]) if samples else Range(0, 0),
            seconds=None if unknown else seconds,
            first_seconds=0.0 if unknown else first,
            open=unknown,
        )

    def _unknown_reason(self, node: Node, name: str) -> str:
        """Return why the costs of a step are unknown, empty where they are known."""
        refs = [edge.ref for edge in self.graph.nodes[name].edges()]
        for policy, reason in self.unknown.items():
            if isinstance(node, Generator | Update | Reward) and any(self._is_version_of(ref, policy) for ref in refs):
                return f"carry.{policy}: {reason}"
        local = any(self._is_version_of(ref, policy) for ref in refs for policy in self.sized)
        if isinstance(node, Judge) and not local:
            return f"nodes.{name}: asks a server, whose speed is its own"
        return ""

    def _is_version_of(self, ref: str, policy: str) -> bool:
        """Return whether an edge carries a policy in any version: the carry, or what an update or fork made of it."""
        origin = ref.partition(".")[0]
        if origin in self.graph.carries:
            return origin == policy
        node = self.schedule.nodes[origin]
        replaced = self.schedule.replaced(origin).values()
        inputs = [edge for edge in self.graph.nodes[origin].edges() if edge.socket in replaced or node.kind == "policy"]
        return any(self._is_version_of(edge.ref, policy) for edge in inputs)

    def _first_seconds(self, node: Node, step: str, many: Costs) -> float:
        """Return the extra seconds of the first round: first use of memory, imports, the start of workers."""
        if isinstance(node, Reward | Source):
            return WORKER_S if getattr(node, "timeout_s", None) is not None else IMPORT_S
        if isinstance(node, Exchange) or not many.seconds[step]:
            return 0.0
        if isinstance(node, Update):
            used = many.memory.parts.get("training", 0.0) + many.memory.parts.get("optimiser", 0.0)
        else:  # weights in both precisions: 4 + 2 bytes a parameter
            used = 6.0 * len(self.names) * max(model.parameters for model in self.models.values())
        return used / self.machine.touch + IMPORT_S

    def _corrected(self, observed: Observed, few: Costs, many: Costs) -> tuple[Mapping[str, Range], Range]:
        """Return pace factors and memory factors from a stored run: its measured costs over an estimate of that run."""
        stored = self
        if observed.graph != self.graph:
            stored = _Estimator(observed.graph, calibration=self.calibration)
            exact = Assumptions(0.6, SHORT.prior, observed=observed.lengths, varied=observed.varied)
            few = many = stored.costs(exact)
        paces = {}
        for kind in ("generate", "update"):
            steps = [s for s in stored.schedule.steps if stored.schedule.nodes[s.node].kind == kind]
            estimated = sum(few.seconds[str(s)] + many.seconds[str(s)] for s in steps) / 2
            measured = sum(observed.fact.seconds.get(s.node, 0.0) for s in steps)
            paces[kind] = KNOWN_PACE.times(measured / estimated) if estimated and measured else PACES[kind]
        if observed.fact.memory is None:
            return paces, ROOM
        estimated = (few.memory.bytes + many.memory.bytes) / 2
        return paces, KNOWN_ROOM.times(observed.fact.memory / estimated)

    def _start_seconds(self) -> Range:
        """Return the seconds before the first round: libraries, weights and their digests."""
        weights = sum(model.weight_bytes * model.parameters for model in self.models.values()) * len(self.names)
        once = sum(
            max(sized.loaded_bytes, sized.model.weight_bytes * sized.model.parameters) for sized in self.sized.values()
        )
        fastest = once / self.machine.read / 4 + weights / self.machine.digest
        slowest = once / self.machine.read + weights * (1 / self.machine.touch + 1 / self.machine.copy)
        return LIBRARIES_S + Range(fastest, fastest + slowest * OTHER_PACE.high)

    def _end_seconds(self) -> Range:
        """Return the seconds of digests and of all checkpoints of the run."""
        models = [self.models[name] for name in self.updated if name in self.models]
        written = self._checkpoint_bytes() * self._checkpoints(kept=False)
        digests = sum(model.weight_bytes * model.parameters for model in models) * len(self.names) / self.machine.digest
        return Range(digests / 2 + written / self.machine.write / 3, digests * 2 + 2 * written / self.machine.write)

    def _checkpoint_bytes(self) -> float:
        """Return the bytes of a checkpoint of all peers."""
        models = [self.models[name] for name in self.updated if name in self.models]
        return float(sum(model.weight_bytes * model.trained + model.moment_bytes for model in models) * len(self.names))

    def _checkpoints(self, *, kept: bool) -> int:
        """Return how many checkpoints the run writes, or how many of them are kept."""
        run = self.graph.run
        written = (
            (run.rounds // run.checkpoint_every + bool(run.rounds % run.checkpoint_every))
            if run.checkpoint_every
            else 1
        )
        return min(written, run.keep) if kept and run.keep is not None else written


def _sizes(graph: Graph) -> tuple[dict[str, PolicySize], dict[str, str]]:
    """Return the sizes of the policies by carry, and of the others the reason why their sizes are unknown."""
    sized, unknown = {}, {}
    for name, part in graph.carries.items():
        if isinstance(part.carry, PolicyCarry) and not part.carry.small:
            try:
                sized[name] = size_policy(part.carry)
            except UnknownSize as reason:
                unknown[name] = str(reason)
    return sized, unknown


def _rehearsable(schedule: Schedule, *, known: bool) -> Schedule:
    """Return the schedule with stand-ins for sources and judges, and for generators where a policy's size is unknown.

    Sources and judges may need a network; with a stand-in tokenizer prompts could exceed a generator's limits.
    """
    nodes = dict(schedule.nodes)
    for name, node in nodes.items():
        if isinstance(node, Source | Judge) or (isinstance(node, Generator) and not known):
            nodes[name] = node.dry().placed(node.place)
    return replace(schedule, nodes=nodes)


def _mean(done: Sequence[RehearsedStep], rounds: int, value: Callable[[RehearsedStep], float]) -> dict[str, float]:
    """Return a value of the steps by name, summed over the peers, the mean over the rounds."""
    means: dict[str, float] = {}
    for step in done:
        means[str(step.step)] = means.get(str(step.step), 0.0) + value(step) / rounds
    return means
