"""Composite data sets in reasoning-gym's own YAML format."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from genrl_graph.errors import DataError


@lru_cache(maxsize=32)
def read_composite(path: str, _: tuple[int, int] | None) -> str:
    """Read a composite's config as JSON without seeds; the second argument keys the cache by the file's state.

    Raises `DataError` if the file is missing, not YAML, or not a composite.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a relative path starts at the graph file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    members = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(members, list) or not all(isinstance(member, dict) and "name" in member for member in members):
        raise DataError(f"{path}: no composite of reasoning-gym; list `datasets` with name, weight and config")
    config = _without_seed(content) | {"datasets": [_without_seed(member) | _config(member) for member in members]}
    try:
        text = json.dumps(config, sort_keys=True)
    except TypeError as error:
        raise DataError(f"{path}: {error}; use text, numbers, lists and mappings") from error
    if json.loads(text) != config:
        raise DataError(f"{path}: a key that is no text; put it in quotes")
    return text


def _without_seed(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "seed"}


def _config(member: dict[str, Any]) -> dict[str, Any]:
    config = member.get("config")
    return {"config": _without_seed(config)} if isinstance(config, dict) else {}
