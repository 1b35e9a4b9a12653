"""The folder of a sweep: the cells that it has, and how each ended; every cell is a run folder in it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, make_folder, write_all
from genrl_graph.store.run_path import RunPath, check_name, refused_by_name
from genrl_graph.store.strict_json import parse_json

SWEEP = "sweep.json"
ENDS = "cells.jsonl"
LOGS = "logs"
FORMAT = 1
MAX_SWEEP_BYTES = 64 * 2**20

R = TypeVar("R", bound="_Record")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Cell(_Record):
    """One run of a sweep: the name of its folder, its setting, its seed, its overrides, and the game that they give."""

    name: str
    setting: str
    seed: int = Field(ge=0)
    overrides: tuple[str, ...] = ()
    game: str = ""


class Goal(_Record):
    """A metric of which a search wants the most or the least."""

    metric: str
    direction: Literal["max", "min"] = "max"

    def __str__(self) -> str:
        return f"{self.direction}:{self.metric}"


class SweepRecord(_Record):
    """A sweep as it was started: its graph as named, its axes, the code that plays it, and its cells.

    `jobs` cells are played side by side with `threads` each, None where the user set OMP_NUM_THREADS. `trials` is how
    many settings a search draws; `rungs` are the rounds after which settings are stopped.
    """

    version: int = FORMAT
    graph: str
    axes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    jobs: int | None = None
    threads: int | None = None
    code: dict[str, str] = {}
    goal: Goal | None = None
    trials: int | None = None
    rungs: tuple[int, ...] = ()
    cells: tuple[Cell, ...] = ()


class CellEnd(_Record):
    """The end of a cell's process: its exit code, its rounds, its seconds, and the reason where it failed.

    `stopped` marks cells that the search stopped after these rounds; they have no process of their own.
    """

    cell: str
    rounds: int
    exit_code: int = 0
    seconds: float = 0.0
    reason: str = ""
    stopped: bool = False


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds a sweep."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> SweepRecord:
    """Read the record of a sweep; raises `StoreError` where there is none that this version writes."""
    path = RunPath(folder) / SWEEP
    try:
        values = parse_json(path.read(MAX_SWEEP_BYTES), path)
    except OSError as error:
        raise failed(path.path, "read", error) from error
    if isinstance(values, dict) and isinstance(version := values.get("version"), int) and version > FORMAT:
        raise StoreError(f"{path}: has format {version}, newer than {FORMAT}; upgrade genrl-graph")
    record = _checked(SweepRecord, values, str(path))
    for cell in record.cells:
        check_name(cell.name, path)
    return record


def write_sweep(folder: Path, record: SweepRecord) -> None:
    """Write the record of a sweep, which makes the folder one."""
    with refused_by_name(RunPath(folder) / SWEEP, "write"):
        make_folder(folder)
        root = RunPath(folder)
        (root / SWEEP).write((json.dumps(record.model_dump(), indent=1) + "\n").encode())
        root.sync()


def add_end(folder: Path, end: CellEnd) -> None:
    """Append how a cell ended."""
    path = RunPath(folder) / ENDS
    with refused_by_name(path, "write"):
        handle = path.open(os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            write_all(handle, b"\n" * torn + json.dumps(end.model_dump()).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)


def read_ends(folder: Path) -> Mapping[str, CellEnd]:
    """Return how each cell ended last, by its name; a line that a crash tore is left out."""
    return {end.cell: end for end in _ends(RunPath(folder) / ENDS)}


def sweep_of(run: Path) -> str | None:
    """Return the name of the sweep that a run folder is a cell of, None where it is of none."""
    parent = run.absolute().parent
    if not is_sweep(parent) or run.name not in {cell.name for cell in read_sweep(parent).cells}:
        return None
    return parent.name


def _ends(path: RunPath) -> Iterator[CellEnd]:
    try:
        lines = path.read(MAX_SWEEP_BYTES).split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(path.path, "read", error) from error
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"}"):
            yield _checked(CellEnd, parse_json(line, f"{path}:{number}"), f"{path}:{number}")


def _checked(cls: type[R], values: Any, where: str) -> R:
    try:
        return cls.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "the whole"
        raise StoreError(f"{where}: {at}: {first['msg']}; restore it from a copy") from error
