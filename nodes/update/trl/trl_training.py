"""Optimiser steps of TRL's trainers on a live policy, in place (imports trl: loaded when an update runs)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import NodeFailed, ParamError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.update.steps.external import ExternalRows
from genrl_graph.nodes.update.steps.truncated import truncated
from genrl_graph.nodes.update.trl.trl_isolation import isolated
from genrl_graph.nodes.update.trl.trl_update import TrlUpdate


class StepBatches:
    """Row positions of each micro-batch; one iteration over the object is one epoch.

    Each epoch shuffles the rows into steps of `batch_size`. A step has `accumulation` micro-batches of rows of similar
    length (the last step perhaps fewer). A micro-batch of several rows holds at most `max_batch_tokens` tokens.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, max_batch_tokens: int, rng: np.random.Generator
    ) -> None:
        self._lengths, self._rng = np.asarray(lengths), rng
        self._batch_size = min(batch_size, len(lengths))
        rows = max(1, max_batch_tokens // max(lengths))
        self.accumulation = ceil(self._batch_size / rows)

    def __len__(self) -> int:
        steps, rest = divmod(len(self._lengths), self._batch_size)
        return steps * self.accumulation + min(self.accumulation, rest)

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = self._rng.permutation(len(self._lengths))
        for at in range(0, len(shuffled), self._batch_size):
            step = shuffled[at : at + self._batch_size]
            ordered = step[np.argsort(self._lengths[step], kind="stable")]
            for part in np.array_split(ordered, min(self.accumulation, len(ordered))):
                yield part.tolist()


class InPlaceTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Mixin for TRL's trainers: batches come from `batches`, precision from the policy; nothing is reported."""

    policy: CausalPolicy
    batches: StepBatches

    def get_train_dataloader(self) -> Any:
        """Return a loader of the micro-batches of an epoch."""
        # torch asks for a Sampler, but calls only iter and len
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context in which the policy computes log-probs with gradients."""
        return self.policy.training_forward()

    def _send_telemetry(self) -> None:
        """Send nothing: TRL would report the trainer, model and device to a server."""


class _PolicySchedule:
    """Learning-rate schedule over the policy's optimiser steps, with the interface of a torch scheduler.

    Not a subclass: torch's schedulers patch the optimiser, which outlives this trainer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, node: TrlUpdate, policy: CausalPolicy) -> None:
        self._optimizer, self._node, self._policy = optimizer, node, policy
        self.step()

    def step(self) -> None:
        """Set the learning rate of the policy's next step."""
        self._rate = self._node.learning_rate_at(self._policy.version)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate

    def get_last_lr(self) -> list[float]:
        """Return the learning rate that was set last."""
        return [self._rate]


class _StepCallback(TrainerCallback):  # type: ignore[misc]
    """Clips gradients, raises on a gradient that is not finite before it is applied, counts the policy's steps."""

    def __init__(self, policy: CausalPolicy, *, max_grad_norm: float) -> None:
        self._policy, self._max_grad_norm = policy, max_grad_norm
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Clip the gradients; raises `NodeFailed` if their norm is not finite."""
        gradients = [p for p in self._policy.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(gradients, self._max_grad_norm))
        if not np.isfinite(norm):
            raise NodeFailed(
                f"policy {self._policy.name!r} version {self._policy.version}: the gradient norm is {norm}; "
                f"this step was not applied, {len(self.norms)} before it were; lower the learning rate"
            )
        self.norms.append(norm)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Count the step in the policy's version."""
        self._policy.stepped(1)


def as_causal_policy(policy: TextPolicy) -> CausalPolicy:
    """Return the policy as a `CausalPolicy`, which TRL can train; raises `ParamError` for another kind."""
    if not isinstance(policy, CausalPolicy):
        raise ParamError(f"policy {policy.name!r} is a {type(policy).__name__}; TRL trains Hugging Face models only")
    return policy


def usable_rows(
    rows: Rollouts, policy: TextPolicy, external: ExternalRows, log: Log, *, mask_truncated: bool
) -> Rollouts:
    """Return the rows that can be trained on and count the others.

    A usable row did not fail and has a finite reward, if it has one at all; with `mask_truncated` the length limit did
    not cut it. An own row also needs a sampled token and the policy's tokenizer; other peers' rows are retokenised and
    filtered by `external`.
    """
    is_external = external.mask(rows)
    readable = np.asarray(
        [name == policy.tokenizer_fingerprint for name in rows.values("tokenizer_fingerprint")], dtype=bool
    )
    sampled = np.asarray([mask.any() for mask in rows.ragged("completion_mask")], dtype=bool)
    finished = np.asarray([finish != "failed" for finish in rows.values("finish_reason")], dtype=bool)
    usable = (readable & sampled | is_external) & finished
    if "reward" in rows.table.column_names:
        usable &= np.isfinite(rows.numpy("reward"))
    if mask_truncated:
        log.metric("truncated_rows", int((usable & truncated(rows)).sum()))
        usable &= ~truncated(rows)
    fitted = external.fit(rows.where(usable))
    log.metric("left_out_rows", len(rows) - len(fitted))
    log.metric("rows_of_another_tokenizer", int((~readable & ~is_external).sum()))
    return fitted


@dataclass(frozen=True, slots=True)
class Recipe:
    """One TRL trainer: its class, config class and own settings, the dataset's columns and row lengths in tokens."""

    trainer: type[InPlaceTrainer]
    config: type[Any]
    settings: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    collator: Callable[[list[dict[str, Any]]], Any]
    lengths: Sequence[int]


def train_in_place(
    node: TrlUpdate, policy: CausalPolicy, recipe: Recipe, *, rng: np.random.Generator, log: Log
) -> None:
    """Run a TRL trainer and log the means of its metrics over the optimiser steps.

    Raises `NodeFailed` where a gradient is not finite; the steps before that one stay applied and counted.
    """
    batches = StepBatches(recipe.lengths, batch_size=node.batch_size, max_batch_tokens=node.max_batch_tokens, rng=rng)
    steps = _StepCallback(policy, max_grad_norm=node.max_grad_norm)
    with isolated(policy) as folder:
        shared = _shared_settings(node, batches, policy.device, folder=folder, seed=int(rng.integers(2**31)))
        optimizer = policy.optimizer()
        trainer: Any = recipe.trainer(
            model=policy.model,
            args=_on_device(recipe.config(**shared, **recipe.settings), policy.device),
            train_dataset=Dataset.from_dict(dict(recipe.columns)),
            data_collator=recipe.collator,
            processing_class=policy.hf_tokenizer,
            callbacks=[steps],
            optimizers=(optimizer, _PolicySchedule(optimizer, node, policy)),
        )
        trainer.policy, trainer.batches = policy, batches
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        measured = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in measured[0]:
        if name == "loss" or name.startswith("rewards/"):
            log.metric(name, float(np.mean([entry[name] for entry in measured])))
    log.metric("grad_norm", float(np.mean(steps.norms)))
    log.metric("optimiser_steps", len(steps.norms))


def _shared_settings(
    node: TrlUpdate, batches: StepBatches, device: torch.device, *, folder: str, seed: int
) -> dict[str, Any]:
    """Return the config settings shared by all TRL trainers."""
    return {
        "output_dir": folder,
        "num_train_epochs": node.epochs,
        "gradient_accumulation_steps": batches.accumulation,
        "max_grad_norm": 0.0,  # `_StepCallback` clips: it checks the norm before the step
        "seed": seed,
        "use_cpu": device.type == "cpu",
        "bf16": False,  # the policy has its own autocast, see `compute_loss_context_manager`
        "gradient_checkpointing": None,  # the policy's model decides
        "max_length": None,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "log_level": "error",
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def _on_device(config: Any, device: torch.device) -> Any:
    """Pin a config to one device; by default it takes the first GPU, or all of them."""
    vars(config)["_setup_devices"] = device  # a cached property
    config._n_gpu = 1
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return config


def report_nothing(log: Log) -> None:
    """Log the metrics of an update without rows to train on."""
    for name in ("loss", "grad_norm", "optimiser_steps"):
        log.metric(name, 0.0)
