"""Independent peers under torchrun: each updates by itself, regardless of the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import json, os, pathlib, sys
import numpy as np
from genrl_graph import Log, Tasks, credit, score
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.grpo import Grpo


def play(rank):
    """Update one peer; rank 1 has five times the rows, so more micro-batches, and two steps instead of one."""
    policy = TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=0)
    questions = ["1+2=", "3+4="] if rank == 0 else [f"{n}+{n}=" for n in range(10)]
    tasks = Tasks.from_rows([
        {"id": f"tasks/{q}", "messages": [{"role": "user", "content": q}], "answer": "", "metadata": "{}"}
        for q in questions
    ])
    node = Answer(template="{{ task.question }}", num_generations=4, max_new_tokens=4)
    rng = np.random.default_rng(rank)
    rows = node.run(tasks, policy, rng=rng, log=Log(), round=0, peer=f"peer{rank:04d}")
    rewards = rng.normal(size=len(rows))
    rows = credit(score(rows, {"made_up": rewards}), rewards)
    update = Grpo(learning_rate=1e-2, max_batch_tokens=40, epochs=1 + rank)
    update.run(policy, [rows], rng=rng, log=(log := Log()), peer=f"peer{rank:04d}")
    return {"digest": policy.digest(), "steps": policy.version, "tokens": log.metrics["trained_tokens"]}


out = pathlib.Path(sys.argv[1])
if "RANK" in os.environ:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    result = play(dist.get_rank())
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.destroy_process_group()
else:
    (out / "alone.json").write_text(json.dumps([play(0), play(1)]))
'''


@pytest.mark.long
def test_unequal_peers_update_without_waiting_and_equal_one_process(tmp_path: Path) -> None:
    script = tmp_path / "peers.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, str(script), str(tmp_path)], env=environment, check=True, timeout=240)
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=True, timeout=240)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks == json.loads((tmp_path / "alone.json").read_text())
    assert ranks[0]["steps"] == 1
    assert ranks[1]["steps"] == 2
    assert ranks[1]["tokens"] > 3 * ranks[0]["tokens"]
