"""Composites of reasoning-gym in YAML files of its own."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from genrl_graph.errors import DataError


@lru_cache(maxsize=32)
def read_composite(path: str, _: tuple[int, int] | None) -> str:
    """The config of a composite as JSON, without its seeds, read again where the file changed.

    Raises `DataError` where it is no file, no YAML, or no composite.
    """
    try:
        written = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a relative path starts at the graph file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    members = written.get("datasets") if isinstance(written, dict) else None
    if not isinstance(members, list) or not all(isinstance(member, dict) and "name" in member for member in members):
        raise DataError(f"{path}: no composite of reasoning-gym; list `datasets` with name, weight and config")
    config = _seedless(written) | {"datasets": [_seedless(member) | _config(member) for member in members]}
    try:
        text = json.dumps(config, sort_keys=True)
    except TypeError as error:
        raise DataError(f"{path}: {error}; use text, numbers, lists and mappings") from error
    if json.loads(text) != config:
        raise DataError(f"{path}: a key that is no text; put it in quotes")
    return text


def _seedless(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "seed"}


def _config(member: dict[str, Any]) -> dict[str, Any]:
    config = member.get("config")
    return {"config": _seedless(config)} if isinstance(config, dict) else {}
