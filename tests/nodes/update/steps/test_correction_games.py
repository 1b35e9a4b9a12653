"""Importance corrections in a game whose sampler is off: five sizes of noise, five seeds, as found."""

from pathlib import Path

import pytest

import genrl_graph.graphs
from genrl_graph.cli import run_command

PERTURBED = Path(__file__).parents[3] / "perturbed.py"
TINY = Path(genrl_graph.graphs.__file__).resolve().parent / "tiny.yaml"


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("method", ["none", "tis", "mis", "icepop"])
def test_a_game_with_a_perturbed_sampler(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "carry.policy.type=policy.perturbed_lm",
        "carry.policy.params.spread=0.0,0.1,0.3,0.6,1.0",
        f"nodes.update.params.importance_correction={method}",
        "nodes.update.params.learning_rate=3e-3",
        "nodes.update.params.decay=constant",
        "run.rounds=150",
        "run.trackers=[]",
    ]
    command = [
        "sweep",
        str(TINY),
        *options,
        "--seeds",
        "0:5",
        "--import",
        str(PERTURBED),
        "-o",
        str(tmp_path / "s"),
        "-q",
    ]
    assert run_command(command) == 0
    for metric in ("score/reward", "update/log_ratio_mean", "update/effective_sample_size"):
        assert run_command(["compare", str(tmp_path / "s"), "--metric", metric, "--smooth", "20"]) == 0
    print(f"\n{method}\n{capsys.readouterr().out}")
