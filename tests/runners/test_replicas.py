"""Peers that are groups of ranks play as peers of one process do; a rank that dies ends its group, and it goes on."""

import re
from pathlib import Path

import pytest
import torch
from ranks import ROOT, free_port, play_ranks, rows_of, start, wait
from safetensors.torch import load_file

from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play

TINY, STAGED = ROOT / "graphs/tiny.yaml", ROOT / "graphs/tiny_multistage.yaml"
LIMIT_S = 900.0
SMALL = ["run.rounds=3", "run.trackers=[]", "run.checkpoint_every=1", "run.keep=null"]
ROUNDED = ("logprobs", "advantage", "ratio")
CUT = """
# Rank 1 kills itself in its 9th call, but not after a restart.
import os, signal
from genrl_graph.nodes.policy.replicas.group import ReplicaGroup

whole, left = ReplicaGroup._run, [9]

def running(self, call):
    left[0] -= 1
    if left[0] == 0 and os.environ["RANK"] == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, call)

ReplicaGroup._run = running
"""

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


def tensors(run: Path, peer: str, rounds: int, file: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint of a policy."""
    tensors: dict[str, torch.Tensor] = load_file(run / f"checkpoints/{rounds:06d}/{peer}/policy/{file}.safetensors")
    return tensors


def gradient_gap(here: Path, there: Path, peer: str) -> float:
    """Return the largest difference of the gradients of the first round, relative to the largest number of a tensor.

    The first moment of Adam after one step is a tenth of the gradient.
    """
    ours, theirs = (tensors(run, peer, 1, "optimizer") for run in (here, there))
    names = [name for name in ours if name.endswith("|exp_avg")]
    return max(float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max()) for name in names)


def mean_gap(here: Path, there: Path, peer: str) -> float:
    """Return the mean difference of the weights after the last round.

    Adam divides a gradient by its own size: where one is hardly more than its rounding, single weights differ by up to
    a learning rate. In float64 none does: the tests of the policy itself hold them to 1e-9.
    """
    ours, theirs = (tensors(run, peer, 3, "model") for run in (here, there))
    return float(torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours]).mean())


def same_but_for_rounding(here: Path, there: Path, peer: str) -> bool:
    """Print the gaps of gradients and weights, and return whether all but rounded numbers are equal."""
    ours, theirs = rows_of(here, peer), rows_of(there, peer)
    assert ours.keys() == theirs.keys()
    for group, rows in ours.items():
        exact = [name for name in rows.column_names if name not in ROUNDED]
        assert rows.select(exact).equals(theirs[group].select(exact)), (peer, group)
    gradient, weights = gradient_gap(here, there, peer), mean_gap(here, there, peer)
    print(f"{peer}: gradients differ by {gradient:.1e} of the largest, weights after 3 rounds by {weights:.1e}")
    return gradient < 1e-5 and weights < 1e-6


@pytest.mark.soak
def test_two_peers_of_two_ranks_play_what_two_peers_play(tmp_path: Path) -> None:
    play(read(STAGED, SMALL).graph, out=tmp_path / "local", quiet=True, threads=1)
    run = tmp_path / "run"
    ended = play_ranks(["run", str(STAGED), "-o", str(run), *SMALL, "run.replicas=2"], own=[[]] * 4, limit_s=LIMIT_S)
    assert [process.code for process in ended] == [0] * 4, "".join(process.text for process in ended)
    assert [process.text for process in ended[1:]] == ["", "", ""], "only the first rank speaks"
    assert sorted(path.name for path in run.iterdir()) == ["peer0000", "peer0001"]
    for peer in ("peer0000", "peer0001"):
        assert same_but_for_rounding(tmp_path / "local", run / peer, peer)


@pytest.mark.long
def test_a_rank_that_dies_is_named_and_torchrun_goes_on_without_a_loss(tmp_path: Path) -> None:
    (tmp_path / "cut.py").write_text(CUT)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    play_it = ["-m", "genrl_graph", "run", str(TINY), "-o", str(tmp_path / "run"), *SMALL, "run.replicas=2"]
    play_it += ["--runner", "torch", "--resume", "--import", str(tmp_path / "cut.py")]
    (ended,) = wait([start([*launch, *play_it])], LIMIT_S)
    assert ended.code == 0 and "goes on from" in ended.text, ended.text
    assert re.search(r"peer0000: rank 1 \(process \d+ on .+\) of its 2 ranks is gone", ended.text), ended.text
    play(read(TINY, SMALL).graph, out=tmp_path / "local", quiet=True, threads=1)
    assert same_but_for_rounding(tmp_path / "local", tmp_path / "run/peer0000", "peer0000")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_share_a_policy_over_nccl(tmp_path: Path) -> None:
    play(read(TINY, SMALL).graph, out=tmp_path / "local", quiet=True, threads=1)
    arguments = ["run", str(TINY), "-o", str(tmp_path / "run"), *SMALL, "run.replicas=2", "--backend", "nccl"]
    ended = play_ranks(arguments, own=[[], []], limit_s=LIMIT_S)
    assert [process.code for process in ended] == [0, 0], "".join(process.text for process in ended)
    assert gradient_gap(tmp_path / "local", tmp_path / "run/peer0000", "peer0000") < 1e-3
