"""Games on a GPU are those on the CPU, and checkpoints move between them; `make gpu` runs this on a GPU.

With GENRL_GRAPH_TEST_DEVICE=cpu:0 it runs without one, which shows only that the tests themselves hold.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrl_graph.graph_file.read import Loaded, read
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

DEVICE = os.environ.get("GENRL_GRAPH_TEST_DEVICE", "cuda")
SMALL = {
    "tiny": ["nodes.tasks.params.num_tasks=8"],
    "tiny_multistage": ["nodes.tasks.params.num_tasks=4"],
    "tiny_ppo": ["nodes.tasks.params.num_tasks=8"],
    "text_to_image": [
        "carry.policy.params={tiny: {height: 8, width: 8, channels: 8, caption_characters: 4}}",
        "nodes.paint.params={num_generations: 2, steps: 2}",
    ],
    "describe_image": [],
    "games/tic_tac_toe": [],
    "games/cartpole_dqn": [],
}
ALIKE = 0.9  # share of rows whose samples are equal: where two tokens are about as likely, rounding decides

pytestmark = pytest.mark.gpu


def game(graphs: Path, name: str, device: str, *changes: str) -> Loaded:
    """Return a shipped game, small, with all its policies on a device."""
    common = ["run.trackers=[]", "run.checkpoint_every=1", "run.keep=null", *SMALL[name], *changes]
    loaded = read(graphs / f"{name}.yaml", common)
    own = [key for key, carry in loaded.graph.carries.items() if hasattr(carry.declared, "device")]
    assert own, f"{name}: no policy takes a device"
    return read(graphs / f"{name}.yaml", [*common, *(f"carry.{key}.params.device={device}" for key in own)])


def numbers(table: pa.Table) -> dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    """Return the columns of floats or lists of floats, row by row."""
    found = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_floating(kind) or (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)):
            found[name] = [np.atleast_1d(np.asarray(value, np.float64)) for value in table[name].to_pylist()]
    return found


@pytest.mark.parametrize("name", SMALL)
def test_a_game_on_a_gpu_is_the_game_on_the_cpu(graphs: Path, tmp_path: Path, name: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    play(game(graphs, name, "cpu").graph, out=here, rounds=1, quiet=True)
    play(game(graphs, name, DEVICE).graph, out=there, rounds=2, quiet=True)
    verify_run(there)
    compared = 0
    for group in RunStore.open(here).groups():
        ours, theirs = (RunStore.open(run).table(group, range(1)) for run in (here, there))
        assert ours.schema == theirs.schema and abs(len(ours) - len(theirs)) <= (1 - ALIKE) * len(ours)
        columns = numbers(ours)
        for column, values in numbers(theirs).items():
            pairs = list(zip(columns[column], values, strict=False))
            equal = [a.shape == b.shape and np.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True) for a, b in pairs]
            assert np.mean(equal) >= ALIKE, (group, column)
            compared += len(equal)
    assert compared > 0


@pytest.mark.parametrize("name", ["tiny", "text_to_image", "games/tic_tac_toe"])
def test_a_checkpoint_moves_from_a_gpu_to_the_cpu_and_back(graphs: Path, tmp_path: Path, name: str) -> None:
    play(game(graphs, name, DEVICE).graph, out=tmp_path / "run", rounds=1, quiet=True)
    saved, digests = tmp_path / "run/checkpoints/000001/peer0000/policy", []
    for device in (DEVICE, "cpu", DEVICE):
        carry = game(graphs, name, device).graph.carries["policy"].carry
        policy = carry.init("policy", seed=0)
        before = policy.digest()
        policy.load(saved)
        digests.append(policy.digest())
        saved = tmp_path / f"{len(digests)}"
        saved.mkdir()
        policy.save(saved)
    assert digests == [digests[0]] * 3 and digests[0] != before


def test_bfloat16_samples_what_float32_does_but_for_rounding(graphs: Path, tmp_path: Path) -> None:
    """Print what both take: peak memory of the device, and time."""
    sizes = ["carry.policy.params.hidden_size=128", "nodes.tasks.params.num_tasks=16"]
    logprobs = []
    for dtype in ("float32", "bfloat16"):
        run, start = tmp_path / dtype, time.monotonic()
        loaded = game(graphs, "tiny", DEVICE, *sizes, f"carry.policy.params.compute_dtype={dtype}")
        play(loaded.graph, out=run, rounds=2, quiet=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        memory = max(line.get("memory/device_gb", 0.0) for line in lines)
        print(f"{dtype}: {memory:.2f} GB of the device, {time.monotonic() - start:.1f} s")
        logprobs.append(np.concatenate(RunStore.open(run).table("answer", range(1))["logprobs"].to_pylist()))
    gaps = np.abs(logprobs[0] - logprobs[1])
    assert 0 < np.median(gaps) < 0.05, "rounded, and no more"
