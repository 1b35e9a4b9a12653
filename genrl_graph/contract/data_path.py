"""Params that name data files; relative paths start at the graph file, or in Python at the working folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationInfo
from pydantic.fields import FieldInfo


def _from_graph_file(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a local file or folder, or the value itself if it may be a name on a hub."""
    if not value:
        raise ValueError("is empty; name a file, a folder or a data set or model on a hub")
    if "://" in value:
        raise ValueError("is a URL, which is not followed; download what it leads to and name the file or folder")
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    folder = (info.context or {}).get("folder") or Path.cwd()
    beside = (folder / path).resolve()
    return str(beside) if beside.exists() or _is_file(path) else value


def _is_file(path: Path) -> bool:
    """Return whether a path cannot be a name on a hub; errors about a missing file then show its full path."""
    # a GGUF file on a hub is named owner/repository/file
    return path.suffix in _DATA or (path.suffix == ".gguf" and len(path.parts) < 3)


_DATA = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Portable:
    """Annotation of a param that names data files, also nested ones; `form` removes their folders from its value."""

    form: Callable[[Any], Any]


def _without_folder(value: str) -> str:
    return PurePath(value).name if PurePath(value).is_absolute() else value


_IS_PATH = Portable(_without_folder)

DataPath = Annotated[str, AfterValidator(_from_graph_file), _IS_PATH]
"""A local data file or folder, or a name on a hub. The folder of a file is not part of a graph's identity."""


def local_paths(params: BaseModel) -> list[Path]:
    """Return the existing local files and folders that `DataPath` params name; names on a hub are skipped."""
    names = [name for name, field in type(params).model_fields.items() if _IS_PATH in field.metadata]
    values = [getattr(params, name) for name in names]
    return [path for value in values if value is not None and (path := Path(value)).exists()]


def without_folders(fields: dict[str, FieldInfo], params: dict[str, Any]) -> dict[str, Any]:
    """Return params in which data files are named without their local folders."""
    forms = {name: mark.form for name, field in fields.items() for mark in field.metadata if isinstance(mark, Portable)}
    return {
        name: forms[name](value) if name in forms and value is not None else value for name, value in params.items()
    }
