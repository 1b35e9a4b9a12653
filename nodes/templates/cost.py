"""Bound the cost of a template before it is rendered, for templates that only copy what they are given."""

from collections.abc import Iterator, Mapping, Sized
from functools import lru_cache

from jinja2 import TemplateError, nodes

from genrl_graph.nodes.templates.syntax import parsed

MOST_COST = 2**27
"""Largest cost of a template that is rendered without limits; more takes up to some tenths of a second."""
MOST_DEPTH = 40

_COPYING = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem),
    *(nodes.Slice, nodes.Neg, nodes.Add, nodes.Concat, nodes.If, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Compare, nodes.Operand, nodes.Test, nodes.Filter, nodes.For),
)
_COPYING_FILTERS = {"count", "d", "default", "first", "last", "length", "lower", "string", "trim", "upper"}


def has_bounded_cost(source: str, values: Mapping[str, object]) -> bool:
    """Return whether a template writes at most `MOST_COST` characters and takes as many steps.

    True only for templates without assignments, calls, macros, arithmetic and nested loops, whose loops go over one of
    the values: each expression then has at most as many characters as source and values together, and is written at
    most once per element.
    """
    loops = _loops(source)
    if loops is None:
        return False
    elements = (len(value) for name in loops if isinstance(value := values.get(name), Sized))
    return (1 + len(source)) * (1 + max(elements, default=0)) * (1 + _characters(values)) <= MOST_COST


@lru_cache(maxsize=256)
def _loops(source: str) -> frozenset[str] | None:
    """Return the variables over which a template loops; None for one that does more than copy."""
    try:
        return frozenset(_looped(parsed(source), MOST_DEPTH, in_loop=False))
    except (TemplateError, RecursionError, _DoesMoreError):
        return None


class _DoesMoreError(Exception):
    """A template is not one of those whose cost is known."""


def _looped(node: nodes.Node, depth: int, *, in_loop: bool) -> Iterator[str]:
    """Yield the variables over which the loops below a node go; raises `_DoesMoreError`."""
    if depth == 0 or not isinstance(node, _COPYING):
        raise _DoesMoreError
    if isinstance(node, nodes.Filter) and (node.name not in _COPYING_FILTERS or node.node is None):
        raise _DoesMoreError
    if isinstance(node, nodes.For):
        over = node.iter
        if isinstance(over, nodes.Getitem) and isinstance(over.arg, nodes.Slice):
            over = over.node
        if in_loop or node.recursive or not isinstance(over, nodes.Name) or not isinstance(node.target, nodes.Name):
            raise _DoesMoreError
        yield over.name
        in_loop = True
    for child in node.iter_child_nodes():
        yield from _looped(child, depth - 1, in_loop=in_loop)


def _characters(values: object) -> int:
    """Return about how many characters a value of JSON has when it is written; each element counts as one."""
    total, left = 0, [values]
    while left:
        value = left.pop()
        total += 1
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            left += value
        else:
            total += value.bit_length() // 3 if isinstance(value, int) else 32
    return total
