"""The arithmetic of an estimate against cases computed by hand, and what must never shrink."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.nodes.policy.compute.activation_checkpointing import recomputed_layers
from genrl_graph.runners.estimate.costs import (
    Machine,
    MicroBatchWork,
    Model,
    Range,
    SequenceBatch,
    Speeds,
    Work,
    longest_of,
    peak_memory,
    sampling_bytes,
    training_bytes,
    varied_share,
    work_seconds,
)

MACHINE = Machine(copy=1e9, touch=1e9, adamw=1e6, digest=4e6, write=1e9, read=1e9, base=1e9)
SPEEDS = Speeds(
    prefill_call=1.0,
    prefill_token=0.01,
    decode_call=0.5,
    decode_row=0.1,
    train_call=2.0,
    train_token=0.03,
    train_head=0.02,
    saved_call=1000.0,
    saved_token=100.0,
)
# 2 layers, hidden 8, 2 key-value heads of 2: 2 x 2 layers x 2 heads x 2 = 16 numbers a token
MODEL = Model(parameters=1_000_000, trained=1_000_000, vocabulary=100, hidden=8, layers=2, kv_size=16)


def test_bytes_of_a_policy_by_hand() -> None:
    assert MODEL.own_bytes == 4_000_000
    assert MODEL.moment_bytes == 8_000_000
    assert MODEL.gradient_bytes == 4_000_000
    assert (MODEL.kv_bytes, MODEL.cast_bytes) == (64, 0)
    half = replace(MODEL, bfloat16=True)
    assert (half.kv_bytes, half.cast_bytes, half.own_bytes) == (32, 2_000_000, 4_000_000)
    stored = replace(half, weight_bytes=2, master_bytes=4)  # bfloat16 weights with float32 masters: no casts
    assert (stored.own_bytes, stored.cast_bytes, stored.gradient_bytes) == (2_000_000, 0, 4_000_000)
    assert (stored.moment_bytes, replace(stored, master_bytes=0).moment_bytes) == (12_000_000, 8_000_000)
    assert (MODEL.gathered_bytes(2), stored.gathered_bytes(2), stored.gathered_bytes(1)) == (4_000_000, 2_000_000, 0)
    whole = 800 + 999_200 / 2  # the embedding, and one of the layers
    assert (MODEL.largest_bytes, stored.largest_bytes) == (16 * whole, 10 * whole)
    adapter = replace(MODEL, parameters=1_010_000, trained=10_000, shared=1_000_000)
    assert (adapter.own_bytes, adapter.moment_bytes) == (40_000, 80_000)


def test_the_cache_of_a_batch_holds_prompt_and_room() -> None:
    batch = SequenceBatch(rows=3, prompts=1, width=10, room=5, longest=5, tokens=15)
    assert sampling_bytes(batch, MODEL) == 3 * 15 * 64 + 16 * 3 * 100


def test_seconds_of_a_step_by_hand() -> None:
    flat = replace(MODEL, hidden=0)  # no attention between pairs of tokens
    batch = SequenceBatch(rows=4, prompts=2, width=10, room=0, longest=6, tokens=20)
    sampled = work_seconds(Work("policy", batches=(batch,)), replace(flat, kv_size=0), SPEEDS, MACHINE)
    assert sampled == pytest.approx(1.0 + 20 * 0.01 + 6 * 0.5 + 20 * 0.1)
    work = Work("policy", micros=(MicroBatchWork(2, 10, 5),), steps=3, digested=True)
    assert work_seconds(work, flat, SPEEDS, MACHINE) == pytest.approx(2.0 + 20 * 0.03 + 5 * 0.02 + 3 * 1.0 + 1.0)
    again = work_seconds(
        Work("policy", micros=(MicroBatchWork(2, 10, 0),)), replace(flat, activation_bytes=0.0), SPEEDS, MACHINE
    )
    assert again == pytest.approx(2.0 + 20 * 0.03 + 1.0 + 20 * 0.01)


def test_checkpointing_keeps_one_layer_and_the_input_of_each() -> None:
    micro = MicroBatchWork(2, 10, 0)
    assert training_bytes(micro, MODEL, SPEEDS) == 4_000_000 + 1000 + 20 * 100
    assert training_bytes(micro, replace(MODEL, activation_bytes=0.0), SPEEDS) == 4_000_000 + 1000 + 20 * (50 + 64)


@given(
    tokens=st.integers(0, 5000),
    layers=st.integers(1, 40),
    saved_token=st.floats(0, 1e7),
    limit=st.floats(0, 1e10),
)
def test_as_few_layers_compute_again_as_the_limit_asks(
    tokens: int, layers: int, saved_token: float, limit: float
) -> None:
    def kept(again: int) -> float:
        each = saved_token * tokens / layers
        return (layers - again) * each + (again * 8.0 * 64 * tokens + each if again else 0.0)

    again = recomputed_layers(tokens, layers=layers, hidden=64, saved_token=saved_token, limit=limit)
    assert 0 <= again <= layers
    if again < layers:
        assert kept(again) <= limit * (1 + 1e-9)
    if again > 1 and kept(1) > kept(2):
        assert kept(again - 1) > limit * (1 - 1e-9)


def test_the_peak_is_the_fullest_moment() -> None:
    work = Work("policy", micros=(MicroBatchWork(1000, 200, 0),), steps=1)

    def peak(models: dict[str, Model], works: list[Work], peers: int = 1, ahead: bool = False) -> dict[str, float]:
        speeds = dict.fromkeys(models, SPEEDS)
        return peak_memory(models, works, speeds, MACHINE, updated={"policy"}, peers=peers, ahead=ahead).parts

    parts = peak({"policy": MODEL}, [work], peers=2)
    assert parts["weights"] == 2 * 4_000_000 and parts["optimiser"] == 2 * 8_000_000
    assert parts["training"] == 4_000_000 + 1000 + 200_000 * 100
    batch = SequenceBatch(rows=3, prompts=1, width=10, room=5, longest=5, tokens=15)
    ahead = peak({"policy": MODEL, "judge": MODEL}, [replace(work, batches=(batch,))], peers=2, ahead=True)
    assert ahead["copies that sample"] == 2 * 4_000_000 and ahead["weights"] == 2 * 8_000_000
    assert ahead["sampling beside training"] == parts["training"] + sampling_bytes(batch, MODEL)
    for most, kept in ((10**8, 10**6 * MODEL.kv_bytes), (10**7, 10**7)):
        turn = Work("policy", batches=(batch,), kept=10**6, kept_bytes=most)
        assert peak({"policy": MODEL}, [turn])["sampling"] == sampling_bytes(batch, MODEL) + kept
    frozen = peak({"policy": MODEL, "judge": MODEL}, [])
    assert frozen["weights"] == 8_000_000 and frozen["optimiser"] == 0
    adapters = {name: replace(MODEL, shared=990_000, trained=10_000) for name in ("policy", "other")}
    assert peak(adapters, [])["weights"] == 2 * 40_000
    assert peak(adapters, [])["weights that peers share"] == 4 * 990_000


def test_groups_vary_as_often_as_the_beta_binomial_says() -> None:
    assert varied_share(4, 1.0) == pytest.approx(1 - 2 / 5)  # any chance is as likely: every count of passes is
    assert varied_share(2, 0.5) == pytest.approx(1 / 4)
    assert varied_share(1, 0.5) == 0.0


def test_the_longest_of_many_completions_is_cut() -> None:
    assert longest_of(1, 10, 100) == 10
    assert longest_of(2, 10, 100) == 15
    assert longest_of(64, 60, 100) == 100


@given(low=st.floats(0.1, 10), high=st.floats(10, 1e6))
def test_a_narrowed_range_is_at_most_three_wide_around_the_same_middle(low: float, high: float) -> None:
    narrow = Range(low, high).narrowed()
    assert low <= narrow.low * (1 + 1e-9) and narrow.high <= high * (1 + 1e-9)
    assert narrow.high / narrow.low <= 3 * (1 + 1e-9)
    assert (narrow.low * narrow.high) == pytest.approx(low * high)


COUNT = st.integers(1, 50)


@given(rows=COUNT, prompts=COUNT, width=COUNT, room=COUNT, more=COUNT, completions=COUNT)
def test_more_work_is_never_cheaper(
    rows: int, prompts: int, width: int, room: int, more: int, completions: int
) -> None:
    batch = SequenceBatch(rows, prompts, width, room, float(room), float(rows * room))
    for name in ("rows", "prompts", "width", "room", "longest", "tokens"):
        larger = replace(batch, **{name: getattr(batch, name) + more})
        assert sampling_bytes(larger, MODEL) >= sampling_bytes(batch, MODEL)
        few, many = (work_seconds(Work("p", batches=(b,)), MODEL, SPEEDS, MACHINE) for b in (batch, larger))
        assert many >= few
    micro = MicroBatchWork(rows, width, completions)
    for name in ("rows", "width", "completions"):
        bigger = replace(micro, **{name: getattr(micro, name) + more})
        assert training_bytes(bigger, MODEL, SPEEDS) >= training_bytes(micro, MODEL, SPEEDS)
        few, many = (work_seconds(Work("p", micros=(m,)), MODEL, SPEEDS, MACHINE) for m in (micro, bigger))
        assert many >= few


def test_each_of_several_ranks_has_a_part_of_what_is_trained() -> None:
    big = Model(parameters=10**9, trained=10**9, vocabulary=100, hidden=8, layers=32, kv_size=16)
    batch = SequenceBatch(rows=4, prompts=2, width=10, room=10, longest=10, tokens=40)
    works = [Work("policy", batches=(batch,), micros=(MicroBatchWork(4, 20, 40),), steps=1)]

    def parts(replicas: int) -> dict[str, float]:
        models, speeds = {"policy": big}, {"policy": SPEEDS}
        return peak_memory(models, works, speeds, MACHINE, updated={"policy"}, peers=1, replicas=replicas).parts

    assert [parts(n)["weights"] for n in (1, 2, 4)] == [4e9, 2e9, 1e9]
    assert [parts(n)["optimiser"] for n in (1, 2, 4)] == [8e9, 4e9, 2e9]
    assert parts(1)["training"] == pytest.approx(4e9, rel=0.01), "the gradients of all weights"
    assert parts(4)["sampling"] == pytest.approx(4e9, rel=0.01), "whole weights, which outweigh a part of the gradients"
