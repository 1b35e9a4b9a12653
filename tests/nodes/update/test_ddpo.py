"""`update.ddpo` on images that a tiny pipeline made, against a separate implementation of DDPO's loss."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph import Log, NodeFailed, Tasks, credit, score
from genrl_graph.edge_types.images import Images
from genrl_graph.nodes.generate.diffusion import DiffusionGenerator
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising
from genrl_graph.nodes.policy.diffusion import Diffusion
from genrl_graph.nodes.update.ddpo import Ddpo
from genrl_graph.seeds import stream

SIZES: Any = {"height": 8, "width": 8, "channels": 8, "caption_characters": 6}
CAPTIONS = ("red", "blue")


@pytest.fixture(scope="module")
def initial() -> Any:
    return Diffusion(tiny=SIZES, device="cpu").init("policy", seed=0)


@pytest.fixture
def policy(initial: Any) -> Any:
    return initial.fork("policy")


def tasks() -> Tasks:
    chats = [[{"role": "user", "content": caption}] for caption in CAPTIONS]
    return Tasks.from_columns(
        {"id": [f"t/{n}" for n in range(2)], "messages": chats, "answer": ["", ""], "metadata": ["{}", "{}"]}
    )


def painted(policy: Any, **params: Any) -> Images:
    node = DiffusionGenerator(**{"num_generations": 2, "steps": 3} | params)
    rows = node.run(tasks(), policy, rng=stream("paint"), log=Log(), round=0, peer="peer0000")
    advantages = np.linspace(-1.0, 2.0, len(rows))
    return credit(score(rows, {"x": advantages}), advantages)


def update(policy: Any, rows: Images, log: Log | None = None, **params: Any) -> Log:
    log = log or Log()
    assert Ddpo(**params).run(policy, [rows], rng=stream("update"), log=log, round=0) is policy
    return log


def reference(policy: Any, rows: Images, *, epsilon: float, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss and the ratios [rows, steps] as DDPO's authors compute them: DDIM's equation 12 and 16."""
    parts = policy.parts
    schedule = parts.scheduler
    schedule.set_timesteps(3)
    embeddings = parts.embed([*CAPTIONS, ""])
    total, ratios = torch.zeros(()), torch.zeros(len(rows), 3)
    captions, advantages = rows.values("caption"), rows.numpy("advantage")
    for row in range(len(rows)):
        latents = torch.from_numpy(rows.latents()[row])
        for number, time in enumerate(schedule.timesteps.tolist()):
            alpha = schedule.alphas_cumprod[time]
            before = time - 1000 // 3
            alpha_before = schedule.alphas_cumprod[before] if before >= 0 else schedule.final_alpha_cumprod
            sample = latents[number][None]
            with_caption = policy.model(sample, time, embeddings[CAPTIONS.index(captions[row])][None]).sample
            without = policy.model(sample, time, embeddings[-1][None]).sample
            noise = without + guidance * (with_caption - without)
            image = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            sigma = ((1 - alpha_before) / (1 - alpha)).sqrt() * (1 - alpha / alpha_before).sqrt()
            mean = alpha_before.sqrt() * image + (1 - alpha_before - sigma**2).sqrt() * noise
            density = -((latents[number + 1] - mean) ** 2) / (2 * sigma**2) - sigma.log() - math.log(2 * math.pi) / 2
            ratio = (density.mean() - rows.ragged("logprobs")[row][number]).exp()
            clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
            advantage = float(advantages[row])
            total = total + torch.maximum(-advantage * ratio, -advantage * clipped)
            ratios[row, number] = ratio.detach()
    return total / ratios.numel(), ratios


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_log_probs_ratios_and_gradient_are_those_of_the_paper(policy: Any, guidance: float) -> None:
    rows = painted(policy, guidance=guidance)
    update(policy, rows, learning_rate=1e-2)  # off-policy from here on, so that ratios differ from 1 and are clipped
    twin = policy.fork("twin")
    loss, ratios = reference(twin, rows, epsilon=0.05, guidance=guidance)
    assert (ratios - 1).abs().max() > 0.05
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 1.0)
    twin._adam().param_groups[0]["lr"] = 1e-3
    twin._adam().step()
    log = update(policy, rows, learning_rate=1e-3, epsilon=0.05, minibatch_size=4, batch_size=3)
    assert log.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    assert log.metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    found = dict(zip(log.tables["trained"]["id"], log.tables["trained"]["ratio"], strict=True))
    expected = dict(zip(rows.values("id"), ratios.mean(dim=1).tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(policy.model.parameters(), twin.model.parameters(), strict=True):
        # Adam's mean of the gradient: a tenth of it is the gradient of this step
        means = [each._adam().state[weight]["exp_avg"] for each, weight in ((policy, ours), (twin, theirs))]
        torch.testing.assert_close(*means, rtol=1e-3, atol=1e-6)


def test_the_first_ratios_are_one(policy: Any) -> None:
    log = update(policy, painted(policy), batch_size=1)
    np.testing.assert_allclose(log.tables["trained"]["ratio"], 1.0, atol=1e-5)
    assert log.metrics["trained_rows"] == 4 and policy.version == 1


def test_rows_that_cannot_be_trained_on_are_left_out_and_counted(policy: Any) -> None:
    rows = painted(policy)
    of_a_peer = rows.take([0]).without_local()  # as an exchange brings them
    unjudged = credit(rows.take([1]), [np.nan])
    log = update(policy, Images.concat([of_a_peer, unjudged, rows.take([2, 3])]))
    assert (log.metrics["trained_rows"], log.metrics["left_out_rows"]) == (2, 2)
    other = Diffusion(tiny=SIZES | {"height": 12}, device="cpu").init("other", seed=0)
    with pytest.raises(NodeFailed, match=r"latents of shape \[4, 4, 4\], but policy 'other' has \[4, 6, 4\]"):
        update(other, rows)


def test_a_saved_policy_goes_on_exactly(policy: Any, tmp_path: Any) -> None:
    rows = painted(policy)
    update(policy, rows, learning_rate=1e-3)
    policy.save(tmp_path)
    other = Diffusion(tiny=SIZES, device="cpu").init("policy", seed=0)
    other.load(tmp_path)
    assert other.version == policy.version == 1 and other.digest() == policy.digest()
    for each in (policy, other):
        update(each, rows, learning_rate=1e-3)
    assert other.digest() == policy.digest()


def test_an_image_does_not_depend_on_the_others_of_its_batch(policy: Any) -> None:
    how, rngs = Denoising("ddim", 3), [stream("rng", n) for n in range(3)]
    together = policy.paint(["red", "blue", "red"], how, rngs=rngs, batch_size=3)
    alone = policy.paint(["blue"], how, rngs=[stream("rng", 1)], batch_size=1)[0]
    np.testing.assert_allclose(alone.latents, together[1].latents, atol=1e-5)
    assert np.abs(together[0].latents - together[2].latents).max() > 0.1
