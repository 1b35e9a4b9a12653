"""Load the parts of a pipeline that diffusers wrote (imports torch): safetensors only, no code of the folder is run."""

from collections.abc import Collection
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
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if Path(model).is_dir() and not (Path(model) / "model_index.json").is_file():
        raise DataError(f"{model}: no pipeline of diffusers; it has no model_index.json")
    decoders = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}

    def part(cls: Any, name: str, **options: Any) -> Any:
        try:
            return cls.from_pretrained(model, subfolder=name, revision=revision, **options)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise DataError(f"{model}: no {cls.__name__} in {name}: {line_of(error)}") from error

    weights = {"use_safetensors": True, "torch_dtype": torch.float32}
    with without_progress():
        return PipelineParts(
            unet=part(UNet2DConditionModel, "unet", **weights),
            vae=part(decoders[_class_of(model, "vae", revision, decoders)], "vae", **weights),
            text_encoder=part(CLIPTextModel, "text_encoder", **weights),
            tokenizer=part(CLIPTokenizer, "tokenizer"),
            scheduler=part(DDIMScheduler, "scheduler"),
        )


def _class_of(model: str, part: str, revision: str | None, known: Collection[str]) -> str:
    """Return the class that the configuration of a part names; raises `DataError` for one that is not known."""
    from diffusers import AutoencoderKL

    try:
        config = AutoencoderKL.load_config(model, subfolder=part, revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(f"{model}: no {part}: {line_of(error)}") from error
    name = str(config.get("_class_name"))
    if name not in known:
        raise DataError(f"{model}: its {part} is a {name}; there are {', '.join(known)}")
    return name
