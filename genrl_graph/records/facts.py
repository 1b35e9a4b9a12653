"""The facts of a step, checked by type before anything reads them."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from genrl_graph.errors import StoreError
from genrl_graph.store.strict_json import RESTORE, parse_object

_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Span = Annotated[list[_Count], Field(min_length=3, max_length=3)]


@with_config(ConfigDict(strict=True))
class _Facts(TypedDict, total=False):
    """The facts that commands read; nodes may journal others."""

    metrics: dict[str, float | str]
    digests: dict[str, str]
    versions: dict[str, int]
    types: dict[str, list[Any]]
    own_rows: dict[str, list[_Span]]
    retried: list[Any]
    first_failure: str


_FACTS = TypeAdapter(_Facts)


def read_facts(text: str, where: object) -> dict[str, Any]:
    """Return the facts in the JSON of a step; raises `StoreError` where one has another type than a run writes."""
    facts = parse_object(text, where)
    check_facts(facts, where)
    return facts


def check_facts(facts: dict[str, Any], where: object) -> None:
    """Raise `StoreError` where a fact has another type than a run writes."""
    try:
        _FACTS.validate_python(facts)
        for value in facts.get("metrics", {}).values():
            float(value)  # infinities and NaN are text
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise StoreError(f"{where}: fact {at[:80]}: {first['msg']}; {RESTORE}") from error
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{where}: fact metrics: {str(error)[:80]}; {RESTORE}") from error
