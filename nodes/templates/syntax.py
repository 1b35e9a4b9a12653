"""Read templates without rendering any part of them."""

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Reader(ImmutableSandboxedEnvironment):
    """A dialect whose constant expressions are not computed: Jinja would compute `'a' * 10 ** 10` as it compiles."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(ImmutableSandboxedEnvironment.default_unop_table)


@pass_context  # which no constant can be computed from
def _unread(context: Context, *arguments: object, **keywords: object) -> object:
    raise AssertionError("a template that is only read is not rendered")


_READER = _Reader(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_READER.filters = dict.fromkeys(_READER.filters, _unread)
_READER.tests = dict.fromkeys(_READER.tests, _unread)


def parsed(source: str) -> nodes.Template:
    """Return the tree of a template; raises `TemplateError`, or `RecursionError` for deep expressions."""
    return _READER.parse(source)


def variables(tree: nodes.Template) -> set[str]:
    """Return the names of the variables that a template is to be given; raises as `parsed` does."""
    return set(find_undeclared_variables(tree)) - set(_READER.globals)
