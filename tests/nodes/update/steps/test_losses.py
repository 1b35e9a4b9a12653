"""Policy losses against the formulas of their papers, written as plain loops over rows and tokens."""

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.steps.loss_config import CLIPPED_LOSS_TYPES, LOSS_TYPES, LossConfig
from genrl_graph.nodes.update.steps.losses import LossSums, PolicyLoss, Totals, policy_loss

Importance = Literal["token", "sequence"]
BUDGET = 9
IMPORTANCES: dict[str, tuple[Importance, ...]] = {"luspo": ("sequence",), "vespo": ("token",)}
PAIRS = [(loss, level) for loss in LOSS_TYPES for level in IMPORTANCES.get(loss, ("token", "sequence"))]


def make_config(loss_type: Any, importance: Any = None, **options: Any) -> LossConfig:
    level = importance or IMPORTANCES.get(loss_type, ("token",))[0]
    return LossConfig(loss_type=loss_type, importance=level, **options)


class Rows(NamedTuple):
    """Inputs of a loss."""

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    mask: Tensor

    def take(self, rows: list[int]) -> "Rows":
        """Return some of the rows."""
        return Rows(*(column[rows] for column in self))

    def totals(self) -> Totals:
        """Return the totals of an optimiser step on these rows."""
        return Totals(sequences=len(self.mask), tokens=int(self.mask.sum()), max_completion_tokens=BUDGET)


def make_rows(lengths: list[int], *, seed: int = 0, drift: float = 0.4) -> Rows:
    """Make rows of a policy that has drifted from the sampling policy; advantages of both signs and 0."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + 2)

    def noise() -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    logprobs = -noise().abs() - 0.1
    mask = (torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(-1)).long()
    mask[0, 1] = 0  # a token inside the completion that the policy did not sample
    advantages = torch.tensor(
        [(1.2, -0.7, 0.0, 0.5, -1.9)[row % 5] for row in range(len(lengths))], dtype=torch.float64
    )
    return Rows(logprobs, logprobs + drift * noise(), logprobs + 0.5 * noise(), advantages, mask)


LENGTHS = [4, 6, 3, 1, 5, 2]
ROWS = make_rows(LENGTHS)


def run(rows: Rows, config: LossConfig, totals: Totals | None = None) -> tuple[PolicyLoss, Tensor]:
    """Return the loss and its gradient with respect to the log-probs."""
    logprobs = rows.logprobs.clone().requires_grad_()
    outcome = policy_loss(
        logprobs=logprobs,
        old_logprobs=rows.old_logprobs,
        ref_logprobs=rows.ref_logprobs,
        advantages=rows.advantages,
        mask=rows.mask,
        config=config,
        totals=totals or rows.totals(),
    )
    outcome.loss.backward()
    assert logprobs.grad is not None
    return replace(outcome, loss=outcome.loss.detach()), logprobs.grad


def token_objective(logp: Tensor, ratio: Tensor, row_log_ratio: float, gain: float, config: LossConfig) -> Tensor:
    """Return the objective of one token by the formula of each loss's paper."""
    now = float(ratio.detach())
    if config.loss_type == "cispo":
        return min(now, config.cispo_max_ratio) * gain * logp
    if config.loss_type == "sapo":
        tau = config.sapo_temperature_pos if gain > 0 else config.sapo_temperature_neg
        return 4.0 / tau / (1.0 + torch.exp(-tau * (ratio - 1.0))) * gain
    if config.loss_type == "vespo":
        k, rate = (config.vespo_k_pos, config.vespo_lambda_pos)
        if gain < 0:
            k, rate = (config.vespo_k_neg, config.vespo_lambda_neg)
        w = math.exp(row_log_ratio)
        return math.exp(rate) * w**k * math.exp(-rate * w) * gain * logp
    clipped = ratio
    if now < 1.0 - config.epsilon_low:
        clipped = torch.tensor(1.0 - config.epsilon_low, dtype=ratio.dtype)
    if now > 1.0 + config.epsilon_high:
        clipped = torch.tensor(1.0 + config.epsilon_high, dtype=ratio.dtype)
    free = ratio
    if config.delta is not None and now > config.delta:
        free = torch.tensor(config.delta, dtype=ratio.dtype)
    return min(free * gain, clipped * gain, key=lambda value: float(value.detach()))


def token_weight(length: int, totals: Totals, loss_type: str) -> float:
    return {
        "grpo": 1.0 / length / totals.sequences,
        "sapo": 1.0 / length / totals.sequences,
        "dr_grpo": 1.0 / totals.sequences / totals.max_completion_tokens,
        "luspo": 1.0 / totals.sequences,
    }.get(loss_type, 1.0 / totals.tokens)


def loop_loss(rows: Rows, config: LossConfig) -> tuple[float, Tensor]:
    """Compute loss and gradient, one row and one token at a time."""
    logprobs = rows.logprobs.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(rows.mask)):
        steps = [step for step in range(rows.mask.shape[1]) if rows.mask[row, step]]
        gain = float(rows.advantages[row])
        logs = {step: logprobs[row, step] - rows.old_logprobs[row, step] for step in steps}
        row_log = sum(logs.values(), torch.zeros((), dtype=torch.float64))
        far = config.off_policy_mask_threshold
        dropped = far is not None and gain < 0 and -float(row_log.detach()) / len(steps) > far
        for step in steps:
            log_ratio = row_log / len(steps) if config.importance == "sequence" else logs[step]
            ratio = torch.exp(log_ratio)
            value = token_objective(logprobs[row, step], ratio, float(row_log.detach()), gain, config)
            gap = rows.ref_logprobs[row, step] - logprobs[row, step]
            kl = (torch.exp(gap) - gap - 1.0) * (ratio if config.unbiased_kl else 1.0)
            weight = token_weight(len(steps), rows.totals(), config.loss_type)
            total = total - weight * ((0.0 if dropped else value) - config.beta * kl)
    total.backward()
    assert logprobs.grad is not None
    return float(total.detach()), logprobs.grad


@pytest.mark.parametrize("options", [{}, {"beta": 0.3}, {"beta": 0.3, "unbiased_kl": False}], ids=str)
@pytest.mark.parametrize(("loss_type", "importance"), PAIRS)
def test_loss_and_gradient_follow_the_formula(loss_type: str, importance: str, options: dict[str, Any]) -> None:
    config = make_config(loss_type, importance, cispo_max_ratio=1.2, **options)
    outcome, gradient = run(ROWS, config)
    expected, expected_gradient = loop_loss(ROWS, config)
    assert float(outcome.loss) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_rows_far_from_their_sampler_with_a_negative_advantage_are_dropped(pair: tuple[str, str]) -> None:
    config = make_config(*pair, off_policy_mask_threshold=0.05, beta=0.3)
    rows = make_rows([4, 6, 3, 1, 5, 2, 6, 4, 3, 5], drift=0.3)
    outcome, gradient = run(rows, config)
    expected, expected_gradient = loop_loss(rows, config)
    assert 0 < outcome.sums.off_policy_rows < int((rows.advantages < 0).sum())
    assert float(outcome.loss) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loss_type", CLIPPED_LOSS_TYPES)
def test_delta_follows_the_formula(loss_type: str) -> None:
    config = make_config(loss_type, delta=1.35, epsilon_low=0.1, epsilon_high=0.15)
    outcome, gradient = run(make_rows(LENGTHS, drift=0.9), config)
    expected, expected_gradient = loop_loss(make_rows(LENGTHS, drift=0.9), config)
    assert float(outcome.loss) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@st.composite
def splits(draw: st.DrawFn) -> tuple[Rows, list[list[int]]]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=7).map(lambda actual: [2, *actual]))
    order = draw(st.permutations(range(len(lengths))))
    cuts = sorted(draw(st.sets(st.integers(1, len(lengths) - 1))))
    bounds = zip([0, *cuts], [*cuts, len(lengths)], strict=True)
    return make_rows(lengths, seed=draw(st.integers(0, 99))), [list(order[a:b]) for a, b in bounds]


@settings(max_examples=120, deadline=None)
@given(split=splits(), pair=st.sampled_from(PAIRS), beta=st.sampled_from([0.0, 0.2]))
def test_micro_batches_add_up_to_the_whole_batch(
    split: tuple[Rows, list[list[int]]], pair: tuple[str, str], beta: float
) -> None:
    rows, parts = split
    config = make_config(*pair, beta=beta)
    whole, gradient = run(rows, config)
    total, sums, summed = 0.0, LossSums(), torch.zeros_like(gradient)
    for part in parts:
        outcome, part_gradient = run(rows.take(part), config, rows.totals())
        total += float(outcome.loss)
        sums += outcome.sums
        summed[part] = part_gradient
        torch.testing.assert_close(outcome.ratio, whole.ratio[part])
    assert total == pytest.approx(float(whole.loss), abs=1e-12)
    torch.testing.assert_close(summed, gradient, rtol=1e-12, atol=1e-14)
    assert (sums.sequences, sums.tokens) == (len(rows.mask), int(rows.mask.sum()))
    assert sums.means() == pytest.approx(whole.sums.means())


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize(("loss_type", "importance"), PAIRS)
def test_padding_never_leaks(loss_type: str, importance: str, filler: float) -> None:
    config = make_config(loss_type, importance, beta=0.1)
    outside = ROWS.mask == 0
    dirty = ROWS._replace(
        logprobs=ROWS.logprobs.masked_fill(outside, filler),
        old_logprobs=ROWS.old_logprobs.masked_fill(outside, filler),
        ref_logprobs=ROWS.ref_logprobs.masked_fill(outside, -filler),
    )
    clean, clean_gradient = run(ROWS, config)
    outcome, gradient = run(dirty, config)
    assert float(outcome.loss) == float(clean.loss)
    assert outcome.sums == clean.sums
    torch.testing.assert_close(outcome.ratio, clean.ratio, rtol=0, atol=0)
    torch.testing.assert_close(gradient, clean_gradient, rtol=0, atol=0)
    assert not gradient[outside].any()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_row_without_tokens_adds_nothing(loss_type: str) -> None:
    config = make_config(loss_type, beta=0.1)
    mask = ROWS.mask.clone()
    mask[3] = 0
    advantages = ROWS.advantages.clone()
    advantages[3] = math.nan
    totals = ROWS.totals()
    outcome, gradient = run(ROWS._replace(mask=mask, advantages=advantages), config, totals)
    without, _ = run(ROWS.take([0, 1, 2, 4, 5]), config, totals)
    assert float(outcome.loss) == pytest.approx(float(without.loss), abs=1e-12)
    assert not gradient[3].any()
    assert outcome.sums.means() == pytest.approx(without.sums.means())
    assert float(outcome.ratio[3]) == 1.0


def one_token(ratio: float, advantage: float, config: LossConfig) -> tuple[PolicyLoss, float]:
    """Return outcome and gradient for a single token with a given importance ratio."""
    logprobs = torch.tensor([[-1.0]], dtype=torch.float64)
    rows = Rows(logprobs, logprobs - math.log(ratio), logprobs, torch.tensor([advantage]), torch.ones(1, 1))
    outcome, gradient = run(rows, config)
    return outcome, float(gradient)


@pytest.mark.parametrize("loss_type", CLIPPED_LOSS_TYPES)
@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high"),
    [
        (1.29, 1.0, 0, 1),  # already likelier than clip-higher allows
        (1.27, 1.0, 0, 0),  # beyond 1 + epsilon_low, within 1 + epsilon_high
        (0.50, 1.0, 0, 0),  # a good token that became rarer may come back
        (0.79, -1.0, 1, 0),  # already rarer than allowed
        (0.81, -1.0, 0, 0),
        (2.90, -1.0, 0, 0),  # a bad token that became likelier must be stopped
        (3.10, -1.0, 0, 1),  # unless it passes delta
        (3.10, 0.0, 0, 0),
    ],
)
def test_clipping_stops_the_gradient_on_its_own_side_only(
    loss_type: str, ratio: float, advantage: float, low: int, high: int
) -> None:
    outcome, gradient = one_token(ratio, advantage, make_config(loss_type, delta=3.0))
    weight = 1.0 / BUDGET if loss_type == "dr_grpo" else 1.0
    expected = 0.0 if low or high else -ratio * advantage * weight
    assert gradient == pytest.approx(expected, abs=1e-9)
    assert (outcome.sums.clipped_low, outcome.sums.clipped_high) == (low, high)


def test_cispo_caps_the_weight_but_never_stops_the_gradient() -> None:
    config = make_config("cispo", cispo_max_ratio=2.0)
    for ratio, advantage, weight in [
        (1.5, 1.0, 1.5),
        (9.0, 1.0, 2.0),
        (9.0, -1.0, 2.0),
        (0.1, -1.0, 0.1),
        (9.0, 0.0, 2.0),
    ]:
        outcome, gradient = one_token(ratio, advantage, config)
        assert gradient == pytest.approx(-weight * advantage)
        assert outcome.sums.clipped_high == (ratio > 2.0 and advantage != 0.0)


@pytest.mark.parametrize("loss_type", ["sapo", "vespo"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_soft_losses_are_policy_gradient_on_policy_and_fade_off_policy(loss_type: str, advantage: float) -> None:
    config = make_config(loss_type)
    assert one_token(1.0, advantage, config)[1] == pytest.approx(-advantage)
    near, far = (abs(one_token(ratio, advantage, config)[1]) for ratio in (4.0, 20.0))
    assert 0.0 < far < near < 1.0


@pytest.mark.parametrize(("loss_type", "importance"), PAIRS)
def test_on_policy_every_loss_is_the_plain_policy_gradient(loss_type: str, importance: str) -> None:
    rows = ROWS._replace(old_logprobs=ROWS.logprobs)
    outcome, gradient = run(rows, make_config(loss_type, importance))
    weights = torch.tensor([token_weight(int(row.sum()), rows.totals(), loss_type) for row in rows.mask])
    expected = -(weights * rows.advantages).unsqueeze(-1) * rows.mask
    torch.testing.assert_close(gradient, expected.to(torch.float64), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(outcome.ratio, torch.ones_like(outcome.ratio))
    assert outcome.sums.clipped_low == outcome.sums.clipped_high == 0


def test_ratio_of_a_row_is_its_mean_or_its_geometric_mean() -> None:
    old = torch.tensor([[-1.0, -1.0, -1.0]])
    logs = torch.tensor([[0.3, -0.1, 5.0]])
    rows = Rows(old + logs, old, old, torch.tensor([1.0]), torch.tensor([[1, 1, 0]]))
    by_token, _ = run(rows, make_config("grpo"))
    by_sequence, _ = run(rows, make_config("grpo", "sequence"))
    assert float(by_token.ratio) == pytest.approx((math.exp(0.3) + math.exp(-0.1)) / 2)
    assert float(by_sequence.ratio) == pytest.approx(math.exp(0.1))
    assert by_sequence.sums.ratio == pytest.approx(2 * math.exp(0.1))
    assert not by_token.ratio.requires_grad


def test_kl_is_reported_without_beta_and_is_zero_at_the_reference() -> None:
    outcome, _ = run(ROWS, make_config("dapo"))
    gap = (ROWS.ref_logprobs - ROWS.logprobs)[ROWS.mask.bool()]
    assert outcome.sums.kl == pytest.approx(float((gap.exp() - gap - 1).sum()))
    same, _ = run(ROWS._replace(ref_logprobs=ROWS.logprobs), make_config("dapo", beta=1.0))
    assert same.sums.kl == 0.0


@pytest.mark.parametrize(("loss_type", "importance"), PAIRS)
@pytest.mark.parametrize("shift", [300.0, -300.0])
def test_gradients_stay_finite_far_off_policy(loss_type: str, importance: str, shift: float) -> None:
    rows = ROWS._replace(
        logprobs=ROWS.logprobs.float(),
        old_logprobs=ROWS.old_logprobs.float() + shift,
        ref_logprobs=ROWS.logprobs + shift,
    )
    outcome, gradient = run(rows, make_config(loss_type, importance, beta=0.1))
    assert math.isfinite(float(outcome.loss))
    assert gradient.isfinite().all()


def test_half_precision_log_probs_are_summed_in_single_precision() -> None:
    halves = ROWS._replace(logprobs=ROWS.logprobs.bfloat16(), old_logprobs=ROWS.old_logprobs.bfloat16())
    exact = halves._replace(logprobs=halves.logprobs.double(), old_logprobs=halves.old_logprobs.double())
    outcome, gradient = run(halves, make_config("grpo"))
    assert outcome.loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert float(outcome.loss) == pytest.approx(float(run(exact, make_config("grpo"))[0].loss), abs=1e-6)


def test_beta_without_reference_says_what_to_do() -> None:
    with pytest.raises(ParamError, match=r"beta: 0\.1 needs a reference"):
        policy_loss(
            logprobs=ROWS.logprobs,
            old_logprobs=ROWS.old_logprobs,
            ref_logprobs=None,
            advantages=ROWS.advantages,
            mask=ROWS.mask,
            config=make_config("grpo", beta=0.1),
            totals=ROWS.totals(),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "drgrpo"}, r"loss_type: 'drgrpo' is not known \(did you mean 'dr_grpo'\?\)"),
        ({"importance": "word"}, "importance: 'word' is not known"),
        ({"epsilon_low": 1.5}, r"epsilon_low: 1\.5 must be"),
        ({"epsilon_high": -0.1}, r"epsilon_high: -0\.1 must be"),
        ({"beta": math.nan}, "beta: nan must be"),
        ({"delta": 1.2}, r"delta: 1\.2 must be finite and above 1 \+ epsilon_high = 1\.28"),
        ({"delta": 4.0, "loss_type": "sapo"}, r"delta: 4\.0 has no effect on 'sapo'"),
        ({"cispo_max_ratio": 0.0}, r"cispo_max_ratio: 0\.0 must be"),
        ({"sapo_temperature_neg": 0.0}, r"sapo_temperature_neg: 0\.0 must be"),
        ({"vespo_lambda_pos": math.inf}, "vespo_lambda_pos: inf must be"),
        ({"loss_type": "luspo"}, "'luspo' is not defined for 'token'; set it to 'sequence'"),
        ({"loss_type": "vespo", "importance": "sequence"}, "'vespo' is not defined for 'sequence'"),
    ],
)
def test_a_value_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        replace(LossConfig(), **options)
