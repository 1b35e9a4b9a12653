"""`policy.diffusion`: its params, and pipelines that diffusers wrote and reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph.errors import DataError, ParamError, StoreError
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


def adapted(**params: Any) -> Any:
    return Diffusion(tiny=SIZES, lora={"r": 2} | params, device="cpu").init("policy", seed=0)


def test_an_adapter_alone_is_trained_saved_and_shared_by_no_other_policy(tmp_path: Path) -> None:
    policy: Any = adapted()
    plain: Any = Diffusion(tiny=SIZES, device="cpu").init("policy", seed=0)
    how, rngs = Denoising("ddim", 2), [stream("rng")]
    (own,), (bare,) = (each.paint(["red"], how, rngs=[stream("rng")], batch_size=1) for each in (policy, plain))
    assert (own.latents == bare.latents).all()  # B is 0
    fork, base = policy.fork("fork"), {id(p) for p in policy.model.parameters() if not p.requires_grad}
    assert {id(p) for p in fork.model.parameters() if not p.requires_grad} == base
    latents = torch.from_numpy(own.latents[None, :2])
    policy.backward(-policy.step_logprobs(["red"], how, latents, 0).sum())
    policy.step(learning_rate=1e-1, max_grad_norm=1.0)
    (moved,) = policy.paint(["red"], how, rngs=rngs, batch_size=1)
    assert np.abs(moved.latents - own.latents).max() > 1e-4
    assert fork.digest() == adapted().digest() != policy.digest()
    policy.save(tmp_path)
    assert all(".lora_" in name for name in policy.trained_values())
    assert (tmp_path / "model.safetensors").stat().st_size < sum(p.nbytes for p in plain.model.parameters()) / 4
    again = adapted()
    again.load(tmp_path)
    assert again.digest() == policy.digest() and again.version == 1
    with pytest.raises(StoreError, match="was it another base or alpha"):
        adapted(alpha=1.0).load(tmp_path)


def test_an_adapter_goes_on_linear_modules() -> None:
    with pytest.raises(ParamError, match=r"lora.target_modules: .*conv_in.* is no linear module"):
        adapted(target_modules=["conv_in"])
    with pytest.raises(ParamError, match=r"lora.target_modules: Target modules .*nowhere"):
        adapted(target_modules=["nowhere"])


def test_an_exported_adapter_is_merged(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    policy = adapted()
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".lora_B." in name:
                weight.fill_(0.3)
    policy.export(tmp_path)
    (own,) = policy.paint(["red"], Denoising("ddim", 2, eta=0.0), rngs=[stream("rng")], batch_size=1)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path)
    plain.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np", "eta": 0.0}
    theirs = plain("red", latents=torch.from_numpy(own.latents), height=8, width=8, **options).images[0]
    assert np.abs(theirs * 255 - own.image).max() <= 1
    assert any(".lora_" in name for name in policy.trained_values())  # the policy itself keeps its adapter


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
