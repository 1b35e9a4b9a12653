"""What a run will cost before it runs: the arithmetic of time and memory, in ranges."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from genrl_graph.nodes.policy.compute.activation_checkpointing import recomputed_layers
from genrl_graph.nodes.policy.compute.logprobs import LOGITS_AT_ONCE

WIDEST = 3.0
"""The most that the ends of a range of seconds or bytes may lie apart, as a factor: a wider one helps nobody."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        assert 0 <= self.low <= self.high, f"no range: {self.low} to {self.high}"

    @classmethod
    def over(cls, *values: float) -> Self:
        """The smallest range that holds these values."""
        return cls(min(values), max(values))

    @classmethod
    def total(cls, ranges: "Iterable[Range]") -> Self:
        """The sum of ranges whose unknowns are the same: low with low, high with high."""
        ranges = list(ranges)
        return cls(sum(part.low for part in ranges), sum(part.high for part in ranges))

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Range":
        """Both ends by a factor."""
        return Range(self.low * factor, self.high * factor)

    def between(self, slow: "Range") -> "Range":
        """The ends by those of a range of factors."""
        return Range(self.low * slow.low, self.high * slow.high)

    def narrowed(self, widest: float = WIDEST) -> "Range":
        """The range, or the part around its geometric middle that is `widest` wide."""
        if self.low == 0 or self.high <= self.low * widest:
            return self
        middle = (self.low * self.high) ** 0.5
        return Range(middle / widest**0.5, middle * widest**0.5)

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Model:
    """What the cost of a policy depends on; sizes in numbers of elements, `kv_size` those of one token's cache."""

    parameters: int
    trained: int
    vocabulary: int
    hidden: int
    layers: int
    kv_size: int
    bfloat16: bool = False  # autocast: matrices, activations and cache in two bytes, weights in four
    activation_bytes: float = math.inf  # what a micro-batch may keep for its backward pass; layers recompute the rest
    shared: int = 0  # parameters that all adapters of a base share

    @property
    def width(self) -> int:
        """Bytes of one element where it is computed with."""
        return 2 if self.bfloat16 else 4

    @property
    def kv_bytes(self) -> int:
        """Bytes that one token takes in the key-value cache."""
        return self.kv_size * self.width

    @property
    def own_bytes(self) -> int:
        """Bytes of the weights that are a policy's own, in float32."""
        return 4 * (self.parameters - self.shared)

    @property
    def moment_bytes(self) -> int:
        """Bytes of AdamW's two moments, from the first step on."""
        return 8 * self.trained

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients, from a backward pass to the step."""
        return 4 * self.trained

    @property
    def cast_bytes(self) -> int:
        """Bytes of the copies of the weights that autocast keeps during a call."""
        return 2 * self.parameters if self.bfloat16 else 0

    @property
    def pair_share(self) -> float:
        """What a pair of tokens that see each other costs, in tokens: 2 x hidden of the 2 x parameters / layers."""
        return self.hidden * self.layers / max(self.parameters - self.vocabulary * self.hidden, 1)


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a model costs on a machine: seconds of a call and of each token more, and bytes kept for a backward pass.

    `decode_row` is what one row adds to the step that samples a token of every row, `train_head` what a trained
    completion token costs above a token that is only read.
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
    """What a machine does in a second, in bytes (`adamw` in parameters), and bytes of a process before any weights.

    `touch` is how fast memory is used for the first time, which virtual machines make slow.
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

    What prompts share counts once where it is read once. The longest row has `longest` tokens; there is room for
    `room`.
    """

    rows: int
    prompts: float
    width: int
    room: int
    longest: float
    tokens: float


@dataclass(frozen=True, slots=True)
class MicroBatchWork:
    """Rows that are trained on together: so many of `width` tokens, with `completions` completion tokens.

    Packed rows are fewer, a part of one where they share much.
    """

    rows: float
    width: int
    completions: float

    @property
    def tokens(self) -> int:
        """Tokens with padding."""
        return round(self.rows * self.width)


@dataclass(frozen=True, slots=True)
class Work:
    """What one peer's step does with one policy, and `seconds` that are known already."""

    policy: str = ""
    batches: tuple[SequenceBatch, ...] = ()
    micros: tuple[MicroBatchWork, ...] = ()  # with gradients
    forwards: tuple[MicroBatchWork, ...] = ()  # without
    steps: int = 0
    digested: bool = False


def longest_of(rows: int, mean: float, most: int) -> float:
    """The expected longest of completions that end at random: the mean times the harmonic number, at most `most`."""
    harmonic = sum(1 / n for n in range(1, min(rows, 64) + 1))
    return min(float(most), mean * harmonic) if rows else 0.0


def varied_share(size: int, a: float) -> float:
    """The share of groups of `size` pass-or-fail rewards that vary, if tasks pass with a chance drawn from Beta(a, a).

    A small `a` means that most tasks are either mastered or out of reach.
    """
    alike = 1.0
    for n in range(size):
        alike *= (a + n) / (2 * a + n)
    return 1.0 - 2.0 * alike if size > 1 else 0.0


def sampling_seconds(batch: SequenceBatch, model: Model, speeds: Speeds, machine: Machine) -> float:
    """Reading the prompts once, then a token for every row that has not ended, over and over."""
    read = batch.prompts * batch.width * (1 + model.pair_share * batch.width)
    seen = batch.tokens * (batch.width + batch.longest / 2)
    grow = batch.longest * speeds.decode_call + batch.tokens * speeds.decode_row
    spread = model.kv_bytes * batch.rows * (batch.width + batch.room) / machine.copy
    prefill = speeds.prefill_call + read * speeds.prefill_token
    return prefill + spread + grow + model.kv_bytes * seen / machine.copy


def training_seconds(micro: MicroBatchWork, model: Model, speeds: Speeds, machine: Machine) -> float:
    """One micro-batch forward and backward; what is not kept goes forward twice."""
    tokens = micro.tokens * (1 + model.pair_share * micro.width)
    again = _recomputed(micro, model, speeds) / max(model.layers, 1) * reading_seconds(micro, model, speeds)
    head = micro.completions * speeds.train_head
    return speeds.train_call + tokens * speeds.train_token + head + again


def reading_seconds(micro: MicroBatchWork, model: Model, speeds: Speeds) -> float:
    """One micro-batch forward without gradients."""
    tokens = micro.tokens * (1 + model.pair_share * micro.width)
    return speeds.prefill_call + tokens * speeds.prefill_token + micro.completions * speeds.train_head / 3


def work_seconds(work: Work, model: Model, speeds: Speeds, machine: Machine) -> float:
    """One step of one peer, with what a new version of the weights costs: AdamW and digest."""
    sampling = sum(sampling_seconds(batch, model, speeds, machine) for batch in work.batches)
    training = sum(training_seconds(micro, model, speeds, machine) for micro in work.micros)
    reading = sum(reading_seconds(micro, model, speeds) for micro in work.forwards)
    steps = work.steps * model.trained / machine.adamw
    digest = 4 * model.trained / machine.digest if work.digested else 0.0
    return sampling + training + reading + steps + digest


def sampling_bytes(batch: SequenceBatch, model: Model) -> float:
    """What sampling a batch adds to the weights: casts, cache, and the logits with what they are turned into."""
    cache = model.kv_bytes * batch.rows * (batch.width + batch.room)
    logits = 16 * min(batch.rows * model.vocabulary, 1 << 23)
    prefill = 12 * model.hidden * model.width * batch.prompts * batch.width
    return model.cast_bytes + cache + max(logits, prefill)


def training_bytes(micro: MicroBatchWork, model: Model, speeds: Speeds) -> float:
    """What a micro-batch adds to weights and moments: gradients, what backward needs, and a block of logits."""
    each, again = speeds.saved_token * micro.tokens / max(model.layers, 1), _recomputed(micro, model, speeds)
    inputs = 4 * model.hidden * micro.tokens
    saved = (model.layers - again) * each + (again * inputs + each if again else 0.0)
    logits = (8 + model.width) * min(micro.completions * model.vocabulary, float(LOGITS_AT_ONCE))
    return model.gradient_bytes + speeds.saved_call + saved + logits


def _recomputed(micro: MicroBatchWork, model: Model, speeds: Speeds) -> int:
    token, limit = speeds.saved_token, model.activation_bytes
    return recomputed_layers(micro.tokens, layers=model.layers, hidden=model.hidden, saved_token=token, limit=limit)


@dataclass(slots=True)
class Memory:
    """The most that a process holds, by what holds it, in bytes."""

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
) -> Memory:
    """The fullest moment of a run: all weights and moments of all peers, and of the largest of one thing at a time.

    That is a batch that is sampled or a micro-batch that is trained; writing a checkpoint copies nothing.
    """
    weights = peers * sum(model.own_bytes for model in models.values())
    weights += 4 * sum({model.shared for model in models.values()})
    moments = peers * sum(model.moment_bytes for name, model in models.items() if name in updated)
    tops = {"loading weights": float(max((4 * model.parameters for model in models.values()), default=0))}
    steps = [(models[work.policy], speeds[work.policy], work) for work in works if work.policy in models]
    sampled = [sampling_bytes(batch, model) for model, _, work in steps for batch in work.batches]
    tops["sampling"] = max(sampled, default=0.0)
    trained = [training_bytes(micro, model, cost) for model, cost, work in steps for micro in work.micros]
    tops["training"] = max(trained, default=0.0)
    if not trained:
        moments = 0
    top = max(tops, key=lambda name: tops[name] + (moments if name != "loading weights" else 0))
    held = moments if top != "loading weights" else 0
    return Memory({"interpreter and libraries": machine.base, "weights": weights, "optimiser": held, top: tops[top]})
