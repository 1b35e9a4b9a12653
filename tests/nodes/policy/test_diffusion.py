"""`policy.diffusion`: its params, and pipelines that diffusers wrote and reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genrl_graph.errors import DataError, ParamError, StoreError
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising
from genrl_graph.nodes.policy.diffusion import Diffusion
from genrl_graph.seeds import stream

SIZES: Any = {"height": 8, "width": 8, "channels": 8, "caption_characters": 6}
TRANSFORMER: Any = SIZES | {"denoiser": "transformer", "noise": "flow"}
NETWORKS: list[tuple[Any, Denoising]] = [(SIZES, Denoising("ddim", 2)), (TRANSFORMER, Denoising("flow", 3))]


def test_sizes_are_those_of_a_random_pipeline() -> None:
    with pytest.raises(ParamError, match="tiny describes a random pipeline; leave it or model out"):
        Diffusion(model="some/pipeline", tiny=SIZES)
    with pytest.raises(ParamError, match="revision is of a model"):
        Diffusion(revision="main")
    with pytest.raises(ParamError, match="a transformer is trained by flow matching; set noise: flow"):
        Diffusion(tiny={**SIZES, "denoiser": "transformer"})
    with pytest.raises(ParamError, match="a transformer's images are square; 8 x 12 are not"):
        Diffusion(tiny={**TRANSFORMER, "width": 12})


def test_a_folder_that_holds_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pipeline of diffusers; it has no model_index.json"):
        Diffusion(model=str(tmp_path), device="cpu").init("policy", seed=0)


def adapted(sizes: Any = SIZES, **params: Any) -> Any:
    return Diffusion(tiny=sizes, lora={"r": 2} | params, device="cpu").init("policy", seed=0)


@pytest.mark.parametrize(("sizes", "how"), NETWORKS)
def test_an_adapter_alone_is_trained_saved_and_shared_by_no_other_policy(
    sizes: Any, how: Denoising, tmp_path: Path
) -> None:
    policy: Any = adapted(sizes)
    plain: Any = Diffusion(tiny=sizes, device="cpu").init("policy", seed=0)
    (own,), (bare,) = (each.paint(["red"], how, rngs=[stream("rng")], batch_size=1) for each in (policy, plain))
    assert (own.latents == bare.latents).all()  # B is 0
    fork, base = policy.fork("fork"), {id(p) for p in policy.model.parameters() if not p.requires_grad}
    assert {id(p) for p in fork.model.parameters() if not p.requires_grad} == base
    latents = torch.from_numpy(own.latents[None, :2])
    policy.backward(-policy.step_logprobs(["red"], how, latents, 0).sum())
    policy.step(learning_rate=1e-1, max_grad_norm=1.0)
    (moved,) = policy.paint(["red"], how, rngs=[stream("rng")], batch_size=1)
    assert np.abs(moved.latents - own.latents).max() > 1e-4
    assert fork.digest() == adapted(sizes).digest() != policy.digest()
    policy.save(tmp_path)
    assert all(".lora_" in name for name in policy.trained_values())
    assert (tmp_path / "model.safetensors").stat().st_size < sum(p.nbytes for p in plain.model.parameters()) / 4
    again = adapted(sizes)
    again.load(tmp_path)
    assert again.digest() == policy.digest() and again.version == 1
    with pytest.raises(StoreError, match="was it another base or alpha"):
        adapted(sizes, alpha=1.0).load(tmp_path)


def test_an_adapter_goes_on_linear_modules() -> None:
    with pytest.raises(ParamError, match=r"lora.target_modules: .*conv_in.* is no linear module"):
        adapted(target_modules=["conv_in"])
    with pytest.raises(ParamError, match=r"lora.target_modules: Target modules .*nowhere"):
        adapted(target_modules=["nowhere"])


@pytest.mark.parametrize(("sizes", "how"), NETWORKS)
def test_an_exported_adapter_is_merged(sizes: Any, how: Denoising, tmp_path: Path) -> None:
    policy = adapted(sizes)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".lora_B." in name:
                weight.fill_(0.3)
    policy.export(tmp_path)
    (own,) = policy.paint(["red"], replace(how, eta=0.0), rngs=[stream("rng")], batch_size=1)
    (bare,) = (
        Diffusion(tiny=sizes, device="cpu")
        .init("policy", seed=0)
        .paint(["red"], replace(how, eta=0.0), rngs=[stream("rng")], batch_size=1)
    )
    assert np.abs(own.image.astype(int) - bare.image).max() > 3
    assert np.abs(by_diffusers(tmp_path, own.latents, how.steps, guidance=1.0) - own.image).max() <= 1
    assert any(".lora_" in name for name in policy.trained_values())  # the policy itself keeps its adapter


def by_diffusers(folder: Path, latents: Any, steps: int, *, guidance: float) -> Any:
    """Return the image [height, width, RGB], from 0 to 255, that plain diffusers makes of these latents."""
    from diffusers import DiffusionPipeline

    plain = DiffusionPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
    return plain("red", latents=torch.from_numpy(latents[:1]), height=8, width=8, **options).images[0] * 255


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline that diffusers wrote."""
    folder = tmp_path_factory.mktemp("pipeline")
    policy: Any = Diffusion(tiny=SIZES, device="cpu").init("policy", seed=0)
    policy.parts.save(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline whose denoiser is a transformer."""
    folder = tmp_path_factory.mktemp("transformer")
    policy: Any = Diffusion(tiny=TRANSFORMER, device="cpu").init("policy", seed=0)
    policy.parts.save(folder)
    return folder


@pytest.mark.parametrize(
    ("part", "named", "message"),
    [
        (
            "_class_name",
            "FluxPipeline",
            "a FluxPipeline, which cannot be trained; there are StableDiffusionPipeline, St",
        ),
        ("_class_name", ["mine", "Flux"], "which cannot be trained; there are"),
        ("unet", ["mine", "Flux"], "a Flux is its unet; a StableDiffusionPipeline has UNet2DConditionModel"),
        ("text_encoder", [None, None], "it has no text_encoder; a StableDiffusionPipeline has CLIPTextModel"),
    ],
)
def test_a_pipeline_of_another_kind_is_named(
    pipeline: Path, tmp_path: Path, part: str, named: object, message: str
) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, part: named}))
    with pytest.raises(DataError, match=message):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)


@pytest.mark.parametrize(
    ("part", "setting", "value", "message"),
    [
        ("transformer", "pos_embed_max_size", 1 << 14, "transformer: its configuration describes .* numbers beside"),
        ("transformer", "num_layers", 1000, "transformer: its configuration describes .* weights, its safetensors"),
        ("text_encoder_3", "num_layers", 4000, "text_encoder_3: config.json says num_layers: 4000, but"),
    ],
)
def test_a_transformer_that_claims_more_than_it_holds_is_refused(
    transformers_pipeline: Path, tmp_path: Path, part: str, setting: str, value: object, message: str
) -> None:
    folder = Path(shutil.copytree(transformers_pipeline, tmp_path / "copy"))
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(DataError, match=message):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)


@pytest.mark.parametrize(
    ("part", "setting", "value", "message"),
    [
        ("unet", "block_out_channels", [4096, 4096], "unet: config.json says block_out_channels: 4096, but"),
        ("unet", "cross_attention_dim", 1 << 21, "unet: config.json says cross_attention_dim: 2097152, but"),
        ("unet", "layers_per_block", 4000, "unet: config.json says layers_per_block: 4000, but"),
        ("unet", "sample_size", 1 << 20, "unet: sample_size 1048576; at most 4096 are painted"),
        ("text_encoder", "num_hidden_layers", 3000, "text_encoder: config.json says num_hidden_layers: 3000, but"),
    ],
)
def test_a_part_that_claims_more_than_it_holds_is_refused(
    pipeline: Path, tmp_path: Path, part: str, setting: str, value: object, message: str
) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(DataError, match=message):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_missing_or_not_finite_are_named(pipeline: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = min(weights)
    save_file({**weights, name: weights[name] * float("nan")}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"{part}: the weight .* is not finite; its file is damaged"):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)
    save_file({other: weights[other] for other in weights if other != name}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"{part}: lacks weights that the model has: .*{name}; is it a .*, and whole"):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(DataError, match=f"{part}: has no safetensors; pickled files are not read"):
        Diffusion(model=str(folder), device="cpu").init("policy", seed=0)


@pytest.mark.long
@pytest.mark.parametrize(("sizes", "how"), NETWORKS)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_diffusers_reads_what_is_written_and_makes_equal_images(
    sizes: Any, how: Denoising, guidance: float, tmp_path: Path
) -> None:
    policy: Any = Diffusion(tiny=sizes, device="cpu").init("policy", seed=0)
    policy.parts.save(tmp_path / "pipeline")
    loaded = Diffusion(model=str(tmp_path / "pipeline"), device="cpu").init("policy", seed=1)
    assert loaded.digest() == policy.digest()
    plain = replace(how, eta=0.0, guidance=guidance)
    (own,) = policy.paint(["red"], plain, rngs=[stream("rng")], batch_size=1)
    (again,) = loaded.paint(["red"], plain, rngs=[stream("rng")], batch_size=1)
    assert (own.image == again.image).all() and own.image.std() > 1
    theirs = by_diffusers(tmp_path / "pipeline", own.latents, how.steps, guidance=guidance)
    assert np.abs(theirs - own.image).max() <= 1
