"""Two policies in one game: each update moves its own weights alone, at its own pace, and sees its own rows alone."""

import json
from pathlib import Path

import pytest
from crash import Left, killed

from genrl_graph import load, play
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.runners.play import Run
from genrl_graph.runners.replay.replay import replay
from genrl_graph.store.run_store import RunStore

STAGES = ("answer", "critique", "final")
ROUNDS = 4
QUOTING = "{{ task.question[-8:] }}{% for answer in answers %}{{ answer.number }}{{ answer.completion }}{% endfor %}"
TINY = [  # random models that write eight characters and are paid for digits, so that most groups vary
    *(f"carry.{name}.type=policy.tiny_lm" for name in ("policy", "critic")),
    *(f"~carry.{name}.params.model" for name in ("policy", "critic")),
    *(f"nodes.{name}.params.max_new_tokens=8" for name in STAGES),
    *(f"nodes.score_{name}.type=reward.regex" for name in STAGES),
    *(f"nodes.score_{name}.params.pattern='[0-9]'" for name in STAGES),
    *(f"~nodes.score_{name}.params.format" for name in ("answer", "final")),
    "~nodes.score_critique.inputs.answers",
    *(f"nodes.{name}.params.learning_rate=2e-3" for name in ("update_answer", "update_critique", "update")),
    "nodes.answer.params.template='{{ task.question[-8:] }}'",
    f"nodes.critique.params.template='{QUOTING}'",
    "nodes.final.params.template='{{ task.question[-8:] }}{% for one in critiques %}{{ one.completion }}{% endfor %}'",
    "run.trackers=[]",
]
MOVES = {"update_answer": "policy", "update_critique": "critic", "update": "policy"}


def game(graphs: Path, *overrides: str) -> Graph:
    return load(graphs / "multistage_math" / "solver_critic.yaml", [*TINY, f"run.rounds={ROUNDS}", *overrides])


@pytest.fixture(scope="module")
def run(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Run:
    """Four rounds of one peer."""
    return play(game(graphs), out=tmp_path_factory.mktemp("two") / "run", quiet=True)


@pytest.fixture(scope="module")
def store(run: Run) -> RunStore:
    """Open the store of the run."""
    return RunStore.open(run.folder)


def digests(store: RunStore) -> dict[tuple[int, str], dict[str, str]]:
    """Return the digests of each update's outputs, by round and node."""
    steps = store.steps().to_pylist()
    facts = {(step["round"], step["node"]): json.loads(step["facts"]) for step in steps}
    return {at: fact["digests"] for at, fact in facts.items() if "digests" in fact}


def test_each_update_moves_its_own_weights_at_its_own_pace(store: RunStore) -> None:
    given = {at: next(iter(each.values())) for at, each in digests(store).items()}
    solver = [given[round, node] for round in range(ROUNDS) for node in ("update_answer", "update")]
    critic = [given[round, "update_critique"] for round in range(ROUNDS)]
    assert len(set(solver)) == 2 * ROUNDS, "every update of the solver moves it"
    assert critic[1] == critic[2] != critic[3], "the critic moves in every second round"
    assert critic[0] != critic[1]
    assert not set(solver) & set(critic)


def test_versions_count_the_steps_of_each(store: RunStore) -> None:
    versions: dict[str, list[set[int]]] = {node: [set() for _ in range(ROUNDS)] for node in STAGES}
    for node in STAGES:
        for row in store.table(node).to_pylist():
            versions[node][row["round"]].add(row["policy_version"])
    assert versions["answer"] == [{0}, {2}, {4}, {6}], "two updates a round"
    assert versions["final"] == versions["answer"], "sampled from the round's start"
    assert versions["critique"] == [{0}, {0}, {1}, {1}]
    assert {row["policy"] for row in store.table("critique").to_pylist()} == {"critic"}
    assert {row["policy"] for row in store.table("final").to_pylist()} == {"policy"}


def test_each_is_trained_on_what_it_said(store: RunStore) -> None:
    said = {node: {row["id"] for row in store.table(node).to_pylist()} for node in STAGES}
    for update, node in (("update_answer", "answer"), ("update_critique", "critique"), ("update", "final")):
        trained = store.table(f"{update}/trained").to_pylist()
        assert trained
        assert {row["id"] for row in trained} <= said[node]
    assert {row["round"] for row in store.table("update_critique/trained").to_pylist()} == {1, 3}


def test_killed_between_the_updates_it_goes_on_to_the_same_bits(graphs: Path, tmp_path: Path, run: Run) -> None:
    """In round 2, when the solver has moved already and the critic, which is due, has not."""
    steps = [step.node for step in compile_graph(game(graphs)).steps if step.action != "open"]
    assert killed(game(graphs), tmp_path / "cut", len(steps) + steps.index("update_critique") + 1)
    again = play(game(graphs), out=tmp_path / "cut", resume=True, quiet=True)
    assert again.after == run.after
    whole, left = (Left.of(each.folder, {}) for each in (run, again))
    assert whole.differences(left) == []


def test_replayed_with_another_credit_only_the_critic_is_credited_anew(graphs: Path, tmp_path: Path, run: Run) -> None:
    same = replay(run.folder, game(graphs), out=tmp_path / "same", quiet=True)
    assert {verdict.fate for verdict in same.verdicts.values()} <= {"pinned", "read"}
    edited = game(graphs, "nodes.credit_critique.params.how=mean")
    found = replay(run.folder, edited, out=tmp_path / "other", quiet=True)
    assert {node for node, verdict in found.verdicts.items() if verdict.fate == "recomputed"} == {"credit_critique"}


def test_without_its_update_a_policy_stays(graphs: Path, tmp_path: Path, store: RunStore, one_thread: None) -> None:
    """The other one then plays the same first round, to the bit, and its update gives the same weights."""
    out = tmp_path / "run"
    play(game(graphs, "~nodes.update_critique", "~carry.critic.next"), out=out, rounds=1, quiet=True)
    alone = RunStore.open(out)
    assert all(digests(alone)[0, node] == digests(store)[0, node] for node in ("update_answer", "update"))
    assert MOVES.keys() - {node for _, node in digests(alone)} == {"update_critique"}
