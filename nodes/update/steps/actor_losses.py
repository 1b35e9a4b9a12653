"""Losses of actors and critics, as pure functions of tensors [rows] (imports torch)."""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss


def clipped_surrogate(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, epsilon: float) -> Tensor:
    """Minus min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A) of each row (arXiv 1707.06347, equation 7)."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old_values: Tensor, targets: Tensor, *, epsilon: float | None) -> Tensor:
    """Half the mean squared error; with `epsilon` each row takes the larger of its unclipped and clipped error."""
    return 0.5 * value_errors(values, old_values, targets, epsilon=epsilon)[0].mean()


def value_errors(
    values: Tensor, old_values: Tensor, targets: Tensor, *, epsilon: float | None
) -> tuple[Tensor, Tensor]:
    """Return the squared error of each value, and a mask of those whose clipped error is larger.

    Values are clipped to the old values plus or minus `epsilon`. All tensors have one shape.
    """
    error = (values - targets) ** 2
    if epsilon is None:
        return error, torch.zeros_like(error, dtype=torch.bool)
    clipped = (old_values + (values - old_values).clamp(-epsilon, epsilon) - targets) ** 2
    return torch.maximum(error, clipped), clipped.detach() > error.detach()


def entropies(logprobs: Tensor) -> Tensor:
    """Entropy in nats of each row's distribution, from the log-probs of all actions [rows, actions]."""
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Minus log-prob times advantage of each row."""
    return -(logprobs * advantages)


def q_targets(
    rewards: Tensor, terminated: Tensor, following: Tensor, chosen_by: Tensor, masks: Tensor, *, gamma: float
) -> Tensor:
    """Q-learning targets r + gamma Q'(s', argmax_a Q(s', a)), or r after a terminated step.

    `following` is Q', the target network's values of the next observations [rows, actions]. `chosen_by` is Q, the
    values that select among the legal actions `masks`: equal to Q' for DQN (doi:10.1038/nature14236), those of the
    trained network for double DQN (arXiv 1509.06461).
    """
    best = torch.where(masks > 0, chosen_by, -torch.inf).argmax(dim=-1, keepdim=True)
    next_values = following.gather(-1, best)[:, 0]
    return rewards + gamma * torch.where(terminated, 0.0, next_values)


def q_loss(values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Mean Huber loss between the values [rows, actions] of the actions taken and `targets` [rows]."""
    return smooth_l1_loss(values.gather(-1, actions[:, None])[:, 0], targets)


def normalized(advantages: Tensor) -> Tensor:
    """Scale advantages to mean 0 and sample deviation 1; return a single row unchanged."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
