"""Check a model folder before anything of it is loaded: its kind, its weight files, and the sizes that it claims."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from genrl_graph.errors import DataError

CONFIG, ADAPTER, WEIGHTS, INDEX = (
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
MOST_JSON = 1 << 26
"""Most bytes of a JSON file of a model folder."""
MOST_POSITIONS = 1 << 27
"""Most positions that a configuration may claim; they take memory only in models that store a table of them."""
_POSITIONS = re.compile(r"max|position|window|length|chunk|seq|ctx|theta|base|seed|(^|_)ids?($|_)|token")
_COUNTS = re.compile(r"layer|expert|head|block|group|depth|label|^num_|^n_")


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Sizes from the headers of safetensors files: number of tensors, of elements, and the largest dimension."""

    tensors: int
    elements: int
    largest: int


def check_folder(folder: Path, *, where: str) -> StoredWeights:
    """Return the sizes of the weights in a folder; raises `DataError` if it is no model that can be trained from."""
    if (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER, where).get("base_model_name_or_path")
        raise DataError(
            f"{where}: holds an adapter of {base!r}, not a model; merge it into its base and name the result"
        )
    if not (folder / CONFIG).is_file():
        raise DataError(f"{where}: has no {CONFIG}, so it is no model folder of transformers")
    config = read_json(folder / CONFIG, where)
    if quantised := config.get("quantization_config") or config.get("compression_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise DataError(f"{where}: its weights are quantised ({method}); name the model with its full weights")
    if "transformers_weights" in config:
        raise DataError(f"{where}: its {CONFIG} names a weight file in transformers_weights; wants {WEIGHTS}")
    return _check_claims(config, _weight_files(folder, where), where)


def check_part(folder: Path, *, where: str) -> StoredWeights:
    """Return the sizes of a pipeline's part; raises `DataError` if it claims more than its safetensors can hold."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise DataError(f"{where}: has no safetensors; pickled files are not read")
    return _check_claims(read_json(folder / CONFIG, where), weights, where)


def _check_claims(config: dict[str, Any], weights: list[Path], where: str) -> StoredWeights:
    stored = _stored(weights, where)
    for name, value in _integers(config):
        _check_claim(name, value, stored, where)
    return stored


def read_json(file: Path, where: str) -> dict[str, Any]:
    """Return the JSON object in a file of a stranger; raises `DataError` if there is none, or it is too large."""
    try:
        size = file.stat().st_size
        content = json.loads(file.read_text(encoding="utf-8")) if size <= MOST_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot read {file.name}: {type(error).__name__}") from error
    if not isinstance(content, dict):
        reason = "is no JSON object" if size <= MOST_JSON else f"has {size} bytes; at most {MOST_JSON} are read"
        raise DataError(f"{where}: {file.name} {reason}")
    return content


def _weight_files(folder: Path, where: str) -> list[Path]:
    """Return the safetensors files of a folder; those of an index must be plain names in the same folder."""
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (folder / INDEX).exists():
        listed = read_json(folder / INDEX, where).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise DataError(f"{where}: {INDEX} has no weight_map")
        names = sorted({str(name) for name in listed.values()})
    else:
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        reason = f"only {pickled[0]}, and pickled files are not read; convert it to" if pickled else "no"
        raise DataError(f"{where}: has {reason} {WEIGHTS}")
    for name in names:
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise DataError(f"{where}: {INDEX} names {name!r}; wants plain names of .safetensors files in this folder")
        if not (folder / name).is_file():
            raise DataError(f"{where}: {name} is missing, which {INDEX} names; download it again")
    return [folder / name for name in names]


def _stored(files: list[Path], where: str) -> StoredWeights:
    tensors = elements = largest = 0
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    shape = opened.get_slice(name).get_shape()
                    size = 1
                    for dimension in shape:
                        size *= dimension
                    tensors, elements, largest = tensors + 1, elements + size, max(largest, *shape, 0)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{where}: cannot read {file.name}: {str(error).strip() or type(error).__name__}"
            ) from error
    return StoredWeights(tensors, elements, largest)


def _integers(values: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield all integers of a configuration with the name that they stand under."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _integers(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _integers(value, name)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield name, values


def _check_claim(name: str, value: int, stored: StoredWeights, where: str) -> None:
    """Raise `DataError` if a number of a configuration cannot be that of a model of the stored size."""
    if _POSITIONS.search(name):
        most, why = MOST_POSITIONS, "the most that is allowed"
    elif _COUNTS.search(name):
        most = max(1024, stored.tensors, stored.largest)
        why = f"its safetensors hold {stored.tensors} tensors with dimensions up to {stored.largest}"
    else:
        most, why = max(1 << 20, stored.elements), f"its safetensors hold {stored.elements} numbers"
    if value > most and not re.search("theta|seed", name):
        raise DataError(
            f"{where}: {CONFIG} says {name}: {value}, but {why}, {most}"
            if most == MOST_POSITIONS
            else f"{where}: {CONFIG} says {name}: {value}, but {why}"
        )
