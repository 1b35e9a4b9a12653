"""Params that name files of data: relative ones are relative to the graph file, in Python to the working folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationInfo
from pydantic.fields import FieldInfo


def _from_graph_file(value: str, info: ValidationInfo) -> str:
    if not value:
        raise ValueError("is empty; name a file, a folder or what a hub has")
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    folder = (info.context or {}).get("folder") or Path.cwd()
    beside = (folder / path).resolve()
    return str(beside) if beside.exists() or _is_file(path) else value


def _is_file(path: Path) -> bool:
    """Whether this can be no name on a hub: the error then names the place."""
    return path.suffix in _DATA or (path.suffix == ".gguf" and len(path.parts) < 3)  # a hub's: owner/repository/file


_DATA = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Portable:
    """Marks a param that names data files, at whatever depth; `form` gives its value without their folders."""

    form: Callable[[Any], Any]


def _without_folder(value: str) -> str:
    return PurePath(value).name if PurePath(value).is_absolute() else value


_IS_PATH = Portable(_without_folder)

DataPath = Annotated[str, AfterValidator(_from_graph_file), _IS_PATH]
"""A file or folder of data, or a name that is none (of a hub). The file's place is not part of what a game is."""


def local_paths(params: BaseModel) -> list[Path]:
    """Return the files and folders on this machine that `DataPath` params name; names of a hub are none."""
    marked = [name for name, field in type(params).model_fields.items() if _IS_PATH in field.metadata]
    values = [getattr(params, name) for name in marked]
    return [path for value in values if value is not None and (path := Path(value)).exists()]


def without_folders(fields: dict[str, FieldInfo], params: dict[str, Any]) -> dict[str, Any]:
    """Params in which data files are named without the folders that they lie in on this machine."""
    forms = {name: mark.form for name, field in fields.items() for mark in field.metadata if isinstance(mark, Portable)}
    return {
        name: forms[name](value) if name in forms and value is not None else value for name, value in params.items()
    }
