"""The base of nodes and carries: the class is the configuration, its fields are validated params."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError, PydanticSerializationError

from genrl_graph.contract import registry
from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.errors import NodeError, ParamError
from genrl_graph.messages import closest, did_you_mean, short

_TYPE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_]+\Z")
_TOLD = "told"  # the type of errors that `told` returns


class _CarryName:
    """Annotation of params that hold a `CarryName`."""


CarryName = Annotated[str, _CarryName]
"""The name of a carry of the same graph; the check of a graph reports unknown names."""


def named_carries(declared: "Declared") -> Iterator[tuple[str, str]]:
    """Yield pairs of a param that names a carry, and the name."""
    for name, field in type(declared).model_fields.items():
        value = getattr(declared, name)
        marks = [*field.metadata, *(mark for kind in get_args(field.annotation) for mark in get_args(kind))]
        if _CarryName in marks and value is not None:
            yield name, value


class Declared(ExactNumbers):
    """Base of nodes and carries, which a graph names by type.

    Attributes:
        kind: Kind of the type, such as `reward`.
        type_name: Full name, such as `reward.math`; "" for base classes.
        class_version: Version of the class; raise it when its results change.
        renamed_inputs: Old names of inputs, which still load, and their new names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True)

    kind: ClassVar[str] = ""
    type_name: ClassVar[str] = ""
    class_version: ClassVar[int] = 1
    renamed_inputs: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **params: Any) -> None:
        try:
            super().__init__(**params)
        except ValidationError as error:
            raise ParamError(
                "; ".join(str(problem) for problem in param_problems(type(self), error, params))
            ) from error

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # otherwise `model_validate` calls it

    def __init_subclass__(cls, *, name: str = "", kind: str = "", **kwargs: Any) -> None:
        # pydantic passes class keywords here too; `__pydantic_init_subclass__` reads them
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str = "", kind: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
        cls.type_name = f"{cls.kind}.{name}" if name else ""  # without a name it is a base class
        if name:
            if not cls.kind:
                raise NodeError(f"{cls.__qualname__}: has no kind; subclass one such as Reward, or give it kind=")
            if not _TYPE_NAME.match(cls.type_name):
                raise NodeError(f"{cls.__qualname__}: {cls.type_name!r} is no type name; use letters, digits and _")
            cls._refuse_shadows()
            cls._read_contract()
            registry.register(cls)

    @classmethod
    def _refuse_shadows(cls) -> None:
        """Raise `NodeError` for a param that would hide an attribute or method of the contract."""
        bases = [base for base in cls.__mro__[1:] if issubclass(base, Declared)]
        ours = {name for base in bases for name in vars(base)} - {name for base in bases for name in base.model_fields}
        for name in cls.model_fields:
            if name in ours:
                raise NodeError(f"{cls.type_name}: a param cannot be named {name!r}, a part of the contract; rename it")

    @classmethod
    def _read_contract(cls) -> None:
        """Read the sockets of the class from its annotations; raises `NodeError` if it breaks the contract."""
        raise NotImplementedError

    def plain_params(self) -> dict[str, Any]:
        """Return the params that differ from their defaults as plain YAML values.

        Raises `ParamError` if a param cannot be written as YAML.
        """
        try:
            return self.model_dump(mode="json", exclude_defaults=True)
        except PydanticSerializationError as error:
            cause = str(error).removeprefix("Error calling function ").partition("\n")[0]
            raise ParamError(f"{self.type_name}: a param has no YAML form: {cause}") from error


ParamPath = tuple[str | int, ...]
"""Keys and indices that lead to a value within `params`."""


@dataclass(frozen=True, slots=True)
class ParamProblem:
    """One invalid param: its path within `params`, and one line that explains the problem."""

    type_name: str
    path: ParamPath
    text: str
    unknown: bool = False
    at_key: bool = False  # the key is wrong, not its value

    def __str__(self) -> str:
        where = ".".join(map(str, (self.type_name, *(() if self.unknown else self.path))))
        return f"{where}: {self.text}"


def param_problems(cls: type[Declared], error: ValidationError, params: Mapping[str, Any]) -> list[ParamProblem]:
    """Return the problems of params that pydantic reports, one per path.

    For a union only the first branch is reported. A param is not reported as missing if an unknown one is probably a
    misspelling of it.
    """
    problems: dict[ParamPath, ParamProblem] = {}
    missing, misspelt = set[ParamPath](), set[tuple[str | int | None, ...]]()
    for item in error.errors(include_url=False):
        path, unknown = _written_path(item["loc"], params), item["type"] == "extra_forbidden"
        if unknown:
            name, known = str(item["loc"][-1]), _fields_at(cls, item["loc"][:-1])
            path = (*path, name) if path[-1:] != item["loc"][-1:] else path
            hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
            text = f"unknown param {'.'.join(map(str, path))!r}{hint}"
            misspelt.add((*path[:-1], closest(name, known)))
        elif item["type"] == "missing":
            path = (*path, item["loc"][-1])
            text = "missing; this param has no default"
            missing.add(path)
        else:
            text = problem_text(item)
        at_key = unknown or item["type"] == "invalid_key"
        problems.setdefault(path, ParamProblem(cls.type_name or cls.__name__, path, text, unknown, at_key))
    return [problem for path, problem in problems.items() if path not in missing & misspelt]


def told(text: str) -> PydanticCustomError:
    """Return an error of a validator whose text names the value already."""
    return PydanticCustomError(_TOLD, "{text}", {"text": text})


def problem_text(item: Mapping[str, Any]) -> str:
    """Return what is wrong with a value that pydantic refuses, in lower case and with the value.

    The message of a rule between values has no location, and names the values already, as one of `told` does.
    """
    message: str = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    if not item["loc"] or item["type"] == _TOLD:
        return message
    if item["type"] in ("tuple_type", "list_type"):
        one = "" if isinstance(item["input"], Mapping) else f"; for one value write [{item['input']}]"
        return f"wants a list, got {short(item['input'])}{one}"
    wants_text = item["type"] in ("string_type", "literal_error") and isinstance(item["input"], bool | int | float)
    return f"{message}, got {short(item['input'])}" + ("; put it in quotes to keep it text" if wants_text else "")


def _written_path(loc: ParamPath, params: Any) -> ParamPath:
    """Return a location without the union branches that pydantic inserts, which are no keys of the params."""
    path: list[str | int] = []
    for step in loc:
        keys = params if isinstance(params, Mapping) else range(len(params)) if isinstance(params, list | tuple) else ()
        if step in keys:
            params = params[step]
            path.append(step)
    return tuple(path)


def _fields_at(cls: type[BaseModel], loc: ParamPath) -> list[str]:
    """Return the fields of the nested model at a location, or of the innermost model on the way to it."""
    for step in loc:
        field = cls.model_fields.get(str(step))
        inner = [part for part in (field.annotation, *get_args(field.annotation)) if _is_model(part)] if field else []
        if inner:
            cls = inner[0]
    return list(cls.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
