"""A schedule as text: the steps of a round in order, shown before anything runs."""

from genrl_graph.contract.node import PHASES, Carry
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import Schedule, Step, compile_graph
from genrl_graph.messages import counted


def plan_of(graph: Graph) -> str:
    """Return the schedule of a graph as text; raises `GraphError` for a broken graph."""
    return schedule_text(compile_graph(graph))


def schedule_text(schedule: Schedule) -> str:
    """Return stages, steps, exchanges and the version of each carried value that a step reads, then the carries."""
    graph = schedule.graph
    exchanges = sum(step.action == "open" for step in schedule.steps)
    peers = counted(graph.run.peers, "peer") + (f" of {graph.run.replicas} ranks" if graph.run.replicas > 1 else "")
    lines = [
        f"{graph.name}: {counted(len(graph.nodes), 'node')}, {counted(schedule.stages, 'stage')}, "
        f"{counted(exchanges, 'exchange')}, {counted(graph.run.rounds, 'round')}, {peers}, "
        f"seed {graph.run.seed}",
        f"protocol {schedule.protocol}",
        "",
    ]
    width = max(len(str(step)) for step in schedule.steps)
    types = max(len(graph.nodes[step.node].type_name) for step in schedule.steps)

    stage, numbers = -1, schedule.numbers()
    ahead, after = schedule.parts()
    after = after if ahead else ()
    for step in sorted(
        schedule.steps, key=lambda step: str(step) not in numbers
    ):  # those of evaluations alone are last
        number = f"{numbers[str(step)]}." if str(step) in numbers else ""
        mark = f"stage {step.stage}" if step.stage != stage else ""
        stage = step.stage
        kind = graph.nodes[step.node].type_name if step.action != "close" else ""
        if step in after[:1]:
            lines.append("the steps above are played for the next round, beside those below")
        lines.append(f"{mark:<8} {number:>4} {step!s:<{width}}  {kind:<{types}}  {_notes(schedule, step)}".rstrip())
    lines += ["", *_carries(schedule)]
    return "\n".join(lines) + "\n"


def _notes(schedule: Schedule, step: Step) -> str:
    part = schedule.graph.nodes[step.node]
    notes = [f"role {part.role}"] if part.role else []
    if step.action != "close":
        data = [edge.ref for edge in part.edges() if edge.ref not in step.reads.values()]
        if data:
            notes.append(f"reads {', '.join(data)}")
    for ref in step.reads.values():
        notes.append(f"{_noun(schedule, ref)} of {_version(schedule, ref, ahead=step.node in schedule.ahead)}")
    if step.action == "close":
        waiting = dict.fromkeys(edge.reader for edge in schedule.graph.readers(step.node))
        notes += [f"wanted by {', '.join(waiting)}"] if waiting else []
    if step.beside:
        notes.append(f"runs beside {step.beside}")
    if (phases := part.node.phases) != PHASES:
        notes.append(f"in {' and '.join(sorted(phases))} only")
    for field in schedule.replaced(step.node) if step.action != "open" else ():
        ref = f"{step.node}.{field}" if field else step.node
        notes.append(f"gives {ref}: new {_noun(schedule, ref)}")
    return "; ".join(notes)


def _noun(schedule: Schedule, ref: str) -> str:
    """Return what a carried value is: weights of a policy, or a value such as a level or a buffer."""
    return "weights" if issubclass(schedule.types[ref].base, Policy) else "value"


def _version(schedule: Schedule, ref: str, *, ahead: bool) -> str:
    if ref not in schedule.graph.carries:
        return f"{ref} (this round)"
    changes = schedule.graph.carries[ref].next is not None
    return f"{ref} (start of the round before)" if ahead and changes else f"{ref} (round's start)"


def _carries(schedule: Schedule) -> list[str]:
    lines = []
    for name, part in schedule.graph.carries.items():
        note = part.declared.note if isinstance(part.declared, Carry) else ""
        after = f"next round {part.next}" if part.next else "frozen"
        lines.append(f"carry {name} ({part.type_name}): {after}{'; ' * bool(note)}{note}")
    return lines
