"""The weights of a policy as engines load them: a folder of safetensors files in the engine's precision."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, finalize

import torch

from genrl_graph import seeds
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.weights import named_tensors, tensor_digests
from genrl_graph.nodes.policy.engine_params import EngineDtype
from genrl_graph.store.durable import failed, refusal

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.compute.handle import CausalPolicy

PREFIX, LOCK = "genrl-graph-engine-", "lock"
_PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Matrices that an engine keeps as one."""


@dataclass(frozen=True, slots=True)
class ServedWeights:
    """Weights that an engine is to sample with: their `label`, a digest of them, and the folder that holds them.

    `digests` are those of each tensor. The weights of an adapter are only its own.
    """

    label: str
    what: str  # such as "version 3 of policy 'policy'"
    folder: Path
    digests: Mapping[str, str]

    def digest_of(self, name: str) -> str | None:
        """Return the digest of a weight as an engine names it, joined from its parts; None for an unknown name."""
        if name in self.digests:
            return self.digests[name]
        for joined, parts in _PARTS.items():
            names = [name.replace(joined, part) for part in parts]
            if joined in name and all(part in self.digests for part in names):
                return seeds.digest([self.digests[part] for part in names])
        return None


class WeightsFolders:
    """Writes the weights of policies below a new folder, each version once; only the newest of a policy stays.

    The folder goes with this object, or if the process is killed, when another run begins.
    """

    def __init__(self, parent: str | None, dtype: EngineDtype) -> None:
        self.root, lock = _claimed(Path(parent or tempfile.gettempdir()))
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._written: WeakKeyDictionary[CausalPolicy, tuple[int, ServedWeights]] = WeakKeyDictionary()
        self._base: Path | None = None
        self._count = 0
        finalize(self, _leave, self.root, lock)

    def of(self, policy: "CausalPolicy") -> ServedWeights:
        """Return the present weights of a policy, written to a folder; raises `StoreError` if they cannot be."""
        changes, known = self._written.get(policy, (-1, None))
        if known is not None and changes == policy.changes:
            return known
        tensors = _cast(policy.weights() if policy.adapts else policy.merged()[1], self._dtype)
        digests = tensor_digests(tensors)
        label = seeds.digest([*digests, *digests.values()])
        what = f"version {policy.version} of policy {policy.name!r}"
        if known is not None and known.label == label:  # it was loaded again, or no weight changed in this precision
            weights = ServedWeights(label, what, known.folder, digests)
        else:
            weights = ServedWeights(label, what, self._new_folder(), digests)
            self._write(policy, tensors, weights.folder)
            if known is not None:
                shutil.rmtree(known.folder, ignore_errors=True)
        self._written[policy] = (policy.changes, weights)
        return weights

    def model_of(self, policy: "CausalPolicy") -> Path:
        """Return the folder of the model that an engine starts with: the weights, or the model below an adapter."""
        if not policy.adapts:
            return self.of(policy).folder
        if self._base is None:
            folder = self._new_folder()
            with _writing(folder):
                _write_model(policy.base_model, _cast(named_tensors(policy.base_model), self._dtype), folder)
                policy.hf_tokenizer.save_pretrained(folder)
            self._base = folder
        return self._base

    def _write(self, policy: "CausalPolicy", tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
        with _writing(folder):
            if policy.adapts:
                policy.save_adapter(folder)
            else:
                _write_model(policy.merged()[0], tensors, folder)
                policy.hf_tokenizer.save_pretrained(folder)

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self.root / str(self._count)
        folder.mkdir()
        return folder


def _claimed(parent: Path) -> tuple[Path, IO[bytes]]:
    """Return a new folder with the lock that this process holds on it; remove those whose process has ended."""
    try:
        for left in parent.glob(f"{PREFIX}*"):
            with suppress(OSError), (left / LOCK).open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = (root / LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise DataError(f"engine.weights_folder: cannot make a folder in {parent}: {error.strerror}") from error
    return root, lock


def _leave(root: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    lock.close()


def _cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in tensors.items()
    }


def _write_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a model as transformers does, which splits weights that it keeps fused in memory, such as experts."""
    with without_progress():
        cast(Any, model).save_pretrained(folder, state_dict=dict(tensors))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into `StoreError`, and leave no half of a folder."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        refused = refusal(error)
        if refused is None:
            raise
        raise failed(folder, "write weights for the engine", refused) from error
