import json
from pathlib import Path
from typing import Any

import pytest
from architectures import causal

from genrl_graph import Graph, PolicyCarry, RunConfig, play
from genrl_graph.errors import DataError, GraphError, StoreError
from genrl_graph.graph_file.read import load
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.runners.play import Run

TINY = {"alphabet": "0123456789+=", "hidden_size": 16, "heads": 2, "initializer_range": 0.3}


def game(carry: PolicyCarry, reference: PolicyCarry, **options: Any) -> Graph:
    g = Graph("game", run=RunConfig(**options))
    policy = g.carry("policy", carry)
    frozen = g.carry("reference", reference)
    tasks = g.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
    speaker = Answer(template="{{ task.question }}", num_generations=16, max_new_tokens=2)
    answer = g.add("answer", speaker, tasks=tasks, policy=policy)
    score = g.add("score", RegexReward(pattern=r"([0-4])"), rollouts=answer)
    credit = g.add("credit", GroupAdvantage(), scored=score)
    trainer = Grpo(learning_rate=1e-2, beta=0.1)
    g.next_round(policy=g.add("update", trainer, policy=policy, credited=[credit], reference=frozen))
    return g


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Play two peers for two rounds, with a checkpoint after each round."""
    options = {"rounds": 2, "peers": 2, "checkpoint_every": 1}
    graph = game(TinyLM(**TINY), TinyLM(**TINY, like="policy"), **options)
    return play(graph, out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def of(run: Run, **params: Any) -> CausalPolicy:
    return causal(Checkpoint(run=str(run.folder), device="cpu", **params).init("mine", seed=7))


def test_a_reference_that_is_like_the_policy_starts_with_its_weights(run: Run) -> None:
    assert run.before["peer0000", "reference"] == run.before["peer0000", "policy"]
    assert run.after["peer0000", "reference"] == run.before["peer0000", "policy"] != run.after["peer0000", "policy"]


def test_the_default_is_the_last_checkpoint_of_the_first_peer(run: Run) -> None:
    policy = of(run)
    assert (policy.name, policy.digest()) == ("mine", run.after["peer0000", "policy"])
    assert policy.version == 2
    assert of(run, peer="peer0001").digest() == run.after["peer0001", "policy"]
    assert of(run, round=1).version == 1
    assert of(run, policy="reference").digest() == run.after["peer0000", "reference"]


def test_the_optimiser_comes_along_where_it_is_asked_for(run: Run) -> None:
    assert not of(run).optimizer().state
    assert len(of(run, optimizer=True).optimizer().state) == len(of(run).trained())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"policy": "polcy"}, r"no policy named 'polcy' \(did you mean 'policy'\?\)"),
        ({"policy": "xyz"}, r"no policy named 'xyz'; there are policy, reference"),
        ({"round": 7}, r"no checkpoint after round 7; there are 1, 2"),
        ({"peer": "peer0003"}, r"no peer named 'peer0003' \(did you mean 'peer000\d'\?\)"),
        ({"peer": "me"}, r"no peer named 'me'; there are peer0000, peer0001"),
    ],
)
def test_what_the_run_does_not_have_is_one_line(run: Run, params: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        of(run, **params)


def test_no_run_and_no_checkpoint_are_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: no run here, .*there is no such folder"):
        Checkpoint(run=str(tmp_path / "nowhere")).init("mine", seed=0)
    (tmp_path / "graph.yaml").write_bytes((run.folder / "graph.yaml").read_bytes())
    with pytest.raises(StoreError, match="has no checkpoint yet"):
        Checkpoint(run=str(tmp_path)).init("mine", seed=0)


def test_a_type_that_is_unknown_here_names_the_scripts_of_the_run(run: Run, tmp_path: Path) -> None:
    lines = (run.folder / "graph.yaml").read_text().replace("policy.tiny_lm", "policy.special").splitlines()
    versions = json.loads(lines[1].removeprefix("# versions: ")) | {"imports": {"special.py": "0"}}
    lines[1] = f"# versions: {json.dumps(versions)}"
    (tmp_path / "graph.yaml").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"carry.policy: policy.special cannot be made .*--import special.py"):
        Checkpoint(run=str(tmp_path)).init("mine", seed=0)


def test_a_run_goes_on_from_another_with_any_type_of_policy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    causal(TinyLM(**TINY).init("base", seed=0)).export(tmp_path / "base")
    adapted = Lora(model=str(tmp_path / "base"), device="cpu", compute_dtype="float32")
    first = play(game(adapted, adapted, rounds=1), out=tmp_path / "first", quiet=True)
    second = play(
        game(Checkpoint(run=str(first.folder)), Checkpoint(run=str(first.folder), policy="reference"), rounds=1),
        out=tmp_path / "second",
        quiet=True,
    )
    assert second.before["peer0000", "policy"] == first.after["peer0000", "policy"]
    assert second.before["peer0000", "reference"] == first.after["peer0000", "reference"]
    third = Checkpoint(run=str(second.folder)).init("third", seed=0)
    assert (third.version, third.digest()) == (2, second.after["peer0000", "policy"])


def test_in_a_graph_file_the_run_is_beside_it_and_check_reads_no_weights(run: Run, tmp_path: Path) -> None:
    text = (run.folder / "graph.yaml").read_text()
    head, _, rest = text.partition("carry:\n")
    _, _, nodes = rest.partition("nodes:\n")
    carry = "carry:\n  policy: {type: policy.checkpoint, params: {run: run}, next: update}\n"
    carry += "  reference: {type: policy.checkpoint, params: {run: run, rund: 1}}\n"
    file = run.folder.parent / "game.yaml"
    file.write_text(f"{head}{carry}nodes:\n{nodes}")
    with pytest.raises(GraphError, match="unknown param 'rund'"):
        load(file)
    file.write_text(f"{head}{carry.replace('rund', 'round')}nodes:\n{nodes}")
    read = load(file).carries["policy"].carry
    assert isinstance(read, Checkpoint) and read.run == str(run.folder)
