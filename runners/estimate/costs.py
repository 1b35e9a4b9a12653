"""The cost model of an estimate: seconds and bytes of sampling and training, from sizes and speeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from genrl_graph.nodes.policy.compute.activation_checkpointing import recomputed_layers
from genrl_graph.nodes.policy.compute.logprobs import LOGITS_AT_ONCE

WIDEST = 3.0
"""The largest factor between the ends of an estimated range: a wider one is of no use."""


@dataclass(frozen=True, slots=True)
class Range:
    """A closed range of non-negative numbers from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        assert 0 <= self.low <= self.high, f"no range: {self.low} to {self.high}"

    @classmethod
    def over(cls, *values: float) -> Self:
        """Return the smallest range that contains these values."""
        return cls(min(values), max(values))

    @classmethod
    def total(cls, ranges: "Iterable[Range]") -> Self:
        """Return the sum of ranges that depend on the same assumptions: low ends and high ends are added."""
        ranges = list(ranges)
        return cls(sum(part.low for part in ranges), sum(part.high for part in ranges))

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Range":
        """Return the range multiplied by a factor."""
        return Range(self.low * factor, self.high * factor)

    def between(self, slow: "Range") -> "Range":
        """Return the range with its ends multiplied by those of a range of factors."""
        return Range(self.low * slow.low, self.high * slow.high)

    def narrowed(self, widest: float = WIDEST) -> "Range":
        """Return the range, or its part around the geometric middle with `widest` as the factor between the ends."""
        if self.low == 0 or self.high <= self.low * widest:
            return self
        middle = (self.low * self.high) ** 0.5
        return Range(middle / widest**0.5, middle * widest**0.5)

    def holds(self, value: float) -> bool:
        """Return whether the range contains a value."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes that a policy's cost depends on, in numbers of elements; `kv_size` is the cache of one token."""

    parameters: int
    trained: int
    vocabulary: int
    hidden: int
    layers: int
    kv_size: int
    bfloat16: bool = False  # matrix products, activations and cache in two bytes
    activation_bytes: float = math.inf  # limit of a micro-batch's activations; other layers recompute theirs
    shared: int = 0  # parameters of a base model that its adapters share
    critic: int = 0  # parameters of a critic, beside those of the policy's model
    weight_bytes: int = 4  # bytes of a weight; where it is four and `bfloat16` is set, calls cast the weights
    master_bytes: int = 0  # bytes of a trained weight's master in the optimiser

    @property
    def width(self) -> int:
        """Bytes of one element in the compute dtype."""
        return 2 if self.bfloat16 else 4

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token in the key-value cache."""
        return self.kv_size * self.width

    @property
    def own_bytes(self) -> int:
        """Bytes of the weights that a policy does not share."""
        return self.weight_bytes * self.own_parameters

    @property
    def own_parameters(self) -> int:
        """Number of weights that a policy does not share, those of the critic included."""
        return self.parameters - self.shared + self.critic

    @property
    def largest_bytes(self) -> float:
        """Bytes of the embedding and of a layer, which a rank has whole at the same time in a backward pass.

        It has their weights and gradients, the buffer from which weights come, and that in which gradients add up,
        which is float32.
        """
        embedding = min(self.vocabulary * self.hidden, self.own_parameters) if self.trained > self.shared else 0
        whole = 3 * self.weight_bytes + 4
        return whole * (embedding + (self.own_parameters - embedding) / max(self.layers, 1))

    def gathered_bytes(self, replicas: int) -> float:
        """Bytes of the whole weights that each of several ranks has while it samples."""
        return float(self.weight_bytes * (self.parameters - self.shared)) if replicas > 1 else 0.0

    @property
    def moment_bytes(self) -> int:
        """Bytes of AdamW's two moments and of masters, which exist from the first step on."""
        return (8 + self.master_bytes) * (self.trained + self.critic)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients, which exist from a backward pass to the optimiser step."""
        return 4 * (self.trained + self.critic)

    @property
    def cast_bytes(self) -> int:
        """Bytes of the bfloat16 copies of the weights that autocast holds during a call."""
        return 2 * self.parameters if self.bfloat16 and self.weight_bytes == 4 else 0

    @property
    def pair_share(self) -> float:
        """The attention cost of a pair of tokens, relative to the cost of one token in the matrix products.

        It is `hidden * layers / parameters`, with the parameters of the embedding left out.
        """
        return self.hidden * self.layers / max(self.parameters - self.vocabulary * self.hidden, 1)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Measured costs of a model on a machine, each as a constant per call and a slope per token or row.

    `prefill`, `decode` and `train` are seconds, `saved` bytes of activations for a backward pass. `decode_row` is the
    time that a row adds to sampling one token of every row; `train_head` is the time that a trained completion token
    takes beyond a prompt token.
    """

    prefill_call: float
    prefill_token: float
    decode_call: float
    decode_row: float
    train_call: float
    train_token: float
    train_head: float
    saved_call: float
    saved_token: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates of a machine in bytes a second (`adamw`: parameters a second); `base` is in bytes.

    `touch` is the rate of the first write to fresh memory, which is slow on virtual machines. `base` is the size of a
    process with its libraries, before any weights.
    """

    copy: float
    touch: float
    adamw: float
    digest: float
    write: float
    read: float
    base: float


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Rows that are sampled together: `prompts` distinct prompts of `width` tokens, `tokens` sampled in all.

    A prefix that prompts share counts once where the policy reads it once. The longest completion has `longest`
    tokens, of at most `room`.
    """

    rows: int
    prompts: float
    width: int
    room: int
    longest: float
    tokens: float


@dataclass(frozen=True, slots=True)
class MicroBatchWork:
    """A micro-batch of `rows` rows of `width` tokens, with `completions` completion tokens.

    Packing lowers `rows`, also below 1 where sequences share a long prefix.
    """

    rows: float
    width: int
    completions: float

    @property
    def tokens(self) -> int:
        """Number of tokens, padding included."""
        return round(self.rows * self.width)


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one peer's step with one policy; `steps` are optimiser steps.

    Between calls of sampling a policy keeps keys and values of `kept` tokens, but at most `kept_bytes`.
    """

    policy: str = ""
    batches: tuple[SequenceBatch, ...] = ()
    micros: tuple[MicroBatchWork, ...] = ()  # forward and backward
    forwards: tuple[MicroBatchWork, ...] = ()  # forward without gradients
    steps: int = 0
    digested: bool = False
    kept: int = 0
    kept_bytes: int = 0


def longest_of(rows: int, mean: float, most: int) -> float:
    """Return the expected longest of `rows` geometric lengths: the mean times a harmonic number, at most `most`."""
    harmonic = sum(1 / n for n in range(1, min(rows, 64) + 1))
    return min(float(most), mean * harmonic) if rows else 0.0


def varied_share(size: int, a: float) -> float:
    """Return the expected share of groups with reward variance, for `size` pass-or-fail rewards a group.

    The pass probabilities of tasks follow Beta(a, a): with a small `a` most tasks are mastered or out of reach.
    """
    alike = 1.0
    for n in range(size):
        alike *= (a + n) / (2 * a + n)
    return 1.0 - 2.0 * alike if size > 1 else 0.0


def sampling_seconds(batch: SequenceBatch, model: Model, speeds: Speeds, machine: Machine) -> float:
    """Return the seconds of sampling a batch: one prefill, then a decoding step per token of the longest row."""
    read = batch.prompts * batch.width * (1 + model.pair_share * batch.width)
    seen = batch.tokens * (batch.width + batch.longest / 2)
    grow = batch.longest * speeds.decode_call + batch.tokens * speeds.decode_row
    spread = model.kv_bytes * batch.rows * (batch.width + batch.room) / machine.copy
    prefill = speeds.prefill_call + read * speeds.prefill_token
    return prefill + spread + grow + model.kv_bytes * seen / machine.copy


def training_seconds(micro: MicroBatchWork, model: Model, speeds: Speeds, machine: Machine) -> float:
    """Return the seconds of a micro-batch forward and backward, with the layers that are recomputed."""
    tokens = micro.tokens * (1 + model.pair_share * micro.width)
    recompute = _recomputed(micro, model, speeds) / max(model.layers, 1) * reading_seconds(micro, model, speeds)
    head = micro.completions * speeds.train_head
    return speeds.train_call + tokens * speeds.train_token + head + recompute


def reading_seconds(micro: MicroBatchWork, model: Model, speeds: Speeds) -> float:
    """Return the seconds of a micro-batch forward without gradients."""
    tokens = micro.tokens * (1 + model.pair_share * micro.width)
    return speeds.prefill_call + tokens * speeds.prefill_token + micro.completions * speeds.train_head / 3


def work_seconds(work: Work, model: Model, speeds: Speeds, machine: Machine) -> float:
    """Return the seconds of one step of one peer; an update also takes AdamW and the digest of the new weights."""
    sampling = sum(sampling_seconds(batch, model, speeds, machine) for batch in work.batches)
    training = sum(training_seconds(micro, model, speeds, machine) for micro in work.micros)
    reading = sum(reading_seconds(micro, model, speeds) for micro in work.forwards)
    changed = model.trained + model.critic
    steps = work.steps * changed / machine.adamw
    digest = model.weight_bytes * changed / machine.digest if work.digested else 0.0
    return sampling + training + reading + steps + digest


def sampling_bytes(batch: SequenceBatch, model: Model, *, replicas: int = 1) -> float:
    """Return the bytes of sampling a batch beside the weights: casts, cache, and logits or prefill activations.

    Of several ranks each has a part of the rows, and whole weights beside its part of them.
    """
    rows, prompts = math.ceil(batch.rows / replicas), max(batch.prompts / replicas, min(batch.prompts, 1.0))
    cache = model.kv_bytes * rows * (batch.width + batch.room)
    logits = 16 * min(rows * model.vocabulary, 1 << 23)
    prefill = 12 * model.hidden * model.width * prompts * batch.width
    return model.gathered_bytes(replicas) + model.cast_bytes + cache + max(logits, prefill)


def training_bytes(micro: MicroBatchWork, model: Model, speeds: Speeds, *, replicas: int = 1) -> float:
    """Return the bytes of training beside weights and moments: gradients, activations and a block of logits.

    A recomputed layer saves its inputs only; the activations of one such layer exist at a time. Each of several ranks
    has its part of the gradients, a micro-batch of its own, and whole weights and gradients of what it computes with:
    the embedding and one layer, with the buffer from which they are reduced.
    """
    each, recomputed = speeds.saved_token * micro.tokens / max(model.layers, 1), _recomputed(micro, model, speeds)
    inputs = 4 * model.hidden * micro.tokens
    saved = (model.layers - recomputed) * each + (recomputed * inputs + each if recomputed else 0.0)
    logits = (8 + model.width) * min(micro.completions * model.vocabulary, float(LOGITS_AT_ONCE))
    gathered = model.largest_bytes if replicas > 1 else 0.0
    return model.gradient_bytes / replicas + gathered + speeds.saved_call + saved + logits


def _recomputed(micro: MicroBatchWork, model: Model, speeds: Speeds) -> int:
    """Return the number of layers that activation checkpointing recomputes."""
    token, limit = speeds.saved_token, model.activation_bytes
    return recomputed_layers(micro.tokens, layers=model.layers, hidden=model.hidden, saved_token=token, limit=limit)


@dataclass(slots=True)
class Memory:
    """The peak memory of a process by part, in bytes."""

    parts: dict[str, float] = field(default_factory=dict)

    @property
    def bytes(self) -> float:
        """The sum of the parts."""
        return sum(self.parts.values())


def peak_memory(
    models: dict[str, Model],
    works: Sequence[Work],
    speeds: dict[str, Speeds],
    machine: Machine,
    *,
    updated: set[str],
    peers: int,
    replicas: int = 1,
    ahead: bool = False,
) -> Memory:
    """Return the peak memory of a run: weights and moments of all peers, and the largest of three transient parts.

    These are a copy of a policy's weights while it loads, a batch that is sampled, and a micro-batch that is trained.
    While weights load there are no moments yet. Writing a checkpoint copies nothing. With `replicas` the memory is that
    of one rank, which has a part of all that is trained; while it samples it has whole weights, too. A run that samples
    `ahead` samples with copies of what is trained, and trains meanwhile.
    """
    weights = peers * sum(model.own_bytes for model in models.values()) / replicas
    shared = sum({model.weight_bytes * model.shared for model in models.values()})
    moments = peers * sum(model.moment_bytes for name, model in models.items() if name in updated) / replicas
    tops = {
        "loading weights": float(max((model.weight_bytes * model.parameters for model in models.values()), default=0))
    }
    steps = [(models[work.policy], speeds[work.policy], work) for work in works if work.policy in models]
    sampled = [
        sampling_bytes(batch, model, replicas=replicas)
        + (min(work.kept * model.kv_bytes, work.kept_bytes) if replicas == 1 else 0.0)  # ranks keep nothing
        for model, _, work in steps
        for batch in work.batches
    ]
    tops["sampling"] = max(sampled, default=0.0)
    trained = [
        training_bytes(micro, model, cost, replicas=replicas) for model, cost, work in steps for micro in work.micros
    ]
    tops["training"] = max(trained, default=0.0)
    if ahead:
        tops["sampling beside training"] = tops.pop("sampling") + tops.pop("training")
    if not trained:
        moments = 0
    top = max(tops, key=lambda name: tops[name] + (moments if name != "loading weights" else 0))
    optimiser = moments if top != "loading weights" else 0
    parts = {"interpreter and libraries": machine.base, "weights": weights, "optimiser": optimiser, top: tops[top]}
    parts |= {"weights that peers share": shared} if shared else {}
    if ahead:
        parts["copies that sample"] = peers * sum(model.own_bytes for name, model in models.items() if name in updated)
    return Memory(parts)
