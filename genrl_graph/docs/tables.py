"""The tables of the hand-written reference pages: errors and exit codes, metric names, columns, the Python names."""

import inspect
from collections.abc import Iterator

import pyarrow as pa

import genrl_graph
from genrl_graph.arrow.cast import Tensor
from genrl_graph.contract.declared import Declared
from genrl_graph.docs.markdown import code, in_cell, table
from genrl_graph.edge_types.edge_type import EdgeValue
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import GenrlGraphError
from genrl_graph.runners.tracking.metric_names import METRICS


def error_table() -> str:
    """Return the tree of errors with their exit codes; errors of a class are indented below it."""
    rows = [
        (f"{'&emsp;' * depth}`{cls.__name__}`", str(cls.exit_code), in_cell(_first_line(cls)))
        for depth, cls in _tree(GenrlGraphError)
    ]
    return table(("Error", "Exit code", "Meaning"), rows)


def metric_tables() -> str:
    """Return the names of all metrics, a table for each first part such as `<reward>` or `time`."""
    parts = dict[str, list[tuple[str, str]]]()
    for name, meaning in METRICS.items():
        parts.setdefault(name.partition("/")[0], []).append((code(name), in_cell(meaning)))
    titles = {first: first.strip("<>").replace("<k>", " k") for first in parts}
    return "\n".join(f"## {titles[first]}\n\n{table(('Name', 'Meaning'), rows)}" for first, rows in parts.items())


def column_tables() -> str:
    """Return the columns of every edge type of rows that the package exports or ships."""
    return "\n".join(_columns(cls) for cls in sorted(_frames(Frame), key=lambda cls: cls.__name__))


def python_reference() -> str:
    """Return directives by which mkdocstrings documents each name that `import genrl_graph` gives, by what it is."""
    titles = ("Functions", "What they return", "Kinds of nodes", "Edge types", "Errors", "Other classes")
    groups = dict.fromkeys(titles, "")
    for name in (*genrl_graph.__all__, *_returned()):
        if not name.startswith("_"):
            groups[_group(getattr(genrl_graph, name, None))] += f"::: {genrl_graph.__name__}.{name}\n\n"
    return "\n".join(f"## {title}\n\n{names}" for title, names in groups.items())


def _returned() -> Iterator[str]:
    """Yield the classes that the functions return and that are imported for type checkers only."""
    for name in genrl_graph.__all__:
        value = getattr(genrl_graph, name)
        returned = inspect.signature(value).return_annotation if inspect.isfunction(value) else None
        if isinstance(returned, str) and not hasattr(genrl_graph, returned):
            yield returned


def _group(value: object) -> str:
    if value is None:
        return "What they return"
    if inspect.isfunction(value):
        return "Functions"
    base = getattr(value, "__origin__", value)  # `Scored[R]` is an annotated type variable
    if not isinstance(base, type):
        return "Edge types"
    for kind, title in ((Declared, "Kinds of nodes"), (EdgeValue, "Edge types"), (GenrlGraphError, "Errors")):
        if issubclass(base, kind):
            return title
    return "Other classes"


def _tree(cls: type[GenrlGraphError], depth: int = 0) -> Iterator[tuple[int, type[GenrlGraphError]]]:
    yield depth, cls
    for inner in cls.__subclasses__():
        yield from _tree(inner, depth + 1)


def _frames(cls: type[Frame]) -> Iterator[type[Frame]]:
    package = __name__.partition(".")[0]
    for inner in cls.__subclasses__():
        if inner.__module__.partition(".")[0] == package and inner.columns:
            yield inner
        yield from _frames(inner)


def _columns(cls: type[Frame]) -> str:
    rows = [(code(name), code(_column(column))) for name, column in cls.columns.items()]
    head = f"## {cls.__name__} {{: #{cls.__name__} }}"
    return f"{head}\n\n{inspect.getdoc(cls) or ''}\n\n{table(('Column', 'Arrow type'), rows)}"


def _column(column: pa.DataType | Tensor) -> str:
    return str(column) if isinstance(column, pa.DataType) else repr(column)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]
