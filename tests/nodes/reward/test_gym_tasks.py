"""Data sets of reasoning-gym in one graph file: their own answers get the full reward, wrong ones less."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from genrl_graph import load, play
from genrl_graph.store.run_store import RunStore

DATA_SETS = (
    "arc_1d",
    "base_conversion",
    "basic_arithmetic",
    "bf",
    "binary_matrix",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "decimal_arithmetic",
    "family_relationships",
    "fraction_simplification",
    "gcd",
    "knights_knaves",
    "leg_counting",
    "letter_counting",
    "list_functions",
    "number_sorting",
    "prime_factorization",
    "simple_equations",
    "spell_backward",
)
RIGHT, WRONG = "Let me think. <answer>{answer}</answer>", "<answer>-12345</answer>"


def graph_file(folder: Path) -> Path:
    """Write a graph with a source, a generator, a reward and an advantage per data set."""
    nodes: dict[str, object] = {}
    for name in DATA_SETS:
        nodes[f"tasks_{name}"] = {"type": "source.reasoning_gym", "params": {"dataset": name, "num_tasks": 3}}
        nodes[f"answer_{name}"] = {
            "type": "generate.test_scripted",
            "inputs": {"tasks": f"tasks_{name}"},
            "params": {"completions": [RIGHT, WRONG, "I do not know."]},
        }
        rewarded = {"type": "reward.reasoning_gym", "inputs": {"rollouts": f"answer_{name}"}, "params": {"format": 0.0}}
        nodes[f"score_{name}"] = rewarded
        nodes[f"credit_{name}"] = {"type": "advantage.group", "inputs": {"scored": f"score_{name}"}}
    path = folder / "gym.yaml"
    path.write_text(yaml.safe_dump({"graph": "gym", "version": 1, "nodes": nodes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Play one round and return its store."""
    folder = tmp_path_factory.mktemp("gym")
    run = play(load(graph_file(folder)), out=folder / "run", rounds=1, quiet=True)
    return RunStore.open(run.folder)


def test_the_data_set_s_own_answer_is_paid_in_full_and_a_wrong_one_less(store: RunStore) -> None:
    lines = []
    for name in DATA_SETS:
        scored = store.table(f"score_{name}")
        correct = scored.column("reward_correct").to_numpy().reshape(3, 3)
        assert (correct[:, 0] == 1.0).all(), name
        assert (correct[:, 1:] < 1.0).all(), name
        assert (scored.column("reward_format").to_numpy().reshape(3, 3) == [1.0, 1.0, 0.0]).all(), name
        advantage = store.table(f"credit_{name}").column("advantage").to_numpy().reshape(3, 3)
        assert (advantage[:, :1] > advantage[:, 1:]).all(), name
        means = ", ".join(
            f"{what} {mean:.2f}" for what, mean in zip(("right", "wrong", "none"), correct.mean(0), strict=True)
        )
        lines.append(
            f"{name:26} {len(scored)} rows, mean reward {np.mean(scored.column('reward').to_numpy()):.3f} ({means})"
        )
    print("", *lines, sep="\n")
    assert len(set(DATA_SETS)) == len(lines) == 20


def test_no_row_is_left_unjudged(store: RunStore) -> None:
    assert not [group for group in store.groups() if group.endswith("/failures")]
