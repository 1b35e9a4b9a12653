"""Train policies for three steps as the ranks of a group, and alone: the process that the tests of replicas start."""

import json
import multiprocessing
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import genrl_graph.nodes.policy.loading.adapter  # noqa: F401
from genrl_graph.contract.policy import Sampling, TextPolicy, TokenSequence
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.replicas.group import ReplicaGroup
from genrl_graph.nodes.policy.replicas.policy import ReplicatedPolicy
from genrl_graph.seeds import stream

STEPS = 3
FORK = multiprocessing.get_context("fork")


def made(case: dict[str, Any]) -> CausalPolicy:
    """Return the policy of a case, in float64 if it says so."""
    params = {"compute_dtype": "float32", **case["params"]}
    policy = (Lora if case.get("lora") else CausalLM)(**params).init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    if case.get("double"):
        policy.model.double()
    return policy


def rows(count: int) -> list[TokenSequence]:
    """Return rows of very different lengths; every second one has the prompt of the one before."""
    rng, sequences = stream("rows", count), list[TokenSequence]()
    for at in range(count):
        prompt = sequences[-1].prompt_ids if at % 2 else rng.integers(3, 90, 20 + 3 * at).astype(np.int32)
        sequences.append(TokenSequence(prompt, rng.integers(3, 90, 1 + 7 * (at % 3)).astype(np.int32)))
    return sequences


def stepped(policy: TextPolicy, case: dict[str, Any], sequences: list[TokenSequence]) -> tuple[float, float]:
    """Take an optimiser step on all rows; returns the loss and the norm of the gradient."""
    total, advantages = 0.0, stream("advantages").standard_normal(len(sequences))
    for at in policy.micro_batches(sequences, max_batch_tokens=case["max_batch_tokens"]):
        some, warmth = [sequences[row] for row in at], np.full(len(at), 0.8, np.float32)
        weights = torch.from_numpy(advantages[at])[:, None]
        if policy.has_critic:
            logprobs, values = policy.logprobs_and_values(some, temperatures=warmth)
            loss = -(weights * logprobs).sum() + 0.1 * (values**2 - 2 * values).sum()
        else:
            loss = -(weights * policy.logprobs(some, temperatures=warmth)).sum()
        policy.backward(loss / 50)
        total += float(loss.detach())
    return total, policy.step(learning_rate=1e-3, max_grad_norm=case.get("max_grad_norm", 1e9))


def trained(policy: TextPolicy, case: dict[str, Any], out: Path) -> None:
    """Take three steps and write losses and norms; `first` and `last` are the policy after the first and the last."""
    sequences, measured = rows(case["rows"]), []
    for step in range(STEPS):
        measured.append(stepped(policy, case, sequences))
        if step in (0, STEPS - 1):
            folder = out / ("last" if step else "first")
            folder.mkdir(parents=True)
            policy.save(folder)
    sampled = policy.generate(
        [sequence.prompt_ids for sequence in sequences[:3]],
        num_generations=3,
        sampling=Sampling(6),
        rng=stream("sampled"),
        max_batch_tokens=64,
    )
    facts = {
        "measured": measured,
        "digest": policy.digest(),
        "version": policy.version,
        "texts": [[one.text for one in group] for group in sampled],
    }
    if "loads" in case:
        facts["loaded"] = resumed(policy, case, sequences)
    (out / "facts.json").write_text(json.dumps(facts))


def resumed(policy: TextPolicy, case: dict[str, Any], sequences: list[TokenSequence]) -> dict[str, Any]:
    """Load a checkpoint and return what comes next: a step, or an average that halves the weights."""
    checkpoint = Path(case["loads"])
    policy.load(checkpoint)
    facts = {"version": policy.version, "digest": policy.digest(), "next": stepped(policy, case, sequences)}
    policy.load(checkpoint)
    policy.replace_trained({name: values * np.float32(0.5) for name, values in policy.trained_values().items()})
    return {**facts, "halved": policy.digest()}


def train_rank(rank: int, size: int, cases: dict[str, dict[str, Any]], out: Path) -> None:
    """Train all cases as one of `size` ranks, or alone."""
    if size == 1:
        for name, case in cases.items():
            trained(made(case), case, out / name)
        return
    distributed.init_process_group("gloo", init_method=f"file://{out}.meet", rank=rank, world_size=size)
    calls = distributed.new_group(list(range(size)), timeout=timedelta(minutes=30))
    group = ReplicaGroup(init_device_mesh("cpu", (size,)), calls, lost=lambda: "a rank is gone")
    policies = {name: ReplicatedPolicy(made(case), group) for name, case in cases.items()}
    if rank:
        group.serve()
    else:
        for name, case in cases.items():
            trained(policies[name], case, out / name)
        group.end()
    distributed.destroy_process_group()


def main(cases: dict[str, dict[str, Any]], out: Path) -> None:
    """Train as 2, 1 and 4 ranks, which are copies of this process: so torch is imported only once."""
    out.mkdir(parents=True, exist_ok=True)
    for size in (2, 1, 4):
        ranks = [FORK.Process(target=train_rank, args=(rank, size, cases, out / str(size))) for rank in range(size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
