"""Cost of a game of images: a round of DDIM against the bare loop of diffusers, and bytes on disk against the PNGs.

The bare loop is what one writes by hand: the UNet and `DDIMScheduler.step`, the decoder, JPEG sizes, advantages, and a
backward pass over each denoising step, with the same batches. It has no chats, rows, PNGs, digests or files. Times are
seconds of the processor, of one thread, so that what else runs on the machine counts less.

GENRL_GRAPH_BENCH_TIMES says how many rounds each contender plays.
"""

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import Clock, Row, figures, report
from PIL import Image

from genrl_graph import Graph, load, open_run, play
from genrl_graph.contract.node import Source
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.policy.denoising.pipeline_policy import PipelinePolicy
from genrl_graph.runners.loop.context import RunContext
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import run_round
from genrl_graph.store.run_store import RunStore

FILE = Path(__file__).resolve().parents[2] / "graphs" / "text_to_image.yaml"
TIMES = int(os.environ.get("GENRL_GRAPH_BENCH_TIMES", "5"))
AT_MOST = 1.15
"""Time of a round, as a multiple of the bare loop."""
SIZES = (16, 32)
"""Height and width of the images, in pixels."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", SIZES)
def test_a_round_takes_little_longer_than_the_bare_loop(folder: Path, size: int) -> None:
    torch.set_num_threads(1)
    tiny = f"carry.policy.params={{tiny: {{height: {size}, width: {size}, noise: diffusion}}, device: cpu}}"
    paint = "nodes.paint.params={num_generations: 8, scheduler: ddim, steps: 5, eta: 1.0, batch_size: 32}"
    game = load(FILE, [tiny, paint])
    seconds: dict[str, list[float]] = {"diffusers": [], "round": []}
    with RunStore.create(folder / "run", game.dump(), {}) as store:
        rounds = {"diffusers": by_hand(game), "round": played(game, store)}
        for number in range(TIMES + 1):
            for name in list(rounds)[:: 1 if number % 2 == 0 else -1]:
                clock = Clock(rounds[name])
                clock(number)
                seconds[name].append(clock.cpu)
    bare = Row("bare loop of diffusers", seconds["diffusers"][1:])  # the first one warms up
    whole = Row("this project", seconds["round"][1:], bare, at_most_ratio=AT_MOST)
    report(
        f"images, {size}", f"A round of text_to_image, {size} x {size} pixels, seconds of the processor", [bare, whole]
    )


def test_bytes_on_disk(folder: Path) -> None:
    game = load(FILE, ["carry.policy.params.device=cpu", "run.rounds=20", "run.trackers=[]", "run.checkpoint_every=20"])
    run = open_run(play(game, out=folder / "run", quiet=True, threads=1).folder)
    rows = run.frame("paint")
    assert isinstance(rows, Images)
    pngs = sum(len(rows.encoded(row)) for row in range(len(rows)))
    arrays = folder / "run" / "rollouts.zarr" / "paint"
    columns = {path.name: size_of(path) for path in arrays.iterdir() if path.is_dir()}
    whole = sum(columns.values())
    latents = columns.get("latents", 0)
    values: dict[str, tuple[float, float | None]] = {
        "bytes of a PNG": (pngs / len(rows), None),
        "bytes of an image on disk, without latents": ((whole - latents) / len(rows), None),
        "of these the column of PNGs": (columns.get("png", 0) / len(rows), None),
        "bytes of its latents": (latents / len(rows), None),
    }
    figures("images, bytes", f"Bytes an image, of {len(rows)}", values)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def policy_of(game: Graph) -> PipelinePolicy:
    policy = game.carries["policy"].carry.init("policy", seed=0)
    assert isinstance(policy, PipelinePolicy)
    return policy


def played(game: Graph, store: RunStore) -> Callable[[int], None]:
    """Return a round of this project's runner, with a store."""
    schedule = compile_graph(game)
    for node in schedule.nodes.values():
        node.prepare()
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    peer = Peer("peer0000", {"policy": policy_of(game)}, TaskBook(sources))
    context = RunContext(schedule=schedule, swarm=LocalSwarm(["peer0000"]), seed=0, commit=store.commit)
    return lambda number: run_round(context, [peer], number)


def by_hand(game: Graph) -> Callable[[int], None]:
    """Return a round of DDPO that uses diffusers and torch alone."""
    paint: Any = game.nodes["paint"].declared
    update: Any = game.nodes["update"].declared
    source: Any = game.nodes["captions"].declared
    captions = [task.question for task in source.tasks]
    each, parts = paint.num_generations, policy_of(game).parts
    unet, scheduler = parts.denoiser, parts.scheduler
    adam = torch.optim.Adam(unet.parameters(), lr=update.learning_rate, fused=True)
    shape = (len(captions) * each, unet.config.in_channels, *unet.config.sample_size)

    def density(outcome: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        return (-(((outcome - mean) / std) ** 2) / 2 - std.log() - math.log(2 * math.pi) / 2).flatten(1).mean(1)

    def transition(time: int, latents: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = unet(latents, time, encoder_hidden_states=states).sample
        mean = scheduler.step(output, time, latents, eta=paint.eta, variance_noise=torch.zeros_like(latents))
        before = time - scheduler.config.num_train_timesteps // paint.steps
        return mean.prev_sample, paint.eta * scheduler._get_variance(time, before).sqrt()

    def round(number: int) -> None:
        scheduler.set_timesteps(paint.steps)
        times = scheduler.timesteps.tolist()
        states = parts.embed(captions)["encoder_hidden_states"].repeat_interleave(each, dim=0)
        latents, old = [torch.randn(shape)], []
        with torch.no_grad():
            for time in times:
                mean, std = transition(time, latents[-1], states)
                latents.append(mean + std * torch.randn(shape))
                old.append(density(latents[-1], mean, std))
            pixels = parts.decode(latents[-1]).numpy()
        rewards = torch.tensor([-jpeg_kb(image) for image in pixels]).view(-1, each)
        spread = rewards.std(dim=1, keepdim=True, correction=0) + 1e-4
        advantages = ((rewards - rewards.mean(dim=1, keepdim=True)) / spread).flatten()
        for part in torch.randperm(shape[0]).split(update.minibatch_size):
            for batch in part.split(update.batch_size):
                for at, time in enumerate(times):
                    mean, std = transition(time, latents[at][batch], states[batch])
                    ratio = (density(latents[at + 1][batch], mean, std) - old[at][batch]).exp()
                    clipped = ratio.clamp(1 - update.epsilon, 1 + update.epsilon)
                    gain = torch.minimum(ratio * advantages[batch], clipped * advantages[batch])
                    (-gain.sum() / (len(part) * len(times))).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), update.max_grad_norm)
            adam.step()
            adam.zero_grad(set_to_none=True)

    return round


def jpeg_kb(pixels: Any) -> float:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000
