"""Optimiser steps of `update.ddpo` (imports torch: loaded when an update runs)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.images import Images
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.denoising.diffusion_policy import Denoising, DiffusionPolicy
from genrl_graph.nodes.update.steps.actor_losses import clipped_surrogate

if TYPE_CHECKING:
    from genrl_graph.nodes.update.ddpo import Ddpo


@dataclass(frozen=True, slots=True)
class SampledImage:
    """The training data of an image: `latents` [random steps + 1, ...], `logprobs` [random steps], its advantage."""

    id: str
    caption: str
    how: Denoising
    latents: NDArray[np.float32]
    logprobs: NDArray[np.float32]
    advantage: float


def train_ddpo(node: "Ddpo", policy: DiffusionPolicy, rows: Images, *, rng: np.random.Generator, log: Log) -> None:
    """Take the optimiser steps of all epochs and log their metrics."""
    images = list(_sampled(rows, policy, node.advantage_clip))
    means, ratios, steps = defaultdict[str, list[float]](list), dict[str, float](), 0
    for _ in range(node.epochs):
        for part in _parts(len(images), node.minibatch_size, rng):
            chosen = [images[at] for at in part]
            total = sum(len(image.logprobs) for image in chosen)
            for batch in _alike(chosen, node.batch_size):
                ratios |= _backward(node, policy, batch, total, means)
            rate = node.learning_rate_at(policy.version)
            means["grad_norm"].append(policy.step(learning_rate=rate, max_grad_norm=node.max_grad_norm))
            steps += 1
    for name, values in means.items():
        log.metric(name, sum(values) / steps)
    log.metric("optimiser_steps", steps)
    log.metric("learning_rate", node.learning_rate_at(max(policy.version - 1, 0)))
    log.metric("trained_rows", len(images))
    log.metric("left_out_rows", len(rows) - len(images))
    log.rows("trained", {"id": [image.id for image in images], "ratio": [ratios[image.id] for image in images]})


def _backward(
    node: "Ddpo",
    policy: DiffusionPolicy,
    batch: Sequence[SampledImage],
    total: int,
    means: dict[str, list[float]],
) -> dict[str, float]:
    """Add the gradients of a batch of images sampled alike, step by step; return the mean ratio of each image.

    `total` counts the denoising steps of the whole optimiser step, over which the loss is a mean.
    """
    how, captions = batch[0].how, [image.caption for image in batch]
    advantages = policy.tensor(np.asarray([image.advantage for image in batch], np.float32))
    latents = policy.tensor(np.stack([image.latents for image in batch]))
    old = policy.tensor(np.stack([image.logprobs for image in batch]))
    ratios = torch.zeros(len(batch))
    for step in range(old.shape[1]):
        new = policy.step_logprobs(captions, how, latents[:, step : step + 2], step)
        loss = clipped_surrogate(new, old[:, step], advantages, epsilon=node.epsilon).sum() / total
        policy.backward(loss)
        log_ratio = (new - old[:, step]).detach()
        ratio = log_ratio.exp()
        ratios += ratio.cpu() / old.shape[1]
        means["loss"].append(float(loss.detach()))
        means["approx_kl"].append(float((ratio - 1.0 - log_ratio).sum() / total))
        means["clipped"].append(float(((ratio - 1.0).abs() > node.epsilon).sum() / total))
    return dict(zip([image.id for image in batch], ratios.tolist(), strict=True))


def _sampled(rows: Images, policy: DiffusionPolicy, advantage_clip: float) -> Iterator[SampledImage]:
    """Yield the rows to train on; raises `NodeFailed` for latents that the policy cannot have made."""
    values = rows.rows("id", "caption", "scheduler", "steps", "eta", "guidance")
    known = rows.with_local(rows.local_columns).values("latent_shape")
    parts = zip(values, known, rows.latents(), rows.ragged("logprobs"), rows.numpy("advantage"), strict=True)
    for row, shape, latents, logprobs, advantage in parts:
        if not np.isfinite(advantage) or not shape or not len(logprobs):
            continue
        if tuple(shape) != policy.latent_shape:
            expected = list(policy.latent_shape)
            raise NodeFailed(f"row {row['id']}: latents of shape {shape}, but policy {policy.name!r} has {expected}")
        how = Denoising(row["scheduler"], row["steps"], row["eta"], row["guidance"])
        clipped = float(np.clip(advantage, -advantage_clip, advantage_clip))
        yield SampledImage(row["id"], row["caption"], how, latents, logprobs.astype(np.float32), clipped)


def _alike(images: Sequence[SampledImage], size: int) -> Iterator[Sequence[SampledImage]]:
    """Yield batches of at most `size` images that were sampled in the same way."""
    groups: dict[tuple[Denoising, int], list[SampledImage]] = {}
    for image in images:
        groups.setdefault((image.how, len(image.logprobs)), []).append(image)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _parts(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield all positions in random order, in `count / size` (rounded) parts of nearly equal length."""
    if count:
        yield from np.array_split(rng.permutation(count), max(1, round(count / size)))
