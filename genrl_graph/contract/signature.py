"""Read the sockets of a node class from the annotations of its methods."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_origin, get_type_hints

from genrl_graph.contract.policy import Carried
from genrl_graph.contract.resources import RESOURCES
from genrl_graph.edge_types.edge_type import Pattern, Socket, read_pattern, read_socket
from genrl_graph.errors import NodeError

Method = Callable[..., Any]
_INPUT = re.compile(r" {4}(\w+): (.+)")


@dataclass(frozen=True, slots=True)
class Signature:
    """The sockets of a node class, read from its `run` (or from `offer` and `admit` of an exchange).

    What an input is for stands in the section `Inputs:` of the docstring; `returns` is its first paragraph.
    """

    inputs: tuple[Socket, ...]
    outputs: Mapping[str, Pattern]  # "" for a single output, else the fields of the NamedTuple
    resources: tuple[str, ...]
    returns: str = ""

    @property
    def replaced(self) -> Mapping[str, str]:
        """Return, by output, the carried input of which the output is the next version.

        A named output replaces the input of its name, a single output the first carried input of its type.
        """
        replaced: dict[str, str] = {}
        candidates = [socket for socket in self.inputs if socket.many == "one"]
        for field, pattern in self.outputs.items():
            output = pattern.bound.base
            if not issubclass(output, Carried):
                continue
            for socket in candidates:
                base = socket.pattern.bound.base
                if (not field or socket.name == field) and (issubclass(base, output) or issubclass(output, base)):
                    replaced.setdefault(field, socket.name)
        return replaced


def method_of(cls: type, name: str, where: str, *, missing: str) -> Method:
    """Return a method of a class; raises `NodeError` if it is missing, static, a class method, async or a generator.

    `missing` is the text of the error for a class without the method.
    """
    method = inspect.getattr_static(cls, name, None)
    if method is None:
        raise NodeError(f"{where}: {missing}")
    if not inspect.isfunction(method) or inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise NodeError(f"{where}.{name}: must be a plain method `def {name}(self, ...)` that returns its output")
    return method


def read_hints(where: str, method: Method) -> dict[str, Any]:
    """Return the annotations of a method as types; raises `NodeError` if one cannot be resolved."""
    try:
        return get_type_hints(method, include_extras=True)
    except (NameError, TypeError) as error:
        advice = "define or import the type at the top of its module, outside TYPE_CHECKING"
        raise NodeError(f"{where}.{method.__name__}: cannot read its annotations: {error}; {advice}") from error


def read_inputs(where: str, method: Method, *, after: int = 1) -> tuple[tuple[Socket, ...], tuple[str, ...]]:
    """Return the sockets and resources that the parameters of a method declare, skipping the first `after` of them.

    Raises `NodeError` for parameters that break the contract, such as `*args` or unknown resources.
    """
    hints, meanings = read_hints(where, method), read_meanings(method)
    sockets, resources = [], []
    for parameter in list(inspect.signature(method).parameters.values())[after:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NodeError(f"{where}.{method.__name__}: *args and **kwargs are no sockets; name the inputs")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise NodeError(f"{where}.{parameter.name}: inputs are passed by name; remove the `/`")
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.name not in RESOURCES:
                what = f"unknown resource {parameter.name!r}; the runner supplies {', '.join(RESOURCES)}"
                raise NodeError(f"{where}: {what}; put inputs before the `*`")
            resources.append(parameter.name)
            continue
        if parameter.name not in hints:
            raise NodeError(f"{where}.{parameter.name}: an input needs a type annotation")
        optional = parameter.default is not parameter.empty
        socket = read_socket(parameter.name, hints[parameter.name], optional=optional, where=where)
        sockets.append(replace(socket, meaning=meanings.get(parameter.name, "")))
    return tuple(sockets), tuple(resources)


def read_meanings(method: Method) -> dict[str, str]:
    """Return the lines `name: meaning` in the section `Inputs:` of a method's docstring; a line may be continued."""
    meanings, name = dict[str, str](), ""
    for line in (inspect.getdoc(method) or "").partition("\nInputs:\n")[2].splitlines():
        if line[:1].strip():
            break  # another section
        if entry := _INPUT.fullmatch(line):
            name, meanings[entry[1]] = entry[1], entry[2]
        elif name and line:
            meanings[name] += f" {line.strip()}"
    return meanings


def read_summary(method: Method) -> str:
    """Return the first paragraph of a method's docstring on one line."""
    return " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())


def read_outputs(where: str, method: Method) -> dict[str, Pattern]:
    """Return the outputs that the return annotation declares: one under "", or the fields of a NamedTuple.

    Raises `NodeError` without a return annotation; None declares no output.
    """
    hints = read_hints(where, method)
    if "return" not in hints:
        raise NodeError(f"{where}.{method.__name__}: needs a return annotation, which is its output")
    hint = get_origin(hints["return"]) or hints["return"]  # a generic NamedTuple without its arguments
    hint = hint if isinstance(hint, type) and issubclass(hint, tuple) else hints["return"]
    if hint is type(None):
        return {}
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        fields = get_type_hints(hint, include_extras=True)
        return {name: read_pattern(fields[name], where=f"{where}.{name}") for name in hint._fields if name in fields}
    return {"": read_pattern(hint, where=f"{where}.{method.__name__}")}
