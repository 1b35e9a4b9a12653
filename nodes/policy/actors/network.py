"""Small networks for games and their initialisation (imports torch, so loaded only when a policy is created)."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import Spaces
from genrl_graph.seeds import stream

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.actors.acting import NetworkCarry

Head = Literal["actor_critic", "q_network"]
ILLEGAL = -1e8  # logit of illegal actions: its probability is 0 in float32, and the entropy stays finite


@dataclass(frozen=True, slots=True)
class Exploration:
    """The probability of a random action, which decays linearly from `start` to `end` over `steps` optimiser steps."""

    start: float
    end: float
    steps: int

    def at(self, version: int) -> float:
        """Return the probability at a version of the policy, its number of optimiser steps."""
        return self.end + (self.start - self.end) * max(0.0, 1.0 - version / self.steps)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The architecture of a network: everything but the weights, saved as JSON next to them."""

    head: Head
    observation: tuple[int, ...]
    actions: int
    hidden: tuple[int, ...]
    channels: tuple[int, ...]
    activation: str
    shared: bool = False
    exploration: Exploration | None = None

    @classmethod
    def of(
        cls,
        carry: "NetworkCarry",
        head: Head,
        *,
        activation: str,
        shared: bool = False,
        exploration: Exploration | None = None,
    ) -> Self:
        """Return the architecture that a carry declares; raises `DataError` if convolutions do not fit observations."""
        spaces = carry.spaces()
        if carry.channels and len(spaces.observation) != 3:
            shape = list(spaces.observation)
            raise DataError(f"{carry.type_name}: convolutions read height x width x planes, not {shape}; drop channels")
        sizes = (spaces.observation, spaces.actions, carry.hidden, carry.channels)
        return cls(head, *sizes, activation, shared, exploration)

    @property
    def spaces(self) -> Spaces:
        """The shape of observations and the number of actions."""
        return Spaces(self.observation, self.actions)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Restore a spec from the values of `as_json`; raises `KeyError` or `TypeError` for others."""
        tuples = {name: tuple(values[name]) for name in ("observation", "hidden", "channels")}
        exploration = Exploration(**values["exploration"]) if values["exploration"] else None
        return cls(**values | tuples | {"exploration": exploration})


class Trunk(nn.Module):
    """Layers that map observations [rows, ...] to features [rows, width]."""

    def __init__(self, spec: NetworkSpec, *, hidden: tuple[int, ...], convolve: bool, width: int) -> None:
        super().__init__()
        activation = nn.Tanh if spec.activation == "tanh" else nn.ReLU
        layers: list[nn.Module] = []
        self.channels_last = convolve
        if convolve:
            planes = spec.observation[-1]
            for channels in spec.channels:
                layers += [nn.Conv2d(planes, channels, 3, padding=1), nn.ReLU()]
                planes = channels
            layers.append(nn.Flatten())
        for size in hidden:
            layers += [nn.Linear(width, size), activation()]
            width = size
        self.layers, self.width = nn.Sequential(*layers), width

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features."""
        if self.channels_last:
            return self.layers(observations.permute(0, 3, 1, 2))  # type: ignore[no-any-return]
        return self.layers(observations.flatten(1))  # type: ignore[no-any-return]


class Network(nn.Module):
    """A network with several heads: an optional shared body, then a trunk and an output layer for each head."""

    def __init__(self, spec: NetworkSpec, outputs: dict[str, int]) -> None:
        super().__init__()
        self.body: Trunk | None = None
        width, hidden = _flat_width(spec), spec.hidden
        if spec.shared or spec.channels:
            shared, hidden = (hidden, ()) if spec.shared else ((), hidden)
            self.body = Trunk(spec, hidden=shared, convolve=bool(spec.channels), width=width)
            width = self.body.width
        self.heads = nn.ModuleDict()
        for name, size in outputs.items():
            trunk = Trunk(spec, hidden=hidden, convolve=False, width=width)
            self.heads[name] = nn.Sequential(trunk, nn.Linear(trunk.width, size))

    def forward(self, observations: Tensor) -> list[Tensor]:
        """Return one tensor [rows, size] per head."""
        features = observations if self.body is None else self.body(observations)
        return [head(features) for head in self.heads.values()]


def _flat_width(spec: NetworkSpec) -> int:
    if spec.channels:
        return spec.channels[-1] * spec.observation[0] * spec.observation[1]
    return int(np.prod(spec.observation))


def actor_critic_network(spec: NetworkSpec) -> Network:
    """Return a network with action logits and a state value."""
    return Network(spec, {"actor": spec.actions, "critic": 1})


def q_network(spec: NetworkSpec) -> Network:
    """Return a network with one value per action."""
    return Network(spec, {"q": spec.actions})


def draw_orthogonal(model: nn.Module, *, seed: int, name: str) -> None:
    """Initialise matrices orthogonally (arXiv 1312.6120) and biases to 0, with one random stream per parameter.

    The gain is sqrt(2) for hidden layers, 0.01 for actor logits and 1 for values, as is common for PPO.
    """
    output_gains = {"actor": 0.01, "critic": 1.0, "q": 1.0}
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.zero_()
                continue
            parts = label.split(".")
            is_output = parts[0] == "heads" and parts[2] == "1"
            gain = output_gains[parts[1]] if is_output else 2.0**0.5
            matrix = _orthogonal(parameter.shape[0], parameter[0].numel(), stream("network", seed, name, label))
            parameter.copy_(torch.from_numpy(gain * matrix).reshape(parameter.shape))


def _orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Draw a matrix with orthonormal rows, or orthonormal columns if there are fewer columns than rows."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
