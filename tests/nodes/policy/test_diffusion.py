"""`policy.diffusion`: its params, and pipelines that diffusers wrote and reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising
from genrl_graph.nodes.policy.diffusion import Diffusion
from genrl_graph.seeds import stream

SIZES: Any = {"height": 8, "width": 8, "channels": 8, "caption_characters": 6}


def test_sizes_are_those_of_a_random_pipeline() -> None:
    with pytest.raises(ParamError, match="tiny describes a random pipeline; leave it or model out"):
        Diffusion(model="some/pipeline", tiny=SIZES)
    with pytest.raises(ParamError, match="revision is of a model"):
        Diffusion(revision="main")


def test_a_folder_that_holds_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pipeline of diffusers; it has no model_index.json"):
        Diffusion(model=str(tmp_path), device="cpu").init("policy", seed=0)


@pytest.mark.long
def test_diffusers_reads_what_is_written_and_makes_equal_images(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    policy: Any = Diffusion(tiny=SIZES, device="cpu").init("policy", seed=0)
    policy.parts.save(tmp_path / "pipeline")
    loaded = Diffusion(model=str(tmp_path / "pipeline"), device="cpu").init("policy", seed=1)
    assert loaded.digest() == policy.digest()
    how = Denoising("ddim", 3, eta=0.0, guidance=2.0)
    (own,) = policy.paint(["red"], how, rngs=[stream("rng")], batch_size=1)
    (again,) = loaded.paint(["red"], how, rngs=[stream("rng")], batch_size=1)
    assert (own.image == again.image).all() and own.image.std() > 1
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np", "eta": 0.0}
    theirs = plain("red", latents=torch.from_numpy(own.latents[:1]), height=8, width=8, **options).images[0]
    assert np.abs(theirs * 255 - own.image).max() <= 1
