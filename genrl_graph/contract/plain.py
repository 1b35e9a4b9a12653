"""Params that are sets of values: given as an instance or, as in YAML, as a plain dict that is validated into one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union

T = TypeVar("T")

if TYPE_CHECKING:
    OrDict: TypeAlias = Union[T, Mapping[str, Any]]  # noqa: UP007  # mypy takes no `T | ...` as a generic alias
    """The type that a type checker sees for a param whose values are of type `T`."""
else:

    class OrDict:
        """The type that pydantic reads: `OrDict[T]` is `T`, and a dict is converted to it."""

        def __class_getitem__(cls, model: type) -> type:
            return model
