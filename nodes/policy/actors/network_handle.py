"""Live policies over small networks: act, estimate values and train one set of weights (imports torch)."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

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
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.compute.trainable import clip_gradients, take_step
from genrl_graph.nodes.policy.compute.weights import (
    WEIGHTS,
    copied_values,
    load_state,
    named_tensors,
    optimizer_tensors,
    replace_values,
    restore_optimizer,
    save_state,
    stored_shapes,
    weights_digest,
)

NETWORK = "network.json"
MOST_JSON = 1 << 20
"""Most bytes of the file that describes a network."""

__all__ = ["Exploration", "NetworkActor", "NetworkActorCritic", "NetworkQ", "load_frozen"]


class NetworkActor(TrainedActor):
    """A network with Adam (arXiv 1412.6980); the optimiser state exists from the first step on."""

    def __init__(self, name: str, spec: NetworkSpec, model: torch.nn.Module) -> None:
        self.name, self.version = name, 0
        self.spec, self.spaces, self.model = spec, spec.spaces, model
        self._optimizer: torch.optim.Adam | None = None
        self._device = next(model.parameters()).device

    @property
    def computes(self) -> str:
        """The precision of matrix products and the kind of device."""
        return f"float32 on {self._device.type}"

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

    def tensor(self, values: NDArray[np.generic]) -> Tensor:
        """Return an array as a tensor on the device of the weights."""
        return torch.as_tensor(values, device=self._device)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one batch."""
        cast(Any, loss).backward()

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Take one Adam step with gradients clipped to `max_grad_norm`; returns the norm before clipping.

        Raises `NodeFailed`, with the weights unchanged, if the norm is not finite or there are no gradients.
        """
        norm = clip_gradients(self, self.model.parameters(), max_grad_norm)
        take_step(self._adam(), learning_rate)
        self.model.zero_grad(set_to_none=True)
        self.version += 1
        return norm

    def trained_values(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the parameters by name."""
        return copied_values(dict(self.model.named_parameters()))

    def replace_trained(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the parameters and increase `version` by 1; the state of the optimiser stays."""
        replace_values(dict(self.model.named_parameters()), values)
        self.version += 1

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state, version and architecture."""
        save_state(folder, self._weights(), self._moments(), version=self.version)
        (folder / NETWORK).write_text(json.dumps({"name": self.name, **self.spec.as_json()}) + "\n")

    def load(self, folder: Path) -> None:
        """Load weights, version and optimiser state; raises `StoreError` if they are another network's."""
        self.version, moments = load_state(folder, self._weights())
        self._optimizer = None
        if moments is not None:
            self._restore(moments, str(folder))

    def digest(self) -> str:
        """Return a hex digest of the weights."""
        return weights_digest(self._weights())

    def fork(self, name: str) -> Self:
        """Return an independent copy with its own weights and optimiser state."""
        other, moments = self.frozen(name), self._moments()
        if moments is not None:
            other._restore(moments, f"policy {self.name!r}")
        return other

    def frozen(self, name: str) -> Self:
        """Return a copy of the weights without optimiser state."""
        model = copy.deepcopy(self.model)
        model.zero_grad(set_to_none=True)
        other = type(self)(name, self.spec, model)
        other.version = self.version
        return other

    def _weights(self) -> dict[str, Tensor]:
        return named_tensors(self.model)

    def _adam(self) -> torch.optim.Adam:
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, eps=1e-5, fused=True)
        return self._optimizer

    def _moments(self) -> dict[str, Tensor] | None:
        trained = dict(self.model.named_parameters())
        return None if self._optimizer is None else optimizer_tensors(trained, self._optimizer)

    def _restore(self, moments: dict[str, Tensor], where: str) -> None:
        try:
            restore_optimizer(dict(self.model.named_parameters()), self._adam(), moments)
        except KeyError as error:
            raise StoreError(
                f"{where}: optimiser state of an unknown weight {error}; was it another network?"
            ) from error

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
