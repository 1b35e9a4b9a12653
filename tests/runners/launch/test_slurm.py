"""A job on a real Slurm: two machines of two ranks each, killed, requeued and resumed; `make slurm` runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import ROOT, digests_of, rows_of
from slurm_cluster import Cluster, cluster

from genrl_graph.cli import run_command
from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play

ROUNDS, PEERS = 4, 4
LIMIT_S = 900.0
GAME = ROOT / "graphs/tiny_multistage.yaml"
CHANGES = [f"run.rounds={ROUNDS}", f"run.peers={PEERS}", "run.checkpoint_every=1", "run.trackers=[]"]


def rounds_of(run: Path) -> int:
    """Return how many rounds the first peer has finished."""
    metrics = run / "peer0000/metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for_rounds(running: Cluster, job: str, run: Path, count: int) -> None:
    until = time.monotonic() + LIMIT_S
    while rounds_of(run) < count:
        state = running.state(job)
        assert time.monotonic() < until and state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), (
            state + "".join(file.read_text() for file in running.folder.glob("*.log")) + running.logs()
        )
        time.sleep(0.5)


def pid_of_rank(rank: int) -> int:
    """Return the process of a rank of the job."""
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_text().split("\0")
            env = (folder / "environ").read_text().split("\0")
        except (OSError, ValueError):
            continue
        if "genrl_graph" in command and "--runner" in command and f"RANK={rank}" in env and "SLURM_JOB_ID" in str(env):
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not running")


@pytest.mark.soak
@pytest.mark.timeout(4 * LIMIT_S)
def test_a_job_is_killed_requeued_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    options = ["--nodes", "2", "--ranks", str(PEERS), "--cpus-per-rank", "1", "--memory-gib", "2", "--run", "run"]
    with cluster(tmp_path / "cluster", machines=("n1", "n2"), cpus=4) as running:
        folder = running.folder
        assert run_command(["launch", str(GAME), *CHANGES, "--on", "slurm", *options, "-o", str(folder / "job")]) == 0
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        submit = ["sbatch", "--parsable", f"--export=ALL,PATH={path},PYTHONPATH={ROOT}", str(folder / "job/job.sbatch")]
        job, run = running.run(submit).strip(), folder / "run"
        wait_for_rounds(running, job, run, 1)
        os.kill(pid_of_rank(3), signal.SIGKILL)  # torchrun starts all ranks again
        wait_for_rounds(running, job, run, 2)
        running.run(["scontrol", "requeue", job])
        running.wait_for(job, ["PENDING"], 60)
        running.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
        state = running.wait_for(job, ["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"], LIMIT_S)
        log = "".join(file.read_text() for file in folder.glob("tiny_multistage-*.log"))
        assert state == "COMPLETED", log + running.logs()
        assert "Restarts=1" in running.run(["scontrol", "show", "job", job])
    version = subprocess.check_output(["slurmd", "-V"], text=True).strip()
    print(f"\n{version}: {log.count('goes on from')} starts resumed")
    assert log.count("goes on from") >= 2, log
    play(read(GAME, CHANGES).graph, out=tmp_path / "local", quiet=True, threads=1)
    for peer in (f"peer{at:04d}" for at in range(PEERS)):
        here, there = rows_of(tmp_path / "local", peer), rows_of(run / peer, peer)
        assert all(rows.equals(there[group]) for group, rows in here.items())
        assert digests_of(tmp_path / "local", peer) == digests_of(run / peer, peer)
