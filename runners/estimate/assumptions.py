"""The assumptions of an estimate in words."""

from collections.abc import Iterable, Iterator

from genrl_graph.contract.node import Source, Update
from genrl_graph.dag.schedule import Schedule
from genrl_graph.nodes.generate.chat import ChatGenerator
from genrl_graph.runners.estimate.costs import varied_share
from genrl_graph.runners.estimate.observed import Observed
from genrl_graph.runners.estimate.stand_ins import Assumptions


def assumptions(
    schedule: Schedule,
    rehearsed: Schedule,
    *,
    ends: tuple[Assumptions, Assumptions],
    observed: Observed | None,
    rough: bool = False,
) -> Iterable[str]:
    """Yield the assumptions of an estimate, one line each; `ends` are those of its low and its high end.

    `rough` says that the machine was measured while other programs used it.
    """
    short, long = ends
    if short.tokens is not None:
        yield f"completions of {short.tokens:g} tokens (--completion-tokens)"
    elif observed is not None:
        yield f"completions as long as in {observed.fact.folder}"
    else:
        yield f"completions fill {short.share:.0%} to {long.share:.0%} of max_new_tokens (--completion-tokens N)"
    if observed is not None and observed.varied is not None:
        yield f"{observed.varied:.0%} of the rows have something to learn from, as in {observed.fact.folder}"
    elif any(isinstance(node, Update) for node in schedule.nodes.values()):
        sizes = sorted({node.num_generations for node in schedule.nodes.values() if isinstance(node, ChatGenerator)})
        shares = ", ".join(
            f"{varied_share(n, short.prior):.0%} to {varied_share(n, long.prior):.0%} of groups of {n}"
            for n in sizes
            if n > 1
        )
        if shares:
            yield f"rewards differ in {shares}; the others cost no training"
    quiet = "speeds of this machine when nothing else runs"
    busy = "rough speeds of this machine, measured while other programs were busy (--calibrate measures again)"
    speeds = busy if rough else quiet
    yield speeds if observed is None else f"{speeds}, corrected by {observed.fact.folder}"
    yield from _options(schedule)
    yield from _engines(schedule)
    for name, node in rehearsed.nodes.items():
        if isinstance(node, Source) and type(node) is not type(schedule.nodes[name]):
            yield f"nodes.{name}: its data is not on this machine, so prompts are those of made-up sums"


def _options(schedule: Schedule) -> Iterator[str]:
    if (replicas := schedule.graph.run.replicas) > 1:
        yield f"memory is that of one of {replicas} ranks that share a policy; what they send each other takes no time"
    if schedule.ahead:
        yield "times are those of sampling and training one after the other; what run.pipeline_depth saves is not known"
    if schedule.graph.run.mode != "train":
        yield "evaluations are not counted"


def _engines(schedule: Schedule) -> Iterable[str]:
    for name, part in schedule.graph.carries.items():
        if getattr(part.carry, "engine", None) is not None:
            yield f"carry {name}: as if the policy sampled itself; the speed of its engine is not known"
