"""Live policies over small networks: act, estimate values and train one set of weights (imports torch)."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.policy.actors.acting import ActorCritic, ActorOutput, Floats, Masks, QNetwork, TrainedActor
from genrl_graph.nodes.policy.actors.network import (
    ILLEGAL,
    Exploration,
    Network,
    NetworkSpec,
    actor_critic_network,
    draw_orthogonal,
    q_network,
)
from genrl_graph.nodes.policy.compute.adam_model import AdamModel
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.weights import WEIGHTS, named_tensors, stored_shapes

NETWORK = "network.json"
MOST_JSON = 1 << 20
"""Most bytes of the file that describes a network."""

__all__ = ["Exploration", "NetworkActor", "NetworkActorCritic", "NetworkQ", "load_frozen"]


class NetworkActor(AdamModel, TrainedActor):
    """A network with Adam."""

    adam_epsilon = 1e-5  # as is common for PPO

    def __init__(self, name: str, spec: NetworkSpec, model: torch.nn.Module) -> None:
        super().__init__(name, model)
        self.spec, self.spaces = spec, spec.spaces

    @classmethod
    def drawn(cls, name: str, spec: NetworkSpec, *, seed: int, device: str) -> Self:
        """Return a policy with initial weights drawn from seed and name."""
        from genrl_graph.nodes.policy.compute.device import pick_device

        model = cls.network(spec)
        draw_orthogonal(model, seed=seed, name=name)
        return cls(name, spec, model.to(pick_device(device)))

    @classmethod
    def network(cls, spec: NetworkSpec) -> Network:
        """Return the network of a spec, with torch's default initial weights."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state, version and architecture."""
        super().save(folder)
        (folder / NETWORK).write_text(json.dumps({"name": self.name, **self.spec.as_json()}) + "\n")

    def frozen(self, name: str) -> Self:
        """Return a copy of the weights without optimiser state."""
        model = copy.deepcopy(self.model)
        model.zero_grad(set_to_none=True)
        other = type(self)(name, self.spec, model)
        other.version = self.version
        return other

    def _finite(self, values: Floats) -> Floats:
        if not np.isfinite(values).all():
            raise NodeFailed(
                f"policy {self.name!r} version {self.version}: its outputs are not finite; lower the learning rate"
            )
        return values


class NetworkActorCritic(NetworkActor, ActorCritic):
    """A network with an actor and a critic."""

    @classmethod
    def network(cls, spec: NetworkSpec) -> Network:
        """Return a network with action logits and a state value."""
        return actor_critic_network(spec)

    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator, greedy: bool = False) -> ActorOutput:
        """Sample legal actions from the policy; `greedy` takes the most probable one."""
        with torch.inference_mode():
            outputs, values = self.model(self.tensor(observations))
        logits = np.where(masks > 0, self._finite(outputs.numpy(force=True)), ILLEGAL).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        actions = logprobs.argmax(axis=1) if greedy else _draw_actions(np.exp(logprobs), masks, rng)
        chosen = logprobs[np.arange(len(actions)), actions].astype(np.float32)
        return ActorOutput(actions.astype(np.int32), chosen, self._finite(values.numpy(force=True)[:, 0]))

    def values(self, observations: Floats, masks: Masks) -> Floats:
        """Return the critic's values, shape (rows,)."""
        with torch.inference_mode():
            return self._finite(self.model(self.tensor(observations))[1].numpy(force=True)[:, 0])

    def evaluate(self, observations: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probs of all actions [rows, actions], illegal ones near -1e8, and values [rows]."""
        logits, values = self.model(observations)
        masked = torch.where(masks > 0, logits, ILLEGAL)
        return torch.log_softmax(masked, dim=-1), values[:, 0]


class NetworkQ(NetworkActor, QNetwork):
    """A network of action values and its target network, which is saved and digested but never stepped."""

    def __init__(self, name: str, spec: NetworkSpec, model: torch.nn.Module) -> None:
        super().__init__(name, spec, model)
        self._target = copy.deepcopy(model).requires_grad_(False)

    @classmethod
    def network(cls, spec: NetworkSpec) -> Network:
        """Return a network with one value per action."""
        return q_network(spec)

    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator, greedy: bool = False) -> ActorOutput:
        """Choose legal actions epsilon-greedily, with the epsilon of this version; `greedy` sets it to 0."""
        exploration = self.spec.exploration
        epsilon = 0.0 if greedy or exploration is None else exploration.at(self.version)
        legal, values = masks > 0, self._legal_values(observations, masks)
        best = values.argmax(axis=1)
        uniform = legal / legal.sum(axis=1, keepdims=True)
        probs = epsilon * uniform
        probs[np.arange(len(best)), best] += 1.0 - epsilon
        actions = best if greedy else _draw_actions(probs, masks, rng)
        chosen = np.log(probs[np.arange(len(actions)), actions]).astype(np.float32)
        return ActorOutput(actions.astype(np.int32), chosen, values.max(axis=1))

    def values(self, observations: Floats, masks: Masks) -> Floats:
        """Return the highest value of a legal action, shape (rows,)."""
        best: Floats = self._legal_values(observations, masks).max(axis=1)
        return best

    def action_values(self, observations: Tensor, *, target: bool = False) -> Tensor:
        """Return the values of all actions [rows, actions]."""
        (values,) = (self._target if target else self.model)(observations)
        return cast(Tensor, values)

    def sync_target(self) -> None:
        """Copy the network's weights to the target network."""
        self._target.load_state_dict(self.model.state_dict())

    def frozen(self, name: str) -> Self:
        """Return a copy of network and target without optimiser state."""
        other = super().frozen(name)
        other._target.load_state_dict(self._target.state_dict())
        return other

    def _weights(self) -> dict[str, Tensor]:
        target = {f"target.{label}": tensor for label, tensor in named_tensors(self._target).items()}
        return {**named_tensors(self.model), **target}

    def _legal_values(self, observations: Floats, masks: Masks) -> Floats:
        with torch.inference_mode():
            (values,) = self.model(self.tensor(observations))
        return np.where(masks > 0, self._finite(values.numpy(force=True)), np.float32(-np.inf))


def load_frozen(folder: Path) -> NetworkActor:
    """Load a saved policy from its folder alone, without its carry; raises `StoreError` if the folder holds none."""
    heads: dict[str, type[NetworkActor]] = {"actor_critic": NetworkActorCritic, "q_network": NetworkQ}
    try:
        if (size := (folder / NETWORK).stat().st_size) > MOST_JSON:
            raise ValueError(f"it has {size} bytes, of {MOST_JSON} at most")
        values = json.loads((folder / NETWORK).read_text())
        name = str(values.pop("name"))
        spec = NetworkSpec.from_json(values)
        cls = heads[spec.head]
        _check_claim(cls, spec, stored_shapes(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{folder / NETWORK}: holds no network: {line_of(error)}") from error
    policy = cls(name, spec, cls.network(spec))
    policy.load(folder)
    return policy


def _check_claim(cls: type[NetworkActor], spec: NetworkSpec, stored: Mapping[str, Sequence[int]]) -> None:
    """Raise `ValueError` if an architecture has more layers or weights than are stored; takes no memory for it."""
    layers = len(spec.hidden) + len(spec.channels)
    if layers > len(stored):
        raise ValueError(f"it claims {layers} layers, but {WEIGHTS} holds {len(stored)} tensors")
    with torch.device("meta"):
        claimed = sum(parameter.numel() for parameter in cls.network(spec).parameters())
    if claimed > (held := sum(map(math.prod, stored.values()))):
        raise ValueError(f"it claims {claimed} weights, but {WEIGHTS} holds {held}")


def _draw_actions(probs: NDArray[np.float64], masks: Masks, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one legal action per row with probabilities [rows, actions]."""
    ends = np.cumsum(np.where(masks > 0, probs, 0.0), axis=1)
    point = rng.random((len(probs), 1)) * ends[:, -1:]
    # rounding could otherwise put the point beyond the last legal action
    last_legal = masks.shape[1] - 1 - (masks[:, ::-1] > 0).argmax(axis=1)
    actions: NDArray[np.int64] = np.minimum((ends <= point).sum(axis=1), last_legal)
    return actions
