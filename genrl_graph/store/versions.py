"""The versions in graph.yaml: what ran a run, checked by type before anything reads it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from genrl_graph.errors import StoreError

_STRICT = ConfigDict(strict=True)
_PAIR = Field(min_length=2, max_length=2)


@with_config(_STRICT)
class _Resumed(TypedDict, total=False):
    """A resume that changed options or versions."""

    round: int
    run: dict[str, list[Any]]
    versions: dict[str, str | None]


@with_config(_STRICT)
class _Replayed(TypedDict):
    """The origin of a replay."""

    run: str
    rounds: Annotated[list[int], _PAIR]
    fingerprint: str
    update: bool
    nodes: dict[str, Annotated[list[str], _PAIR]]


@with_config(_STRICT)
class _Versions(TypedDict, total=False):
    """The entries that commands read; the others are versions of packages."""

    fingerprint: str
    imports: dict[str, str]
    classes: dict[str, int]
    packages: dict[str, str]
    carries: dict[str, str]
    unlocked: dict[str, Any]
    data: dict[str, list[list[str]]]
    computing: dict[str, Any]
    resumed: list[_Resumed]
    replayed: _Replayed


_VERSIONS = TypeAdapter(_Versions)


def checked_versions(values: Any, where: str) -> dict[str, Any]:
    """Return the versions of a run; raises `StoreError` where an entry has another type than a run writes."""
    try:
        _VERSIONS.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "versions"
        raise StoreError(f"{where}: {at}: {first['msg']}; restore the file as the run wrote it") from error
    result: dict[str, Any] = values
    return result


_CODE = ("genrl-graph", "commit", "torch", "transformers", "trl")
"""Versions that are told apart when runs are compared: of what plays, not of what stores."""


def code_versions(versions: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the code that played a run: packages, commit, scripts and node classes."""
    known = {name: str(versions[name]) for name in _CODE if name in versions}
    for kind in ("imports", "classes", "packages"):
        known |= {name: str(version)[:19] for name, version in versions.get(kind, {}).items()}
    return known
