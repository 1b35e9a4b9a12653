"""Load the parts of a pipeline that diffusers wrote (imports torch): safetensors only, no code of the folder is run."""

from pathlib import Path
from typing import Any

import torch

from genrl_graph.edge_types.png import MOST_SIDE
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.denoising.parts import PipelineParts, latent_size, require_diffusers
from genrl_graph.nodes.policy.loading.checked_folder import check_part
from genrl_graph.nodes.policy.loading.checked_model import check_weights


def load_parts(model: str, *, revision: str | None) -> PipelineParts:
    """Return the parts of a pipeline from a folder or the hub.

    Raises `DataError` if a part is missing, cannot be read, claims more than its weights hold, lacks weights or has
    some that are not finite, or is none of those of Stable Diffusion.
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

    folder = _folder_of(model, revision)
    decoders = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}
    decoder = _class_of(folder, "vae", model)
    if decoder not in decoders:
        raise DataError(f"{model}: its vae is a {decoder}; there are {', '.join(decoders)}")
    flows = _class_of(folder, "scheduler", model) == FlowMatchEulerDiscreteScheduler.__name__

    def part(cls: Any, name: str, **options: Any) -> Any:
        try:
            return cls.from_pretrained(folder, subfolder=name, **options)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise DataError(f"{model}: no {cls.__name__} in {name}: {line_of(error)}") from error

    def network(cls: Any, name: str) -> Any:
        where = f"{model}: {name}"
        check_part(folder / name, where=where)
        options = {"use_safetensors": True, "torch_dtype": torch.float32, "output_loading_info": True}
        loaded, report = part(cls, name, **options)
        check_weights(loaded, report, where=where, kind=f"a {cls.__name__}")
        return loaded

    with without_progress():
        parts = PipelineParts(
            unet=network(UNet2DConditionModel, "unet"),
            vae=network(decoders[decoder], "vae"),
            text_encoder=network(CLIPTextModel, "text_encoder"),
            tokenizer=part(CLIPTokenizer, "tokenizer"),
            scheduler=part(FlowMatchEulerDiscreteScheduler if flows else DDIMScheduler, "scheduler"),
        )
    if not 1 <= max(latent_size(parts.unet)) <= MOST_SIDE:
        raise DataError(f"{model}: unet: sample_size {parts.unet.config.sample_size}; at most {MOST_SIDE} are painted")
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
    if not (folder / "model_index.json").is_file():
        raise DataError(f"{model}: no pipeline of diffusers; it has no model_index.json")
    return folder


def _class_of(folder: Path, part: str, model: str) -> str:
    """Return the class that the configuration of a part names."""
    from diffusers import AutoencoderKL, DDIMScheduler

    reader: Any = DDIMScheduler if part == "scheduler" else AutoencoderKL  # they read files of different names
    try:
        config = reader.load_config(folder, subfolder=part)
    except (OSError, ValueError) as error:
        raise DataError(f"{model}: no {part}: {line_of(error)}") from error
    return str(config.get("_class_name"))
