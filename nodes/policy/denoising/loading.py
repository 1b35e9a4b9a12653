"""Load the parts of a pipeline that diffusers wrote (imports torch): safetensors only, no code of the folder is run."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from genrl_graph.edge_types.png import MOST_SIDE
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.denoising.families import FAMILIES
from genrl_graph.nodes.policy.denoising.parts import PipelineParts, require_diffusers
from genrl_graph.nodes.policy.loading.checked_folder import check_part, read_json
from genrl_graph.nodes.policy.loading.checked_model import check_size, check_weights

INDEX = "model_index.json"


def load_parts(model: str, *, revision: str | None) -> PipelineParts:
    """Return the parts of a pipeline from a folder or the hub.

    Raises `DataError` if the pipeline is of no known family, or a part is missing, cannot be read, claims more than its
    weights hold, lacks weights or has some that are not finite.
    """
    require_diffusers()
    folder = _folder_of(model, revision)
    index = read_json(folder / INDEX, model)
    kind = str(index.get("_class_name"))
    if kind not in FAMILIES:
        raise DataError(f"{model}: a {kind}, which cannot be trained; there are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    with without_progress():
        loaded = {part: _part(folder, part, _class_of(family, part, index, model), model) for part in family.classes}
        parts = family(scheduler=_part(folder, "scheduler", _scheduler_of(index), model), **loaded)
    _, *sides = parts.latent_shape
    if not 1 <= min(sides) <= max(sides) <= MOST_SIDE:
        size = parts.denoiser.config.sample_size
        raise DataError(f"{model}: {family.trained}: sample_size {size}; at most {MOST_SIDE} are painted")
    return parts


def _folder_of(model: str, revision: str | None) -> Path:
    """Return the local folder of a pipeline, downloaded from the hub where it is not in the local cache."""
    from diffusers import DiffusionPipeline

    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(DiffusionPipeline.download(model, revision=revision, use_safetensors=True))
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{model}: no such folder, and the hub does not give it: {line_of(error)}") from error
    if not (folder / INDEX).is_file():
        raise DataError(f"{model}: no pipeline of diffusers; it has no {INDEX}")
    return folder


def _class_of(family: type[PipelineParts], part: str, index: Mapping[str, Any], model: str) -> Any:
    """Return the class of a part; raises `DataError` for one that the family does not have."""
    import diffusers
    import transformers

    named, known = _named(index, part), family.classes[part]
    if named not in known:
        what = "it has no" if named is None else f"a {named} is its"
        raise DataError(f"{model}: {what} {part}; a {family.pipeline_class} has {' or '.join(known)}")
    return getattr(diffusers, named, None) or getattr(transformers, named)


def _scheduler_of(index: Mapping[str, Any]) -> Any:
    """Return a scheduler of the same noise schedule: that of flow matching, or that of diffusion."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    flows = _named(index, "scheduler") == FlowMatchEulerDiscreteScheduler.__name__
    return FlowMatchEulerDiscreteScheduler if flows else DDIMScheduler


def _named(index: Mapping[str, Any], part: str) -> str | None:
    """Return the class that the index of a pipeline names for a part."""
    match index.get(part):
        case [_, str(name)]:
            return name
    return None


def _part(folder: Path, part: str, cls: Any, model: str) -> Any:
    """Return a part by its class; the weights of a network are checked before and after they are read."""
    try:
        if not issubclass(cls, torch.nn.Module):
            return cls.from_pretrained(folder, subfolder=part)
        where = f"{model}: {part}"
        check_size(_builder(cls, folder / part), check_part(folder / part, where=where), where=where)
        options = {"use_safetensors": True, "torch_dtype": torch.float32, "output_loading_info": True}
        loaded, report = cls.from_pretrained(folder, subfolder=part, **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"{model}: no {cls.__name__} in {part}: {line_of(error)}") from error
    check_weights(loaded, report, where=where, kind=f"a {cls.__name__}")
    return loaded


def _builder(cls: Any, folder: Path) -> Any:
    """Return a function that makes the network that the configuration in a folder describes."""
    if hasattr(cls, "load_config"):  # one of diffusers
        return partial(cls.from_config, cls.load_config(folder))
    return partial(cls, cls.config_class.from_pretrained(folder))
