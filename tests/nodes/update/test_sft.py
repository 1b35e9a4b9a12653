"""`update.sft` against the policy's log-probs and plain torch, and a game that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixture_types import Sample

from genrl_graph import Log, Rollouts, TextPolicy, load, play
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.update.sft import Sft
from genrl_graph.store.run_store import RunStore

GAME = """\
graph: next_letter
version: 1
carry:
  policy:
    type: policy.tiny_lm
    params: {alphabet: abc?, initializer_range: 0.1}
    next: update
nodes:
  tasks:
    type: source.list
    params: {tasks: [{question: a?, answer: b}, {question: b?, answer: c}]}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 16, max_new_tokens: 1}
  score:
    type: reward.regex
    inputs: {rollouts: answer}
    params: {pattern: ^(.)$, compare: true}
  best: {type: select.top, inputs: {rows: score}, params: {k: 2}}
  update:
    type: update.sft
    inputs: {policy: policy, rows: [best]}
    params: {learning_rate: 3e-3}
"""


def train(node: Sft, policy: TextPolicy, *inputs: Rollouts) -> Log:
    log = Log()
    node.run(policy, list(inputs), rng=np.random.default_rng(0), log=log, peer="peer0000")
    return log


def nll(policy: TextPolicy, rows: Rollouts, *, weigh: bool = False) -> torch.Tensor:
    """Compute the mean negative log-prob of the sampled tokens with the policy itself, row by row."""
    losses = []
    for row in rows.rows():
        prompt, completion = (np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids"))
        sequence = TokenSequence(prompt, completion)
        logprobs = policy.logprobs([sequence], temperatures=np.ones(1, np.float32))[0]
        logprobs = logprobs[torch.tensor(row["completion_mask"]) > 0]
        losses.append(-logprobs * (logprobs.detach().exp() if weigh else 1.0))
    return torch.cat(losses).mean()


def vector(policy: TextPolicy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])  # type: ignore[attr-defined]


def masked(rows: Rollouts) -> Rollouts:
    """Return the rows with every third token marked as not sampled by the policy."""
    masks = [[int((at + len(ids)) % 3 > 0) for at in range(len(ids))] for ids in rows.values("completion_ids")]
    return Rollouts.from_columns(
        {name: rows.values(name) for name in Rollouts.columns if name != "completion_mask"} | {"completion_mask": masks}
    )


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_the_loss_of_a_step_is_that_of_the_policys_own_logprobs(
    policy: TextPolicy, sample: Sample, loss_type: str
) -> None:
    rows = masked(sample(policy))
    expected = nll(policy, rows, weigh=loss_type == "dft").item()
    log = train(Sft(batch_size=len(rows), loss_type=loss_type), policy, rows)
    assert log.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert log.metrics["trained_tokens"] == sum(map(sum, rows.values("completion_mask"))) < 6 * len(rows)


@pytest.mark.parametrize("max_batch_tokens", [100_000, 60, 1])
def test_steps_equal_plain_torch_however_they_are_split(
    policy: CausalPolicy, sample: Sample, max_batch_tokens: int
) -> None:
    other = policy.fork("policy")
    start, weights = vector(policy), list(other.model.parameters())
    by_hand = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for seed in range(2):  # the second round goes on with the optimiser of the first
        rows = masked(sample(policy, seed=seed))
        log = train(Sft(learning_rate=1e-2, batch_size=64, max_batch_tokens=max_batch_tokens), policy, rows)
        by_hand.zero_grad()
        nll(other, rows).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        by_hand.step()
        assert log.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert policy.version == 2
    step, expected = vector(policy) - start, vector(other) - start
    assert float((step - expected).norm() / expected.norm()) < 1e-3  # AdamW blows up the noise of tiny gradients


def test_epochs_and_batches_make_steps(policy: TextPolicy, sample: Sample) -> None:
    log = train(Sft(batch_size=6, epochs=3), policy, sample(policy), sample(policy, seed=1, questions=1))
    assert policy.version == log.metrics["optimiser_steps"] == 3 * 4  # 20 rows, 6 a step
    assert log.metrics["trained_rows"] == 20


def test_expert_iteration_learns_the_next_letter(tmp_path: Path) -> None:
    """A random policy earns a mean reward of 0.14."""
    (tmp_path / "game.yaml").write_text(GAME)
    run = play(load(tmp_path / "game.yaml"), out=tmp_path / "run", rounds=25, threads=1, quiet=True)
    store = RunStore.open(run.folder)
    rewards = np.asarray(store.table("score")["reward"]).reshape(25, -1).mean(axis=1)
    assert rewards[0] < 0.4
    assert rewards[-5:].mean() > 0.9
    assert store.table("update/trained")["id"].to_pylist() == store.table("best")["id"].to_pylist()
