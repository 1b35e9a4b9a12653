"""A graph as a picture: Mermaid text, byte-stable, with stages as boxes, kinds as shapes, and policies dashed."""

from genrl_graph.graph import Edge
from genrl_graph.infer import carried
from genrl_graph.schedule import Schedule

_SHAPES = {
    "source": '[("{}")]',
    "generate": '(["{}"])',
    "exchange": '{{{{"{}"}}}}',
    "select": '[/"{}"/]',
    "reward": '["{}"]',
    "advantage": '["{}"]',
    "update": '[["{}"]]',
    "policy": '(("{}"))',
    "coordinate": '>"{}"]',
}
_CARRY = '(("{}"))'


def mermaid(schedule: Schedule) -> str:
    """The graph as a Mermaid flowchart: one subgraph a stage; edges of carried values are dashed."""
    graph = schedule.graph
    stages = {step.node: step.stage for step in schedule.steps}
    lines = ["flowchart LR"]
    for name, part in graph.carries.items():
        lines.append(f"  {name}{_CARRY.format(f'{name}<br/>{part.type_name}')}")
    for stage in range(schedule.stages):
        lines.append(f'  subgraph stage{stage}["stage {stage}"]')
        for name, part in graph.nodes.items():
            if stages[name] == stage:
                shape = _SHAPES.get(part.node.kind, '["{}"]')
                lines.append(f"    {name}{shape.format(f'{name}<br/>{part.type_name}')}")
        lines.append("  end")
    lines += [f"  {edge.origin} {_arrow(schedule, edge)} {edge.reader}" for edge in graph.edges()]
    for name, part in graph.carries.items():
        if part.next is not None:
            lines.append(f"  {part.next.partition('.')[0]} -. next round .-> {name}")
    return "\n".join(lines) + "\n"


def _arrow(schedule: Schedule, edge: Edge) -> str:
    if carried(schedule.types, edge.ref):
        return "-.->"
    return f"-- {schedule.types[edge.ref]} -->".replace("[", "#91;").replace("]", "#93;")
