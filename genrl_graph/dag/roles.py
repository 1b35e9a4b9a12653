"""Roles: parts of a game that peers may play apart, and the rules by which their edges cross exchanges."""

from collections.abc import Iterator, Mapping

from genrl_graph.contract.node import Exchange, Source
from genrl_graph.dag.graph import Edge, Graph, Part
from genrl_graph.dag.infer import carried
from genrl_graph.dag.problems import NAME, Problem, edge_path
from genrl_graph.edge_types.edge_type import SCORED, EdgeType
from genrl_graph.messages import did_you_mean


def find_unknown_roles(graph: Graph) -> Iterator[Problem]:
    """Report run options that name a role which no node has."""
    roles = graph.roles()
    for at, name in enumerate(graph.run.roles):
        if name not in roles:
            hint = did_you_mean(name, roles) or f"; there are {', '.join(roles)}"
            known = hint if roles else "; give its nodes `role:`"
            yield Problem(("run", "roles", at), f"no node has the role {name!r}{known}")


def check_role(graph: Graph, part: Part, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    """Report a role that a node cannot have, and what it reads of other roles that crosses no exchange."""
    if part.role and (text := _misplaced(part)):
        yield Problem(("nodes", part.name, "role"), text)
    for edge in part.edges():
        giver = graph.role_of(edge.origin)
        if giver and giver != part.role and (text := _uncrossed(part, edge, giver, types)):
            yield Problem(edge_path(edge), text)


def _misplaced(part: Part) -> str:
    """Return why a node cannot have its role, "" if it can."""
    if not NAME.match(part.role):
        return f"{part.role!r} is no name; use letters, digits and underscores, a letter first"
    if part.cls is not None and issubclass(part.cls, Source):
        return f"{part.type_name} makes tasks, which every peer makes again for the rows that it admits; leave it out"
    if part.cls is not None and issubclass(part.cls, Exchange):
        return f"peers of all roles meet in {part.type_name}; leave it out"
    return ""


def _uncrossed(reader: Part, edge: Edge, giver: str, types: Mapping[str, EdgeType]) -> str:
    """Return why what role `giver` makes does not reach a reader of another role, "" if an exchange takes it there."""
    cls, kind = reader.cls, types.get(edge.ref)
    role = f"role {reader.role!r}" if reader.role else "every role"
    if cls is None or kind is None:
        return ""
    if carried(types, edge.ref) and issubclass(cls, Exchange):
        return f"{edge.ref!r} is trained by role {giver!r} alone, but peers of all roles meet here; let all train it"
    if carried(types, edge.ref):
        what = f"{edge.ref!r} is trained by role {giver!r} alone, and {role} reads it"
        return f"{what}; give this node `role: {giver}`, or let it read a frozen carry"
    if not issubclass(cls, Exchange):
        what = f"{edge.ref!r} is made by role {giver!r}, and {role} reads it, which may be played elsewhere"
        return f"{what}; put an exchange.gather between them, or give both one role"
    if SCORED in kind.marks:
        what = f"{edge.ref!r} carries rewards of role {giver!r}, which no other role believes"
        return f"{what}; exchange the rows before they are scored, and score what the exchange gives"
    return ""


def reads_elsewhere(graph: Graph, part: Graph) -> list[str]:
    """Return the outputs that exchanges of a part read and that only other roles make."""
    refs = (edge.ref for edge in part.edges() if not part.has(edge.origin))
    return list(dict.fromkeys(ref for ref in refs if graph.has(ref.partition(".")[0])))
