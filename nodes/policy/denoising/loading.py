"""Load the parts of a pipeline that diffusers wrote (imports torch): safetensors only, no code of the folder is run."""

from pathlib import Path
from typing import Any

import torch

from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.denoising.parts import PipelineParts, require_diffusers


def load_parts(model: str, *, revision: str | None) -> PipelineParts:
    """Return the parts of a pipeline from a folder or the hub.

    Raises `DataError` if a part is missing, cannot be read, or is none of those of Stable Diffusion.
    """
    require_diffusers()
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DDIMScheduler,
        FlowMatchEulerDiscreteScheduler,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    if Path(model).is_dir() and not (Path(model) / "model_index.json").is_file():
        raise DataError(f"{model}: no pipeline of diffusers; it has no model_index.json")
    decoders = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}
    decoder = _class_of(model, "vae", revision)
    if decoder not in decoders:
        raise DataError(f"{model}: its vae is a {decoder}; there are {', '.join(decoders)}")
    flows = _class_of(model, "scheduler", revision) == FlowMatchEulerDiscreteScheduler.__name__

    def part(cls: Any, name: str, **options: Any) -> Any:
        try:
            return cls.from_pretrained(model, subfolder=name, revision=revision, **options)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise DataError(f"{model}: no {cls.__name__} in {name}: {line_of(error)}") from error

    weights = {"use_safetensors": True, "torch_dtype": torch.float32}
    with without_progress():
        return PipelineParts(
            unet=part(UNet2DConditionModel, "unet", **weights),
            vae=part(decoders[decoder], "vae", **weights),
            text_encoder=part(CLIPTextModel, "text_encoder", **weights),
            tokenizer=part(CLIPTokenizer, "tokenizer"),
            scheduler=part(FlowMatchEulerDiscreteScheduler if flows else DDIMScheduler, "scheduler"),
        )


def _class_of(model: str, part: str, revision: str | None) -> str:
    """Return the class that the configuration of a part names."""
    from diffusers import AutoencoderKL, DDIMScheduler

    reader: Any = DDIMScheduler if part == "scheduler" else AutoencoderKL  # they read files of different names
    try:
        config = reader.load_config(model, subfolder=part, revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(f"{model}: no {part}: {line_of(error)}") from error
    return str(config.get("_class_name"))
