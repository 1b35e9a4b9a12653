"""Params that name files of data: relative ones are relative to the graph file, in Python to the working folder."""

from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo
from pydantic.fields import FieldInfo


def _from_graph_file(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    folder = (info.context or {}).get("folder") or Path.cwd()
    beside = (folder / path).resolve()
    return str(beside) if beside.exists() or path.suffix in _DATA else value


_DATA = (".jsonl", ".json", ".csv", ".parquet")  # endings that no name on a hub has: the error then names the place


class _DataFile:
    """Marks a param that holds a `DataPath`."""


DataPath = Annotated[str, AfterValidator(_from_graph_file), _DataFile]
"""A file or folder of data, or a name that is none (of a hub). The file's place is not part of what a game is."""


def without_folders(fields: dict[str, FieldInfo], params: dict[str, Any]) -> dict[str, Any]:
    """Params in which data files are named without the folders that they lie in on this machine."""
    local = {name for name, field in fields.items() if _DataFile in field.metadata}
    return {
        name: PurePath(value).name if name in local and PurePath(value).is_absolute() else value
        for name, value in params.items()
    }
