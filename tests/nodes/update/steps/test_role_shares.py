"""Shares of the roles in an update, against gradients that torch computes at the logits."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

import genrl_graph
from genrl_graph import Log, Rollouts, credit, load, play
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.seeds import stream

TEMPERATURE = 0.7
SHIPPED = Path(genrl_graph.__file__).parent / "graphs"


def turns_of(policy: CausalPolicy, *, round: int = 0) -> Rollouts:
    """Turns of both seats of Kuhn poker, with advantages of which some are 0."""
    rng = stream("shares")
    source = EnvironmentSource(environment=Environment(kind="open_spiel", id="kuhn_poker"), num_episodes=6)
    node = DialogueGenerator(max_new_tokens=3, illegal="random", temperature=TEMPERATURE)
    rows = node.run(source.run(rng=rng, round=round), policy, rng=rng, log=Log(), round=round, peer="peer0000")
    return credit(rows, np.round(rng.normal(size=len(rows)), 1) * (rng.random(len(rows)) < 0.8))


def test_shares_are_those_of_the_gradient_at_the_logits(policy: CausalPolicy) -> None:
    rows = turns_of(policy)
    log = Log()
    tokens = sum(len(ids) for ids in rows.values("completion_ids"))
    norms, losses, counts = defaultdict[str, float](float), defaultdict[str, float](float), defaultdict[str, int](int)
    for row in rows.rows():
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        logits = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].detach()
        logits.requires_grad_()
        logprobs = (logits / TEMPERATURE).log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        (-row["advantage"] * logprobs.sum() / tokens).backward()
        role = f"generate.dialogue.seat{row['seat']}"
        norms[role] += float(logits.grad.abs().sum())
        losses[role] -= row["advantage"] * len(completion) / tokens  # the ratio is 1
        counts[role] += len(completion) if row["advantage"] else 0
    Grpo(learning_rate=1e-2).run(policy, [rows], rng=np.random.default_rng(0), log=log, peer="peer0000")
    assert len(norms) == 2
    for role in norms:
        assert log.metrics[f"{role}/gradient_share"] == pytest.approx(norms[role] / sum(norms.values()), rel=1e-4)
        assert log.metrics[f"{role}/loss"] == pytest.approx(losses[role], abs=1e-6)
        assert log.metrics[f"{role}/tokens"] == counts[role]
    assert sum(losses.values()) == pytest.approx(log.metrics["loss"], abs=1e-6)


def test_rows_of_another_policy_are_a_role_of_their_own(policy: CausalPolicy) -> None:
    own, log = turns_of(policy), Log()
    other = turns_of(policy.fork("teacher"), round=1)
    Grpo().run(policy, [own, other], rng=np.random.default_rng(0), log=log, peer="peer0000")
    shares = {name: value for name, value in log.metrics.items() if name.endswith("/gradient_share")}
    assert list(shares) == [
        f"generate.dialogue.seat{seat}{policy}/gradient_share" for seat in (0, 1) for policy in ("", ".teacher")
    ]
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["tic_tac_toe", "leduc"])
def test_the_seats_of_games_of_numbers_have_shares(name: str, tmp_path: Path) -> None:
    graph = load(SHIPPED / "games" / f"{name}.yaml", ["nodes.tasks.params.num_episodes=4", "run.trackers=[]"])
    run = play(graph, out=tmp_path / "run", rounds=1, mode="train", eval_every=0, quiet=True)
    line = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])
    names = [name for name in line if name.endswith("/gradient_share")]
    assert names and sum(line[name] for name in names) == pytest.approx(1)
    steps = sum(line[name.replace("gradient_share", "tokens")] for name in names)
    assert steps % line["update/trained_rows"] == 0 and steps > 0
