"""Digests of the local data that sources read: recorded with a run, and compared where it is resumed or replayed."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genrl_graph.contract.node import Source
from genrl_graph.dag.graph import Graph
from genrl_graph.store.durable import failed

CONTENT_LIMIT = 4 * 2**30
"""Data of more bytes is compared by the names and sizes of its files alone: reading it would delay every start."""


def data_digests(graph: Graph) -> dict[str, list[list[str]]]:
    """Return, by node, name and digest of each local file or folder that a source of the graph reads.

    A digest is `sha256:<hex>` of the content, or `sizes-sha256:<hex>` of names and sizes beyond `CONTENT_LIMIT`.
    """
    sources = {name: part.declared for name, part in graph.nodes.items() if isinstance(part.declared, Source)}
    named = {name: [[path.name, _digest(path)] for path in source.data_paths()] for name, source in sources.items()}
    return {name: digests for name, digests in named.items() if digests}


def changed_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each file whose digest differs between the versions that a run recorded and those of now."""
    current = now.get("data", {})
    for node, digests in then.get("data", {}).items():
        for (name, digest), (name_now, digest_now) in zip(digests, current.get(node, []), strict=False):
            if name == name_now and digest != digest_now:
                before, after = (text.partition(":")[2][:12] for text in (digest, digest_now))
                yield f"nodes.{node}: {name} has changed since the run began (sha256 {before} then, {after} now)"


def _digest(path: Path) -> str:
    try:
        if path.is_file():
            return _file_digest(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        sizes = [file.stat().st_size for file in files]
        read = _content if sum(sizes) <= CONTENT_LIMIT else _nothing
        total = hashlib.sha256()
        for file, size in zip(files, sizes, strict=True):
            total.update(f"{file.relative_to(path).as_posix()}\0{size}\0{read(file)}\n".encode())
        return f"{'sha256' if read is _content else 'sizes-sha256'}:{total.hexdigest()}"
    except OSError as error:
        raise failed(path, "read", error) from error


def _file_digest(file: Path) -> str:
    size = file.stat().st_size
    if size <= CONTENT_LIMIT:
        return f"sha256:{_content(file)}"
    return f"sizes-sha256:{hashlib.sha256(str(size).encode()).hexdigest()}"


def _content(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _nothing(file: Path) -> str:
    return ""
