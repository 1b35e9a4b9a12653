"""The shipped game of images: stored, cut and resumed, replayed with an edited reward, checked and exchanged."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crash import Left, killed
from diffusers import StableDiffusionPipeline
from PIL import Image
from ranks import CUT, digests_of, play_ranks, rows_of

import genrl_graph
from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.images import Images
from genrl_graph.inspection.contact_sheet import GAP, LABEL, TILE
from genrl_graph.nodes.policy.denoising import tiny_pipeline
from genrl_graph.nodes.policy.denoising.pipeline_policy import PipelinePolicy
from genrl_graph.nodes.policy.loading.saved import saved_policy

SMALL = [
    "carry.policy.params.tiny={height: 8, width: 8, channels: 8, caption_characters: 4, noise: diffusion}",
    "carry.policy.params.device=cpu",
    "nodes.paint.params={num_generations: 2, scheduler: ddim, steps: 2, eta: 1.0}",
    "run.checkpoint_every=2",
]


def small(graphs: Path, *more: str) -> Graph:
    return load(graphs / "text_to_image.yaml", [*SMALL, *more])


def test_it_plays_and_replays_with_another_reward_without_a_model(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genrl_graph.play(small(graphs), out=tmp_path / "run", rounds=3, quiet=True)
    assert run_command(["store", "verify", str(tmp_path / "run")]) == 0
    stored = genrl_graph.open_run(tmp_path / "run")
    images = stored.frame("paint", 2)
    assert isinstance(images, Images) and len(images) == 8 and images.pixels(0).shape == (8, 8, 3)
    assert [len(latents) for latents in images.latents()] == [3] * 8

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a replay of rewards loads no model")

    monkeypatch.setattr(tiny_pipeline, "tiny_parts", never)
    edited = small(graphs, "nodes.score.params.function=brightness")
    genrl_graph.replay(tmp_path / "run", edited, out=tmp_path / "replay")
    bright = genrl_graph.open_run(tmp_path / "replay").frame("score", 2)
    expected = [images.pixels(row).mean() / 255 for row in range(8)]
    np.testing.assert_allclose(bright.numpy("reward"), expected, rtol=1e-9)


def test_its_images_are_a_sheet_and_its_policy_a_pipeline(
    graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, folder = tmp_path / "run", tmp_path / "sheet.png", tmp_path / "pipeline"
    genrl_graph.play(small(graphs), out=run, rounds=1, quiet=True)
    assert run_command(["rollouts", str(run), "--limit", "5", "--sheet", str(out)]) == 0
    sheet, images = np.asarray(Image.open(out)), genrl_graph.open_run(run).frame("paint", 0)
    assert isinstance(images, Images)
    top, left = LABEL + GAP, TILE + 2 * GAP
    second = sheet[top : top + TILE, left : left + TILE][6::12, 6::12]  # each pixel is a square of 12
    assert (second == images.pixels(1)).all()
    assert sheet.shape == (3 * (LABEL + TILE + GAP) + GAP, 2 * (TILE + GAP) + GAP, 3)  # of 2, 2 and 1 images
    assert run_command(["rollouts", str(run), "--failed", "--sheet", str(out)]) != 0
    assert "none of the 0 of 0 rollouts has an image for a sheet" in capsys.readouterr().err

    assert run_command(["export", str(run), "policy", str(folder)]) == 0
    assert "StableDiffusionPipeline.from_pretrained" in (folder / "README.md").read_text()
    live = saved_policy(run, "policy").live("policy", device="cpu")
    assert isinstance(live, PipelinePolicy) and live.version == 1
    mine, theirs = (painted(each) for each in (live.parts.pipeline(), StableDiffusionPipeline.from_pretrained(folder)))
    assert (mine == theirs).all() and mine.std() > 0.02


def painted(pipeline: Any) -> Any:
    """Return the image that plain diffusers makes with a seed."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "eta": 1.0, "height": 8, "width": 8, "output_type": "np"}
    return pipeline("a red square", generator=torch.Generator().manual_seed(3), **options).images[0]


@pytest.mark.long
@pytest.mark.parametrize("how", ["diffusion", "flow"])
def test_its_policy_learns_to_make_bright_images(graphs: Path, tmp_path: Path, how: str) -> None:
    scheduler = "flow" if how == "flow" else "ddim"
    game = small(
        graphs,
        f"carry.policy.params.tiny.noise={how}",
        f"nodes.paint.params={{num_generations: 8, steps: 4, scheduler: {scheduler}, batch_size: 32}}",
        "nodes.score.params.function=brightness",
        "nodes.update.params={learning_rate: 1e-2, decay: constant, decay_steps: 0, minibatch_size: 32}",
    )
    genrl_graph.play(game, out=tmp_path / "run", rounds=20, quiet=True)
    scored = genrl_graph.open_run(tmp_path / "run").frame("score")
    rewards = [scored.numpy("reward")[scored.numpy("round") == round] for round in range(20)]
    assert np.mean(rewards[-3:]) - np.mean(rewards[0]) > 3 * np.std(rewards[0])


@pytest.mark.long
def test_killed_in_the_middle_of_a_round_it_goes_on_to_the_same_bits(
    graphs: Path, tmp_path: Path, one_thread: None
) -> None:
    game = small(graphs, "run.rounds=4", "run.checkpoint_every=1", "run.trackers=[]")
    whole = genrl_graph.play(game, out=tmp_path / "whole", quiet=True)
    left = Left.of(tmp_path / "whole", {"/".join(key): digest for key, digest in whole.after.items()})
    commits = sum(step.action != "open" for step in compile_graph(game).steps)
    assert killed(game, tmp_path / "cut", 2 * commits + commits // 2 + 1)
    assert len(genrl_graph.open_run(tmp_path / "cut").rounds) == 2
    again = genrl_graph.play(game, out=tmp_path / "cut", quiet=True, resume=True)
    cut = Left.of(tmp_path / "cut", {"/".join(key): digest for key, digest in again.after.items()})
    assert left.differences(cut) == []


@pytest.mark.soak
def test_ranks_of_torch_exchange_images_and_go_on_after_a_kill(graphs: Path, tmp_path: Path) -> None:
    gather = "nodes.images={type: exchange.gather, inputs: {rows: paint}, params: {min_peers: 2}}"
    settings = [*SMALL, gather, "nodes.score.inputs.images=images", "run.rounds=3", "run.checkpoint_every=1"]
    file, peers = graphs / "text_to_image.yaml", ("peer0000", "peer0001")
    genrl_graph.play(load(file, settings), out=tmp_path / "local", peers=2, quiet=True, threads=1)
    (tmp_path / "cut.py").write_text(CUT)
    command = ["run", str(file), "-o", str(tmp_path / "run"), *settings, "--import", str(tmp_path / "cut.py")]
    cut = play_ranks([*command, "--resume"], own=[[], []], env=[{"CUT_AT": "0"}, {"CUT_AT": "9"}])
    assert cut[1].code == -signal.SIGKILL
    for ended in play_ranks([*command, "--resume"], own=[[], []]):
        assert ended.code == 0, ended.text
    for peer in peers:
        here, there = rows_of(tmp_path / "local", peer), rows_of(tmp_path / "run" / peer, peer)
        assert here.keys() == there.keys() and all(rows.equals(there[group]) for group, rows in here.items())
        assert digests_of(tmp_path / "local", peer) == digests_of(tmp_path / "run" / peer, peer)


@pytest.mark.long
def test_peers_judge_the_images_of_all_and_train_on_their_own(graphs: Path, tmp_path: Path) -> None:
    gather = "nodes.images={type: exchange.gather, inputs: {rows: paint}, params: {min_peers: 2}}"
    shared = small(graphs, gather, "nodes.score.inputs.images=images")
    genrl_graph.play(shared, out=tmp_path / "run", rounds=1, peers=2, quiet=True)
    run = genrl_graph.open_run(tmp_path / "run")
    seen = run.frame("images", 0, holder="peer0000")
    assert isinstance(seen, Images)
    assert sorted(set(seen.values("peer"))) == ["peer0000", "peer0001"] and len(seen) == 16
    assert sorted(len(latents) for latents in seen.latents()) == [0] * 8 + [3] * 8
    trained = run.table("update/trained")
    assert len(trained) == 16 and not set(trained.column("id").to_pylist()) - set(run.frame("paint").values("id"))
