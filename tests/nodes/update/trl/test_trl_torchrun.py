"""TRL's trainers under torchrun: a rank is an independent peer, not a replica."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import json, os, pathlib, sys
import numpy as np
from genrl_graph import Log, Tasks, score
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.sft import Sft


def play(rank):
    """Update one peer; rank 1 has five times the rows and twice the epochs, so more steps and micro-batches."""
    policy = TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=0)
    questions = ["1+2=", "3+4="] if rank == 0 else [f"{n}+{n}=" for n in range(10)]
    tasks = Tasks.from_rows([
        {"id": f"tasks/{q}", "messages": [{"role": "user", "content": q}], "answer": "", "metadata": "{}"}
        for q in questions
    ])
    node = Answer(template="{{ task.question }}", num_generations=4, max_new_tokens=4)
    rng = np.random.default_rng(rank)
    rows = node.run(tasks, policy, rng=rng, log=Log(), round=0, peer=f"peer{rank:04d}")
    rows = score(rows, {"made_up": rng.normal(size=len(rows))})
    digests = []
    for update in (Sft, Dpo):
        node = update(learning_rate=1e-2, batch_size=4, max_batch_tokens=40, epochs=1 + rank)
        node.run(policy, [rows], rng=rng, log=(log := Log()), peer=f"peer{rank:04d}")
        digests.append(policy.digest())
    return {"digests": digests, "steps": policy.version, "loss": log.metrics["loss"]}


out = pathlib.Path(sys.argv[1])
if "RANK" in os.environ:
    if sys.argv[2] == "grouped":  # the runner's group; without it accelerate would make one
        import torch.distributed as dist

        dist.init_process_group("gloo")
    rank = os.environ["RANK"]
    result = play(int(rank))
    assert os.environ["RANK"] == rank and os.environ["WORLD_SIZE"] == "2"
    import torch

    if sys.argv[2] == "grouped":
        found = torch.tensor([float(rank)])
        dist.all_reduce(found)
        assert dist.get_world_size() == 2 and found.item() == 1.0
        dist.destroy_process_group()
    else:
        assert not torch.distributed.is_initialized()
    (out / f"rank{rank}.json").write_text(json.dumps(result))
else:
    (out / "alone.json").write_text(json.dumps([play(0), play(1)]))
'''


@pytest.mark.long
def test_unequal_peers_train_by_themselves_and_equal_one_process(tmp_path: Path) -> None:
    script = tmp_path / "peers.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=True, timeout=240)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for group in ("grouped", "ungrouped"):
        run = subprocess.run(
            [*torchrun, str(script), str(tmp_path), group],
            env=environment,
            check=True,
            timeout=240,
            capture_output=True,
            text=True,
        )
        assert "process group is initialized" not in run.stderr
        ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
        assert ranks == json.loads((tmp_path / "alone.json").read_text())
    assert (ranks[0]["steps"], ranks[1]["steps"]) == (2 + 1, 2 * (10 + 3))
