"""`update.dpo` against formulas on the policy's log-probs and plain torch, and a game that it learns."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixture_types import Sample
from torch import Tensor
from torch.nn.functional import logsigmoid

from genrl_graph import Log, ParamError, Rollouts, TextPolicy, load, play
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.steps.pairs import preference_pairs
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
  update:
    type: update.dpo
    inputs: {policy: policy, scored: [score]}
    params: {pairs: all, learning_rate: 3e-3, batch_size: 64}
"""

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]] = {
    # of the log-ratios and the lengths of the winner and the rejected, as the papers have them
    "sigmoid": lambda w, r, _w, _r, beta: -logsigmoid(beta * (w - r)),
    "sigmoid_norm": lambda w, r, nw, nr, beta: -logsigmoid(beta * (w / nw - r / nr)),
    "hinge": lambda w, r, _w, _r, beta: torch.relu(1 - beta * (w - r)),
    "ipo": lambda w, r, nw, nr, beta: (w / nw - r / nr - 1 / (2 * beta)) ** 2,
    "robust": lambda w, r, _w, _r, beta: (
        (-0.9 * logsigmoid(beta * (w - r)) + 0.1 * logsigmoid(-beta * (w - r))) / (1 - 2 * 0.1)
    ),
    "exo_pair": lambda w, r, _w, _r, beta: (
        torch.sigmoid(beta * (w - r)) * (logsigmoid(beta * (w - r)) - math.log(0.9))
        + torch.sigmoid(-beta * (w - r)) * (logsigmoid(-beta * (w - r)) - math.log(0.1))
    ),
    "nca_pair": lambda w, r, _w, _r, beta: (
        -logsigmoid(beta * w) - 0.5 * logsigmoid(-beta * w) - 0.5 * logsigmoid(-beta * r)
    ),
    "sppo_hard": lambda w, r, _w, _r, beta: (w - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2,
    "apo_zero": lambda w, r, _w, _r, beta: 1 - torch.sigmoid(beta * w) + torch.sigmoid(beta * r),
    "apo_down": lambda w, r, _w, _r, beta: torch.sigmoid(beta * w) + 1 - torch.sigmoid(beta * (w - r)),
}


def train(node: Dpo, policy: TextPolicy, *inputs: Rollouts, reference: TextPolicy | None = None) -> Log:
    log = Log()
    node.run(policy, list(inputs), reference, rng=np.random.default_rng(0), log=log, peer="peer0000")
    return log


def moved(policy: TextPolicy) -> TextPolicy:
    """Return another policy with the same tokenizer."""
    return TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=5)


def masked(rows: Rollouts) -> Rollouts:
    """Return the rows with every third token marked as not sampled by the policy."""
    masks = [[int((at + len(ids)) % 3 > 0) for at in range(len(ids))] for ids in rows.values("completion_ids")]
    columns = {name: rows.values(name) for name in rows.table.column_names} | {"completion_mask": masks}
    return type(rows).from_columns(columns, marks=rows.marks)


def logprobs(policy: TextPolicy, rows: Rollouts) -> Tensor:
    """Compute the summed log-prob of the sampled tokens of each row."""
    sums = []
    for row in rows.rows():
        prompt, completion = (np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids"))
        sequence = TokenSequence(prompt, completion)
        each = policy.logprobs([sequence], temperatures=np.ones(1, np.float32))[0]
        sums.append(each[torch.tensor(row["completion_mask"]) > 0].sum())
    return torch.stack(sums)


def pair_loss(node: Dpo, policy: TextPolicy, reference: TextPolicy, rows: Rollouts) -> Tensor:
    pairs = preference_pairs(rows, rule=node.pairs, min_margin=node.min_margin)
    sizes = torch.tensor([float(mask.sum()) for mask in rows.ragged("completion_mask")])
    with torch.no_grad():
        before = logprobs(reference, rows)
    ratios, won, lost = logprobs(policy, rows) - before, pairs.chosen, pairs.rejected
    return LOSSES[node.loss_type](ratios[won], ratios[lost], sizes[won], sizes[lost], node.beta).mean()


def vector(policy: TextPolicy) -> Tensor:
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])  # type: ignore[attr-defined]


def test_the_first_loss_is_ln_2_where_the_policy_is_its_own_reference(policy: TextPolicy, sample: Sample) -> None:
    rows, other = sample(policy), policy.fork("policy")
    log = train(Dpo(), policy, rows)
    assert log.metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert log.metrics["pairs"] == 4
    assert log.metrics["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    wired = train(Dpo(), other, rows, reference=other.fork("reference"))
    assert wired.metrics == log.metrics
    assert other.digest() == policy.digest()


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_loss_with_a_wired_reference_is_that_of_the_paper(
    policy: TextPolicy, sample: Sample, loss_type: str
) -> None:
    rows, reference = masked(sample(policy)), moved(policy)
    smoothing = 0.1 if loss_type in ("robust", "exo_pair") else 0.0
    node = Dpo(loss_type=loss_type, pairs="all", batch_size=64, beta=0.5, label_smoothing=smoothing)
    expected = pair_loss(node, policy, reference, rows).item()
    before = reference.digest()
    log = train(node, policy, rows, reference=reference)
    assert log.metrics["pairs"] == 4 * 6
    assert log.metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert reference.digest() == before
    assert "forward" not in vars(reference.model)  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_batch_tokens", [100_000, 90, 1])
def test_steps_equal_plain_torch_however_they_are_split(
    policy: CausalPolicy, sample: Sample, max_batch_tokens: int
) -> None:
    node = Dpo(learning_rate=1e-2, pairs="all", batch_size=64, beta=0.5, max_batch_tokens=max_batch_tokens)
    rows, reference, other = masked(sample(policy)), moved(policy), policy.fork("policy")
    start, weights = vector(policy), list(other.model.parameters())
    by_hand = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        log = train(node, policy, rows, reference=reference)
        by_hand.zero_grad()
        pair_loss(node, other, reference, rows).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        by_hand.step()
        assert log.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    assert policy.version == 2
    step, expected = vector(policy) - start, vector(other) - start
    assert float((step - expected).norm() / expected.norm()) < 1e-3  # AdamW blows up the noise of tiny gradients


def test_the_reference_is_the_policy_before_the_first_of_several_steps(policy: TextPolicy, sample: Sample) -> None:
    rows, other = sample(policy), policy.fork("policy")
    node = Dpo(learning_rate=1e-2, batch_size=2, epochs=3)
    log = train(node, policy, rows)
    train(node, other, rows, reference=other.fork("reference"))
    assert policy.version == 6
    assert policy.digest() == other.digest()
    assert log.metrics["rewards/margins"] > 0
    assert log.metrics["loss"] < math.log(2)


def test_groups_without_a_pair_are_counted_and_without_any_nothing_moves(policy: TextPolicy, sample: Sample) -> None:
    rows = sample(policy)
    rewards = rows.numpy("reward").copy()
    rewards[:8] = 0.5
    columns = {name: rows.values(name) for name in rows.table.column_names}
    half = type(rows).from_columns(columns | {"reward": rewards}, marks=rows.marks)
    log = train(Dpo(), policy, half)
    assert (log.metrics["pairs"], log.metrics["groups_without_pair"]) == (2, 2)
    table = log.tables["trained"]
    assert set(table["chosen_id"]) | set(table["rejected_id"]) <= set(rows.values("id")[8:])

    before, version = policy.digest(), policy.version
    log = train(Dpo(min_margin=1e9), policy, rows)
    assert (log.metrics["pairs"], log.metrics["groups_without_pair"], log.metrics["optimiser_steps"]) == (0, 4, 0)
    assert (policy.digest(), policy.version) == (before, version)


def test_a_reference_of_another_tokenizer_is_refused(policy: TextPolicy, sample: Sample) -> None:
    other = TinyLM(alphabet="0123456789+=?", hidden_size=32, layers=1).init("reference", seed=0)
    with pytest.raises(ParamError, match="reference 'reference' reads other tokens than policy 'policy'"):
        train(Dpo(), policy, sample(policy), reference=other)


def test_dpo_learns_the_next_letter(tmp_path: Path) -> None:
    """A random policy earns a mean reward of 0.14."""
    (tmp_path / "game.yaml").write_text(GAME)
    run = play(load(tmp_path / "game.yaml"), out=tmp_path / "run", rounds=25, threads=1, quiet=True)
    rewards = np.asarray(RunStore.open(run.folder).table("score")["reward"]).reshape(25, -1).mean(axis=1)
    assert rewards[0] < 0.4
    assert rewards[-5:].mean() > 0.9
