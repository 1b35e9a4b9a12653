"""Losses of policies that act and of critics, as pure functions of tensors [rows] (imports torch)."""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss


def clipped_surrogate(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, epsilon: float) -> Tensor:
    """Minus the mean of min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A) (arXiv 1707.06347, equation 7)."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def value_loss(values: Tensor, old_values: Tensor, targets: Tensor, *, epsilon: float | None) -> Tensor:
    """Half the mean squared error; with `epsilon` the worse of it and that of values clipped around the old ones."""
    error = (values - targets) ** 2
    if epsilon is not None:
        near = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.maximum(error, (near - targets) ** 2)
    return 0.5 * error.mean()


def entropies(logprobs: Tensor) -> Tensor:
    """The entropy of each row's distribution from the log-probs of all actions [rows, actions], in nats."""
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Minus the mean of log-prob times advantage."""
    return -(logprobs * advantages).mean()


def q_targets(
    rewards: Tensor, terminated: Tensor, following: Tensor, chosen_by: Tensor, masks: Tensor, *, gamma: float
) -> Tensor:
    """r + gamma Q'(s', argmax_a Q(s', a)), without the second part after a terminal step.

    `following` are the target network's values of the next observations [rows, actions]; `chosen_by` the values that
    choose among the legal actions `masks`: the same for DQN (doi:10.1038/nature14236), the trained network's for
    double DQN (arXiv 1509.06461).
    """
    best = torch.where(masks > 0, chosen_by, -torch.inf).argmax(dim=-1, keepdim=True)
    ahead = following.gather(-1, best)[:, 0]
    return rewards + gamma * torch.where(terminated, 0.0, ahead)


def q_loss(values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """The mean Huber loss of the values [rows, actions] of the actions taken."""
    return smooth_l1_loss(values.gather(-1, actions[:, None])[:, 0], targets)


def normalized(advantages: Tensor) -> Tensor:
    """To mean 0 and sample deviation 1; one row stays as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
