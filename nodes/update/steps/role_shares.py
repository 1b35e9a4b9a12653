"""Shares of the roles in an update: what the rows of each role add to the gradient, the loss and the tokens.

Roles that share a policy share its gradient, and the topology of a game decides which of them takes it over (arXiv
2605.24202). The gradient of a role is measured where it enters the model: at the logits, in the L1 norm. The backward
pass computes it anyway, while norms at the parameters would take a backward pass for each role. The measure counts all
that a role pushes: gradients of its rows that cancel each other count, too.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame

if TYPE_CHECKING:
    from torch import Tensor

MaxGradientShare = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="share of the gradient above which the run warns that one of several roles takes the policy over "
        "(arXiv 2605.24202); 1: never",
    ),
]


@dataclass(slots=True)
class RoleSum:
    """Sums over the rows of a role: L1 norm of the gradient at the logits, loss, and trained tokens or steps."""

    gradient: float = 0.0
    loss: float = 0.0
    tokens: float = 0.0


class RoleShares:
    """Sums of one run of an update by role; `roles` maps the ids of rows to roles."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles
        self._sums: dict[str, RoleSum] = defaultdict(RoleSum)

    def add(self, ids: Sequence[str], *, gradient: "Tensor", loss: "Tensor", tokens: "Tensor") -> None:
        """Add the rows of a micro-batch; all tensors are [rows]."""
        import torch

        values = torch.stack([gradient, loss, tokens.to(gradient.dtype)]).detach().cpu().tolist()
        for id, mass, lost, count in zip(ids, *values, strict=True):
            of_role = self._sums[self._roles[id]]
            of_role.gradient += mass
            of_role.loss += lost
            of_role.tokens += count

    def report(self, log: Log, *, steps: int) -> None:
        """Log share, loss and tokens of each role; losses are means over the optimiser steps, as that of the update."""
        total = sum(each.gradient for each in self._sums.values())
        for role, each in sorted(self._sums.items()):
            log.metric(f"{role}/gradient_share", each.gradient / total if total else 0.0)
            log.metric(f"{role}/loss", each.loss / max(steps, 1))
            log.metric(f"{role}/tokens", each.tokens)


def roles_of(frames: Iterable[Frame], policy: str) -> dict[str, str]:
    """Return the role of each row by id: its node (which has one stage), in games also its seat.

    Rows that another policy than the named one sampled have its name at the end.
    """
    roles: dict[str, str] = {}
    named: dict[tuple[str, int | None, str], str] = {}
    for rows in frames:
        is_game = "seat" in rows.table.column_names
        seats: list[int | None] = rows.numpy("seat").tolist() if is_game else [None] * len(rows)
        keys = list(zip(rows.values("node"), seats, rows.values("policy"), strict=True))
        for node, seat, other in dict.fromkeys(keys):
            seated = node if seat is None else f"{node}.seat{seat}"
            named[node, seat, other] = seated if other == policy else f"{seated}.{other}"
        roles |= {id: named[key] for id, key in zip(rows.values("id"), keys, strict=True)}
    return roles


def token_gradient(logprobs: "Tensor", temperatures: "Tensor") -> "Tensor":
    """Return each row's L1 norm of the gradient at the logits, from that at its tokens' log-probs [rows, tokens].

    At the logits z of a token with log-prob l = log softmax(z / T), dL/dz = dL/dl (onehot - p) / T. The L1 norm of
    (onehot - p) is 2 (1 - p(token)). `logprobs.retain_grad()` was called before the backward pass.
    """
    import torch

    if logprobs.grad is None:
        return torch.zeros(len(logprobs), device=logprobs.device)
    steepness = -2.0 * torch.expm1(logprobs.detach())
    scale = torch.where(temperatures > 0, temperatures, 1.0).to(logprobs.device)
    return (logprobs.grad.abs() * steepness).sum(-1) / scale


def action_gradient(logprobs: "Tensor") -> "Tensor":
    """Return each row's L1 norm of the gradient at the logits, from that at the log-probs of all actions."""
    import torch

    if logprobs.grad is None:
        return torch.zeros(len(logprobs), device=logprobs.device)
    gradient = logprobs.grad - logprobs.detach().exp() * logprobs.grad.sum(-1, keepdim=True)
    return gradient.abs().sum(-1)
