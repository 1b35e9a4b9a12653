"""The graphs that come with the package, found by name: `multistage_math/gsm8k`, with or without `.yaml`."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from genrl_graph.errors import GraphError
from genrl_graph.messages import closest

FOLDER = Path(__file__).parents[1].joinpath("graphs").resolve()


def graph_file(path: Path) -> Path:
    """Return the path itself if it is on disk, else the file of the shipped graph of that name.

    Absolute paths and paths with `..` are returned as they are. Raises `GraphError` for any other path that is
    neither on disk nor a shipped graph.
    """
    if path.is_absolute() or ".." in path.parts or os.path.lexists(path):
        return path
    graphs = shipped_graphs()
    name = path.as_posix().removesuffix(".yaml")
    if name in graphs:
        return graphs[name]
    suggestion = _suggestion(path, name, graphs)
    hint = f" (did you mean {suggestion!r}?)" if suggestion else ""
    raise GraphError(
        f"{path}: no such file and no shipped graph of this name{hint}; looked in {Path.cwd() / path.parent} "
        f"and {FOLDER}; `genrl-graph graphs` lists what is shipped"
    )


def shipped_graphs() -> dict[str, Path]:
    """Return every shipped graph file by its name; links that point outside the folder are left out."""
    files = [file for file in sorted(FOLDER.rglob("*.yaml")) if file.resolve().is_relative_to(FOLDER)]
    return {file.relative_to(FOLDER).as_posix().removesuffix(".yaml"): file for file in files}


def list_graphs() -> str:
    """Return one line per shipped graph: its name and the first sentence of its comment."""
    graphs = shipped_graphs()
    width = max(map(len, graphs))
    return "".join(f"{name:<{width}}  {first_comment(file)}\n" for name, file in graphs.items())


def first_comment(path: Path) -> str:
    """Return the first sentence of the comment that a graph file starts with."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server:" not in line:
            words.append(line.removeprefix("#").strip())
    sentence, stop, _ = " ".join(words).partition(". ")
    return sentence + stop.strip()


def _suggestion(path: Path, name: str, graphs: Iterable[str]) -> str | None:
    """Return the shipped graph with the same last part, else a close name beside the path, else a close shipped one."""
    last = PurePath(name).name
    same = next((known for known in graphs if PurePath(known).name == last), None)
    beside = closest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
    return same or (str(path.parent / beside) if beside else closest(name, graphs))
