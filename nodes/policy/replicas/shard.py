"""The part of one rank in a policy that a group shares: it runs the calls that the first rank makes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.shards import whole
from genrl_graph.nodes.policy.compute.weights import copied_values
from genrl_graph.nodes.policy.replicas.calls import (
    Arrays,
    Call,
    completion_arrays,
    rows_of,
    sequences_of,
    text_array,
)
from genrl_graph.nodes.policy.replicas.group import ReplicaGroup, shares
from genrl_graph.nodes.policy.replicas.sharding import ShardedModel

T = TypeVar("T")

STAND_IN = TokenSequence(np.zeros(1, np.int32), np.zeros(1, np.int32))
"""A row for a rank without rows of its own: all ranks take part in every pass."""


class Shard:
    """One rank's part of a policy: its share of the weights and of the optimiser's state, and of all that is computed.

    The ranks make every forward and backward pass together, each with rows of its own. Raises `ParamError` for a model
    that cannot read any rows in one call, or that is on another device than the group's.
    """

    def __init__(self, policy: CausalPolicy, group: ReplicaGroup) -> None:
        reading = policy.reading
        if not reading.pads or reading.lengths.border is not None:
            raise ParamError(
                f"policy {policy.name!r}: its model reads rows of one length at a time, which ranks cannot share out; "
                "set run.replicas to 1"
            )
        if policy.device.type != group.mesh.device_type:
            raise ParamError(
                f"policy {policy.name!r}: is on {policy.device.type}, but the ranks are joined on "
                f"{group.mesh.device_type}; give --backend {'nccl' if policy.device.type == 'cuda' else 'gloo'}"
            )
        policy.measure()
        policy.pristine = False  # else a second policy of the same files would be a copy of this one
        self.policy, self._group = policy, group
        self._model = ShardedModel(policy, group.mesh)
        self._task: Callable[[], None] = lambda: None
        self._passes: dict[int, tuple[list[torch.Tensor], NDArray[np.int64]]] = {}
        self.number = group.add(
            {
                "read": self._read,
                "backward": self._backward,
                "step": self._step,
                "generate": self._generate,
                "digest": self._digest,
                "save": self._save,
                "load": self._load,
                "trained": self._trained,
                "replace": self._replace,
                "lead": self._lead,
            }
        )

    def lead(self, task: Callable[[], T]) -> T:
        """Return the result of a task of this rank, the first, for which its policy has the whole weights."""
        results: list[T] = []
        self._task = lambda: results.append(task())
        self._group.call(Call(self.number, "lead"))
        return results[0]

    def _lead(self, call: Call) -> Arrays:
        with self._model.whole():
            self._task()
        return {}

    def _read(self, call: Call) -> Arrays:
        """Return log-probs, values or both of this rank's share of the rows; with a pass number for a backward pass."""
        sequences, temperatures = sequences_of(call.arrays), call.arrays["temperatures"]
        rows = shares(sequence_lengths(sequences), self._group.size)[self._group.rank]
        own, warmth = [sequences[row] for row in rows], temperatures[rows]
        if not any(len(sequence.completion_ids) for sequence in own):
            own, warmth = [*own, STAND_IN], np.append(warmth, np.float32(1.0))
        compute = _readers(self.policy, own, warmth)[call.options["what"]]
        with torch.set_grad_enabled("pass" in call.options):
            tensors: list[torch.Tensor] = self._model.forward(compute)
        if "pass" in call.options:
            self._passes[call.options["pass"]] = (tensors, rows)
        return {str(at): tensor.detach()[: len(rows)].cpu().numpy() for at, tensor in enumerate(tensors)}

    def _backward(self, call: Call) -> Arrays:
        """Add the gradients of a pass, from those at its results for all rows; forget earlier passes."""
        number = call.options["pass"]
        tensors, rows = self._passes.pop(number)
        self._passes = {other: kept for other, kept in self._passes.items() if other > number}
        gradients = []
        for at, tensor in enumerate(tensors):
            gradient = torch.zeros_like(tensor)
            if str(at) in call.arrays:
                own = torch.from_numpy(call.arrays[str(at)][rows][:, : tensor.shape[1]])
                gradient[: len(rows)] = own.to(tensor)
            gradients.append(gradient)
        torch.autograd.backward(tensors, gradients)
        return {}

    def _step(self, call: Call) -> Arrays:
        self._passes.clear()
        return {"norm": np.asarray([self.policy.step(**call.options)])}

    def _generate(self, call: Call) -> Arrays:
        """Sample this rank's share of the rows, each with the random numbers that it would have without ranks."""
        options, prompts = call.options, rows_of(call.arrays, "prompts")
        drawn = call.arrays.get("drawn")
        sampling = Sampling(**options["sampling"] | {"stop": tuple(options["sampling"]["stop"])})
        lengths = np.asarray([len(prompt) + sampling.max_new_tokens for prompt in prompts], np.int64)
        rows = shares(lengths, self._group.size)[self._group.rank]
        with self._model.whole():
            completions = self.policy.generate(
                [prompts[row] for row in rows],
                num_generations=1,
                sampling=sampling,
                rng=[] if drawn is None else [Drawn(drawn[row]) for row in rows],  # type: ignore[misc]
                max_batch_tokens=options["max_batch_tokens"],
            )
        return completion_arrays([one for (one,) in completions])

    def _digest(self, call: Call) -> Arrays:
        return {"digest": text_array(self.policy.digest())}

    def _save(self, call: Call) -> Arrays:
        folder = Path(call.options["folder"])
        self.policy.save_tensors(folder)
        if self._group.leads:
            self.policy.save_facts(folder)
        return {}

    def _load(self, call: Call) -> Arrays:
        load = self.policy.load if call.options["optimizer"] else self.policy.load_weights
        load(Path(call.options["folder"]))
        return {}

    def _trained(self, call: Call) -> Arrays:
        if self._group.leads:
            return copied_values(self.policy.exact())
        for weight in self.policy.exact().values():
            whole(weight.detach())
        return {}

    def _replace(self, call: Call) -> Arrays:
        self.policy.replace_trained(call.arrays)
        return {}


class Drawn:
    """Random numbers of one row that another rank has drawn, in place of a generator."""

    def __init__(self, numbers: NDArray[np.float32]) -> None:
        self._numbers = numbers

    def random(self, shape: tuple[int, int], *, dtype: type[np.float32]) -> NDArray[np.float32]:
        """Return the numbers as [1, steps]."""
        return self._numbers.reshape(shape)


def sequence_lengths(sequences: Sequence[TokenSequence]) -> NDArray[np.int64]:
    """Return the lengths of whole rows in tokens."""
    return np.asarray([len(s.prompt_ids) + len(s.completion_ids) for s in sequences], np.int64)


def _readers(
    policy: CausalPolicy, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]
) -> dict[str, Callable[[], list[Any]]]:
    """Return what computes log-probs, values or both of rows, by name."""
    return {
        "logprobs": lambda: [policy.logprobs(sequences, temperatures=temperatures)],
        "values": lambda: [policy.values(sequences)],
        "both": lambda: list(policy.logprobs_and_values(sequences, temperatures=temperatures)),
    }
