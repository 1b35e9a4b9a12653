"""`update.ddpo` on images that a tiny pipeline made, against a separate implementation of DDPO's loss."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import pairwise
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
Transition = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Any]]


def drawn(**more: Any) -> Any:
    return Diffusion(tiny=SIZES | more, device="cpu").init("policy", seed=0)


@pytest.fixture(scope="module")
def initial() -> Any:
    return drawn()


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


def steps_of_the_papers(how: Denoising, schedule: Any) -> Iterator[tuple[float, Transition]]:
    """Yield each random step's time, and its mean and deviation as functions of latents and what the network says."""
    schedule.set_timesteps(how.steps)
    if how.scheduler == "flow":  # coefficients-preserving sampling, with x0 = x - t v and x1 = x + (1 - t) v
        for time, after in pairwise(schedule.sigmas.tolist()[:-2]):  # the last steps, to 0.001 and to 0, add no noise
            yield time * 1000, partial(flow_step, time, after, how.eta * after)
        return
    alphas = schedule.alphas_cumprod.double()
    for time in schedule.timesteps.tolist():
        before = time - 1000 // how.steps
        alpha, alpha_before = alphas[time], alphas[before] if before >= 0 else schedule.final_alpha_cumprod.double()
        if how.scheduler == "ddpm" and before < 0:
            return  # DDPM's last step has no noise
        yield time, partial(ddpm_step if how.scheduler == "ddpm" else ddim_step, alpha, alpha_before, how.eta)


def flow_step(time: float, after: float, sigma: float, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
    return (1 - after) * (x - time * v) + math.sqrt(after**2 - sigma**2) * (x + (1 - time) * v), torch.tensor(sigma)


def ddim_step(alpha: Any, before: Any, eta: float, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Equations 12 and 16 of DDIM."""
    noise = alpha.sqrt() * v + (1 - alpha).sqrt() * x
    image = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    sigma = eta * ((1 - before) / (1 - alpha)).sqrt() * (1 - alpha / before).sqrt()
    return before.sqrt() * image + (1 - before - sigma**2).sqrt() * noise, sigma


def ddpm_step(alpha: Any, before: Any, eta: float, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Equation 11 of DDPM, with its smaller variance."""
    noise, beta = alpha.sqrt() * v + (1 - alpha).sqrt() * x, 1 - alpha / before
    mean = (x - beta / (1 - alpha).sqrt() * noise) / (1 - beta).sqrt()
    return mean, ((1 - before) / (1 - alpha) * beta).sqrt()


def reference(policy: Any, rows: Images, how: Denoising, *, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return DDPO's loss and ratios [rows, steps] in double precision, one image and one step at a time."""
    parts, model = policy.parts, policy.model
    told = {name: states.double() for name, states in parts.embed([*CAPTIONS, ""]).items()}

    def predicted(x: torch.Tensor, time: float, row: int) -> torch.Tensor:
        output: torch.Tensor = model(x, timestep=torch.tensor([time]), **{n: s[[row]] for n, s in told.items()}).sample
        return output

    captions, advantages, olds = rows.values("caption"), rows.numpy("advantage"), rows.ragged("logprobs")
    losses, ratios = [], []
    for row, latents in enumerate(rows.latents()):
        for number, (time, step) in enumerate(steps_of_the_papers(how, parts.scheduler)):
            x, outcome = torch.from_numpy(latents[number : number + 2]).double().split(1)
            captioned, plain = (predicted(x, time, at) for at in (CAPTIONS.index(captions[row]), -1))
            mean, sigma = step(x, plain + how.guidance * (captioned - plain))
            density = -((outcome - mean) ** 2) / (2 * sigma**2) - sigma.log() - math.log(2 * math.pi) / 2
            ratio = (density.mean() - olds[row][number]).exp()
            clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
            losses.append(torch.maximum(-float(advantages[row]) * ratio, -float(advantages[row]) * clipped))
            ratios.append(ratio.detach())
    return torch.stack(losses).mean(), torch.stack(ratios).reshape(len(rows), -1)


@pytest.mark.parametrize(
    ("how", "denoiser"),
    [
        (Denoising("ddim", 3), "unet"),
        (Denoising("ddim", 4, eta=0.8, guidance=2.0), "unet"),
        (Denoising("ddpm", 4), "unet"),
        (Denoising("flow", 4, eta=0.7, guidance=2.0), "unet"),
        (Denoising("flow", 4, eta=0.7, guidance=2.0), "transformer"),
    ],
)
def test_log_probs_ratios_and_gradient_are_those_of_the_papers(how: Denoising, denoiser: str) -> None:
    policy = drawn(noise="flow" if how.scheduler == "flow" else "diffusion", denoiser=denoiser)
    rows = painted(policy, num_generations=1, **asdict(how))
    update(policy, rows, learning_rate=1e-3)  # off-policy from here on, so that ratios differ from 1 and are clipped
    twin = policy.frozen("twin")
    twin.model.double()
    loss, ratios = reference(twin, rows, how, epsilon=0.02)
    assert (ratios - 1).abs().max() > 0.02
    loss.backward()
    policy = policy.frozen("policy")  # with a fresh optimiser, whose mean of gradients is a tenth of the first one
    log = update(policy, rows, epsilon=0.02, max_grad_norm=1e6, minibatch_size=4, batch_size=3)
    assert log.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    trained = dict(zip(log.tables["trained"]["id"], log.tables["trained"]["ratio"], strict=True))
    expected = dict(zip(rows.values("id"), ratios.mean(dim=1).tolist(), strict=True))
    assert trained == pytest.approx(expected, rel=1e-5)
    pairs = list(zip(policy.model.parameters(), twin.model.parameters(), strict=True))
    ours = torch.cat([10 * policy._adam().state[weight]["exp_avg"].flatten() for weight, _ in pairs]).double()
    theirs = torch.cat([weight.grad.flatten() for _, weight in pairs])
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert log.metrics["grad_norm"] == pytest.approx(theirs.norm().item(), rel=1e-5)


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
