"""Parse command line overrides in Hydra's grammar, and apply them to a draft."""

from typing import Any

from genrl_graph.errors import ParamError
from genrl_graph.graph_file.document import Path, Position
from genrl_graph.graph_file.draft import Draft, dotted, kind

HYDRA_KEYS = ("hydra", "defaults")
"""Top-level keys that control the composition and are not part of the graph."""


def parse_override(text: str) -> Any:
    """Parse one command line argument as Hydra's `Override`; raise `ParamError` for bad syntax or a sweep."""
    override = parse_syntax(text)
    if override.is_sweep_override():
        advice = "a list is key=[1,2], a text with a comma is key='1,2'"
        raise _refusal(text, f"a sweep over several values: `genrl-graph sweep` plays one run per value ({advice})")
    _check_keys(override.value(), text)
    return override


def parse_syntax(text: str) -> Any:
    """Parse one argument as Hydra's `Override`, which may be a sweep; raise `ParamError` for bad syntax or key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        cause = " ".join(str(error).split())
        raise _refusal(text, f"{cause}; write key=value, and quote a text: key='a, b'") from error
    key = override.key_or_group
    if not key:
        raise _refusal(text, "there is no key; write key=value")
    if key.replace("/", ".").split(".")[0] in HYDRA_KEYS:
        raise _refusal(text, f"'{key}' is no key of a graph; choose a group's option with group=option")
    return override


def override_error(override: Any, text: str) -> ParamError:
    """Return the error for an override that cannot be used."""
    return _refusal(override.input_line, text)


def override_position(override: Any) -> Position:
    """Return the position of an override: the command line, without line and column."""
    return Position("command line", 0, 0, " ".join(override.input_line.split()))


def apply_override(draft: Draft, override: Any) -> None:
    """Set or delete the override's key; a mapping merges into a mapping, any other value replaces."""
    key = override.key_or_group
    if override.package is not None or "/" in key:
        raise override_error(override, f"there is no group '{key}' to choose from; a key is written a.b.c")
    if override.is_delete():
        _delete(draft, key.split("."), override)
        return
    place = override_position(override)
    parent: dict[Any, Any] = draft.values
    path: Path = ()
    parts = key.split(".")
    for part in parts[:-1]:
        path = (*path, _match(parent, part))
        if parent.get(path[-1]) is None:
            draft.put(parent, path, {}, lambda _: (place, place))
        parent = parent[path[-1]]
        _check_mapping(parent, path, override)
    draft.put(parent, (*path, _match(parent, parts[-1])), override.value(), lambda _: (place, place))


def _delete(draft: Draft, parts: list[str], override: Any) -> None:
    parent: Any = draft.values
    path: Path = ()
    for part in parts:
        if path:
            parent = parent[path[-1]]
            _check_mapping(parent, path, override)
        path = (*path, _match(parent, part))
        if path[-1] not in parent:
            there = f"'{dotted(path[:-1])}' has" if path[:-1] else "the graph has"
            keys = ", ".join(map(str, parent)) or "none"
            raise override_error(override, f"there is no '{dotted(path)}' to delete; keys that {there}: {keys}")
    current, expected = parent[path[-1]], override.value()
    if expected is not None and current != expected:
        raise override_error(
            override, f"'{dotted(path)}' is {current!r}, not {expected!r}; delete it with ~{dotted(path)}"
        )
    draft.discard(path)


def _match(parent: dict[Any, Any], part: str) -> str | int:
    """Return `part` as the key that the file uses, which is a number if the file writes it as one."""
    return int(part) if part not in parent and part.isdecimal() and int(part) in parent else part


def _check_mapping(value: object, path: Path, override: Any) -> None:
    if not isinstance(value, dict):
        advice = f"set it whole: {dotted(path)}=..."
        raise override_error(override, f"'{dotted(path)}' is {kind(value)} and has no keys; {advice}")


def _check_keys(value: object, text: str) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise _refusal(text, f"the key {key!r} is not text; quote it")
            _check_keys(child, text)
    elif isinstance(value, list):
        for child in value:
            _check_keys(child, text)


def _refusal(text: str, fault: str) -> ParamError:
    return ParamError(f"command line: {' '.join(text.split())}: {fault}")
