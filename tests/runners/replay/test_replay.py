"""Replays: what was given is read and never made, what changed is judged again, and nothing else differs."""

import filecmp
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from architectures import causal
from toys import Centred, Step, ToyPolicy, toy_game

import genrl_graph
from genrl_graph import Credited, Graph, Log, Reward, Rollouts, Scored, open_run, score
from genrl_graph.cli import run_command
from genrl_graph.contract.node import Select
from genrl_graph.edge_types.rollouts import R
from genrl_graph.errors import GenrlGraphError, GraphError, NodeFailed, ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.play import play
from genrl_graph.runners.replay.replay import Replay, replay
from genrl_graph.runners.replay.rounds import StoredRounds
from genrl_graph.seeds import stream
from genrl_graph.store.run_folder import read_graph
from genrl_graph.store.run_store import RunStore

TINY = Path(__file__).parents[3] / "graphs" / "tiny_multistage.yaml"
SMALL = [
    "nodes.tasks.params.num_tasks=2",
    *(f"nodes.{name}.params.num_generations=4" for name in ("answer", "critique", "final")),
    "carry.policy.params.hidden_size=16",
]


class RandomReward(Reward, name="replay_luck"):
    """Pays what it draws."""

    scale: float = 1.0

    def run(self, rollouts: R, *, rng: np.random.Generator) -> Scored[R]:
        return score(rollouts, {"luck": self.scale * rng.random(len(rollouts))})


class Judged(Reward, name="replay_judged"):
    """Counts how often it is asked; may fail in one round, and judge with a policy."""

    fails_in: int | None = None

    def run(self, rollouts: R, judge: ToyPolicy | None = None, *, round: int, peer: str) -> Scored[R]:
        ASKED.append((round, peer))
        if round == self.fails_in:
            raise ValueError("no idea")
        return score(rollouts, {"one": np.ones(len(rollouts))})


ASKED: list[tuple[int, str]] = []


def edited(graph: Graph, *changes: tuple[str, str]) -> Graph:
    """The graph with pieces of its text replaced."""
    text = graph.dump()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {text}"
        text = text.replace(old, new)
    return other(text)


def other(text: str) -> Graph:
    """The graph of a text."""
    loaded = read_document(parse_document(text, file="other.yaml"))
    assert not loaded.problems, loaded.lines()
    return loaded.graph


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_files(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    assert filecmp.cmpfiles(one, other, files(one), shallow=False)[1:] == ([], [])


def assert_same_but(found: Replay, *nodes: str) -> None:
    """Every group but those of these nodes has the rows that the run has."""
    run, made = open_run(found.source), open_run(found.folder)
    for group in run.groups:
        if group.partition("/")[0] not in nodes:
            assert run.table(group, range(min(found.rounds), max(found.rounds) + 1)).equals(made.table(group)), group
    assert verify_run(found.folder).problems == []


def fates(found: Replay, *names: str) -> dict[str, str]:
    """The nodes of these fates."""
    return {name: verdict.fate for name, verdict in found.verdicts.items() if verdict.fate in names}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rounds of the tiny game in three stages."""
    folder = tmp_path_factory.mktemp("replay") / "tiny"
    assert run_command(["run", str(TINY), "-o", str(folder), "-q", "run.rounds=20", "run.trackers=[]", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds of the toy game, of two peers, with checkpoints after two and four."""
    folder = tmp_path_factory.mktemp("replay") / "toy"
    play(toy_game(), out=folder, rounds=4, peers=2, checkpoint_every=2, quiet=True)
    return folder


def test_an_unchanged_graph_gives_the_very_bytes_and_computes_nothing(tiny: Path, tmp_path: Path) -> None:
    found = replay(tiny, genrl_graph.load(TINY, SMALL), out=tmp_path / "same", quiet=True)
    assert fates(found, "recomputed", "updated", "left out") == {}
    assert list(found.moves) == []
    assert_same_files(tiny / "rollouts.zarr", found.folder / "rollouts.zarr")
    assert (found.rows, found.groups) == (
        sum(open_run(tiny).table(group).num_rows for group in open_run(tiny).groups),
        len(open_run(tiny).groups),
    )
    then, now = open_run(tiny).metrics(), open_run(found.folder).metrics()
    for name in (name for name in now.column_names if not name.startswith(("time/", "memory/"))):
        assert now.column(name).equals(then.column(name)), name


def test_one_changed_weight_needs_no_model_and_moves_what_depends_on_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, which must never load torch."""
    change = ["nodes.score_critique.params.correct=0.25", "nodes.score_critique.params.exists=0.3"]
    script = (
        "import sys\n"
        "from genrl_graph.cli import run_command\n"
        "code = run_command(sys.argv[1:])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'a model library was loaded'\n"
        "sys.exit(code)\n"
    )
    monkeypatch.setenv("COLUMNS", "200")
    command = ["replay", str(tiny), str(TINY), "-o", str(tmp_path / "y"), *SMALL, *change]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"read {tiny}: rounds 0 to 19 of peer0000, peer0001;" in done.stdout
    assert "recomputed   because score_critique was recomputed" in done.stdout
    assert "left out     because credit_critique was recomputed" in done.stdout
    assert "2 nodes recomputed, 1 node left out; 0 tokens generated" in done.stdout
    run, made = open_run(tiny), open_run(tmp_path / "y")
    assert made.rounds == list(range(20))
    assert set(run.groups) - set(made.groups) == {"update/trained"}
    for group in set(made.groups) - {"score_critique", "credit_critique"}:
        assert made.table(group).equals(run.table(group)), group

    scored, credited = made.frame("score_critique"), made.frame("credit_critique")
    expected = 0.3 * scored.numpy("reward_exists") + 0.25 * scored.numpy("reward_correct")
    np.testing.assert_array_equal(scored.numpy("reward"), expected)
    assert not np.array_equal(scored.numpy("reward"), run.frame("score_critique").numpy("reward"))
    groups = np.asarray(credited.values("group_id"))
    for group in set(groups):
        rewards = expected[groups == group]
        wanted = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4) if np.ptp(rewards) else 0 * rewards
        np.testing.assert_allclose(credited.numpy("advantage")[groups == group], wanted, atol=1e-12)

    fresh = ["run", str(TINY), "-o", str(tmp_path / "fresh"), "-q", "run.rounds=1", "run.trackers=[]", *SMALL, *change]
    assert run_command(fresh) == 0  # before the first update the edited game samples the same
    for group in ("score_critique", "credit_critique"):
        assert open_run(tmp_path / "fresh").table(group, 0).equals(made.table(group, 0)), group


def test_what_moved_is_measured_per_node(toy: Path, tmp_path: Path) -> None:
    graph = edited(toy_game(), ("type: reward.toy_matches", "type: reward.replay_luck"))
    found = replay(toy, graph, out=tmp_path / "y", quiet=True)
    assert {name: verdict.why for name, verdict in found.verdicts.items() if verdict.fate == "recomputed"} == {
        "match_final": "is now reward.replay_luck, no longer reward.toy_matches",
        "best": "because match_final was recomputed",
        "credit_final": "because best was recomputed",
    }
    run, made = open_run(toy), open_run(found.folder)
    old, new = (opened.frame("match_final") for opened in (run, made))
    (moved,) = [move for move in found.moves if move.node == "match_final" and move.column == "reward"]
    before, after = old.numpy("reward"), new.numpy("reward")
    assert moved.mean == (before.mean(), after.mean())
    assert (moved.rows, moved.changed) == (len(old), int((before != after).sum()))
    assert abs(moved.largest) == np.abs(after - before).max()
    assert moved.rank == pytest.approx(spearman(before, after), abs=1e-12)
    groups = np.asarray(old.values("group_id"))
    assert moved.groups == len(set(groups))
    assert moved.varied == tuple(
        sum(np.ptp(rewards[groups == group]) > 0 for group in set(groups)) for rewards in (before, after)
    )
    (credited,) = [move for move in found.moves if move.node == "credit_final"]
    kept = [set(opened.frame("credit_final").values("id")) for opened in (run, made)]
    assert (credited.removed, credited.added) == (len(kept[0] - kept[1]), len(kept[1] - kept[0]))
    assert credited.rows == len(kept[0] & kept[1])


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation from Arrow's ranks: ties at the mean of their lowest and highest."""

    def ranks(values: np.ndarray) -> np.ndarray:
        low, high = (np.asarray(pc.rank(pa.array(values), tiebreaker=side), float) for side in ("min", "max"))
        return low + high

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def test_rewards_are_added_renamed_and_dropped(toy: Path, tmp_path: Path) -> None:
    text = toy_game().dump().replace("score_final", "parity_final").replace("credit_answer", "credit_luck")
    text = text.replace("score_answer", "luck").replace("reward.toy_parity", "reward.replay_luck", 1)
    found = replay(toy, other(text), out=tmp_path / "y", quiet=True)
    assert {name: verdict.why for name, verdict in found.verdicts.items() if verdict.fate == "recomputed"} == {
        "luck": "new",
        "credit_luck": "new",
        "parity_final": "is the new name of score_final",
        "match_final": "because parity_final was recomputed",
        "best": "because match_final was recomputed",
        "credit_final": "because best was recomputed",
    }
    assert found.notes == ["score_answer: no longer there", "credit_answer: no longer there"]
    made = open_run(found.folder)
    assert made.rounds == [0, 1, 2, 3]
    assert not {"score_final", "score_answer", "credit_answer"} & set(made.groups)
    assert {move.node for move in found.moves} == {"parity_final", "match_final", "credit_final"}
    assert {move.changed for move in found.moves} == {0}
    drawn = made.frame("luck", 2, holder="peer0001").numpy("reward_luck")
    again = stream(0, 2, "luck", "peer0001").random(len(drawn))  # as any node of the run draws
    np.testing.assert_array_equal(drawn, again)
    assert_same_but(found, "score_answer", "credit_answer", "score_final", "update")


def test_streams_are_those_of_the_run(tmp_path: Path) -> None:
    """A reward that draws gives the same when it is computed again, and draws that differ only in scale when edited."""
    graph = edited(toy_game(), ("type: reward.toy_matches", "type: reward.replay_luck"))
    run = play(graph, out=tmp_path / "x", rounds=3, peers=2, seed=5, quiet=True)
    found = replay(run.folder, graph, out=tmp_path / "same", recompute=("all",), quiet=True)
    assert {move.changed for move in found.moves} == {0}
    assert_same_but(found, "update")
    scaled = edited(graph, ("type: reward.replay_luck", "type: reward.replay_luck\n    params: {scale: 2.0}"))
    found = replay(run.folder, scaled, out=tmp_path / "scaled", quiet=True)
    one, two = (open_run(folder).frame("match_final").numpy("reward_luck") for folder in (run.folder, found.folder))
    np.testing.assert_array_equal(2 * one, two)


@pytest.mark.parametrize(
    ("versions", "recomputed", "why"),
    [
        ({"classes": {"reward.toy_parity": 2}}, {"score_answer", "score_final"}, "version 2 -> 1 of reward.toy_parity"),
        ({"genrl-graph": "0.0.9"}, {"summed"}, "genrl-graph 0.0.9 -> 0.1.0"),
        ({"resumed": [{"versions": {"genrl-graph": "0.0.9"}}]}, {"summed"}, "genrl-graph 0.0.9 -> 0.1.0"),
        ({"torch": "0.1"}, set(), ""),
    ],
)
def test_other_versions_are_computed_again(
    versions: dict[str, object], recomputed: set[str], why: str, toy: Path, tmp_path: Path
) -> None:
    graph = toy_game()
    summed = graph.add("summed", WeightedSum(others=1.0), scored=[graph.output("score_answer")])
    graph.add("credit_sum", Centred(), scored=summed)
    run = play(graph, out=tmp_path / "x", rounds=2, quiet=True)
    text, noted = read_graph(run.folder)
    head = (run.folder / "graph.yaml").read_text().splitlines()[0]
    (run.folder / "graph.yaml").write_text(f"{head}\n# versions: {json.dumps(noted | versions)}\n{text}")
    found = replay(run.folder, graph, out=tmp_path / "y", quiet=True)
    own = {name for name, verdict in found.verdicts.items() if why and why in verdict.why}
    assert own == recomputed
    assert bool(fates(found, "recomputed")) == bool(recomputed)
    assert {move.changed for move in found.moves} <= {0}


class Same(Select, name="replay_same"):
    """Does nothing."""

    def run(self, rows: R) -> R:
        return rows


SCRIPT = """\
from genrl_graph import R, Reward, Scored, score


class Mine(Reward, name="replay_script"):
    def run(self, rollouts: R) -> Scored[R]:
        return score(rollouts, {"mine": [1.0] * len(rollouts)})


def pay(completions, **columns):
    return [1.0 for _ in completions]
"""


PAID = """\
  paid:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: 'replayed_script:pay', isolated: false}
  credit_paid: {type: advantage.toy_centred, inputs: {scored: paid}}
"""


def test_a_changed_script_is_run_again_and_told(
    toys_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "replayed_script.py"
    file.write_text(SCRIPT)
    text = toy_game().dump().replace("reward.toy_matches", "reward.replay_script")
    text = text.replace("  update:\n", f"{PAID}  update:\n").replace("credited: [", "credited: [credit_paid, ")
    Path("game.yaml").write_text(text)
    imports = ["--import", str(toys_file), "--import", "replayed_script.py"]
    assert run_command(["run", "game.yaml", "-o", "x", "-q", "run.rounds=2", *imports]) == 0
    assert run_command(["replay", "x", "game.yaml", "-o", "same", *imports]) == 0
    assert "nothing changed: every row is as it was" in capsys.readouterr().out
    file.write_text(SCRIPT.replace("1.0 for", "3.0 for").replace("[1.0]", "[2.0]"))
    assert run_command(["replay", "x", "game.yaml", "-o", "y", *imports]) == 0
    told = capsys.readouterr().out
    assert told.count("replayed_script.py has changed") == 2
    assert "1 -> 3" in told
    made = open_run("y")
    assert set(made.frame("paid").numpy("reward")) == {3.0}
    assert set(made.frame("match_final").numpy("reward_mine")) == {2.0}
    assert run_command(["runs", "y"]) == 0
    assert "replay of x, rounds 0 to 1; computed: match_final, best, credit_final, paid" in capsys.readouterr().out


def test_edits_that_only_playing_can_answer_are_refused_together(toy: Path, tmp_path: Path) -> None:
    again = "  again:\n    type: generate.toy_draw\n    inputs: {tasks: tasks, policy: policy}\n"
    text = toy_game().dump().replace("  answers:", "  more:").replace("seen: answers", "seen: more")
    text = text.replace("  final:\n", f"{again}  final:\n").replace("{rollouts: answer}", "{rollouts: again}")
    with pytest.raises(GraphError) as caught:
        replay(toy, other(text), out=tmp_path / "y", quiet=True)
    assert str(caught.value).splitlines() == [
        f"{toy}: sources, generators and exchanges are read, not run, so this edit cannot be replayed",
        "  more is the new name of answers, which stands in the rows that it gave; keep the old name",
        "  again (generate.toy_draw) is not in the run; what a new generate node gives comes only from `run`",
    ]
    text = toy_game().dump().replace("seen: answers", "seen: kept")
    kept = "  kept:\n    type: select.replay_same\n    inputs: {rows: answers}\n"
    with pytest.raises(GraphError, match=r"(?s)cannot be replayed\n  final now reads seen from kept, no longer from"):
        replay(toy, other(text.replace("  final:\n", kept + "  final:\n")), out=tmp_path / "y", quiet=True)
    judged = toy_game().dump().replace("type: reward.toy_matches", "type: reward.replay_judged")
    judged = judged.replace("inputs: {rollouts: score_final}", "inputs: {rollouts: score_final, judge: policy}")
    with pytest.raises(GraphError, match=r"match_final has to be computed \(is now .*\), and reads policy, which is"):
        replay(toy, other(judged), out=tmp_path / "y", quiet=True)
    assert not (tmp_path / "y").exists()


def test_params_of_what_is_pinned_are_told_and_kept_as_they_were(toy: Path, tmp_path: Path) -> None:
    graph = edited(toy_game(), ("num_generations: 4", "num_generations: 7"), ("bias: 3", "bias: 4"))
    found = replay(toy, graph, out=tmp_path / "y", quiet=True)
    assert found.notes == [
        "final: num_generations 4 -> 7: not applied, for what final gave is pinned",
        "policy: its changes are not applied, for nothing is trained",
    ]
    assert_same_files(toy / "rollouts.zarr", found.folder / "rollouts.zarr")
    assert found.graph.nodes == open_run(toy).graph.nodes
    assert open_run(found.folder).graph.carries == open_run(toy).graph.carries


def test_an_exchange_gives_what_it_gave_though_what_it_was_offered_is_scored_anew(tmp_path: Path) -> None:
    graph = toy_game()
    shared = graph.add("shared", Gather(min_peers=2), rows=graph.output("score_answer"))
    graph.add("credit_again", Centred(), scored=graph.add("again", Best2(), scored=shared))
    run = play(graph, out=tmp_path / "x", rounds=2, peers=2, quiet=True)
    text = graph.dump()
    at = text.index("  score_answer:")
    text = text[:at] + text[at:].replace("reward.toy_parity", "reward.replay_judged", 1)
    found = replay(run.folder, other(text), out=tmp_path / "y", recompute=("again",), quiet=True)
    assert found.verdicts["shared"].why == "as it was, though score_answer was recomputed"
    old, new = (open_run(folder) for folder in (run.folder, found.folder))
    assert set(new.frame("score_answer").numpy("reward")) == {1.0}
    assert new.table("again").equals(old.table("again")), "the own rows too are those that were shared"
    assert verify_run(found.folder).problems == []


class Best2(Select, name="replay_best"):
    """The rows with a reward above the mean."""

    def run(self, scored: Scored[R]) -> Scored[R]:
        return scored.where(scored.numpy("reward") >= scored.numpy("reward").mean())


def test_only_complete_rounds_of_a_run_that_is_being_written(tmp_path: Path) -> None:
    graph = toy_game()
    whole = play(graph, out=tmp_path / "whole", rounds=3, peers=2, quiet=True)
    source = RunStore.open(whole.folder)
    with RunStore.create(tmp_path / "x", source.graph_yaml, source.versions) as store:
        stored = StoredRounds(open_run(whole.folder))
        steps = source.steps().to_pylist()[: 2 * 22 + 9]  # a round has 22 records
        store.commit([stored.holder_round(step["round"], step["holder"]).record(step["node"]) for step in steps])
        found = replay(tmp_path / "x", graph, out=tmp_path / "y", recompute=("all",), quiet=True)
        assert list(found.rounds) == [0, 1]
        assert {move.changed for move in found.moves} == {0}
        with pytest.raises(ParamError, match=r"--rounds 0:3: .*x has the complete rounds 0 to 1"):
            replay(tmp_path / "x", graph, out=tmp_path / "z", rounds=(0, 3), quiet=True)
    RunStore.create(tmp_path / "new", source.graph_yaml, source.versions).close()
    with pytest.raises(ParamError, match="no round is complete yet"):
        replay(tmp_path / "new", graph, out=tmp_path / "z", quiet=True)


def test_a_run_of_several_processes_becomes_one_folder(toy: Path, tmp_path: Path) -> None:
    source, stored = RunStore.open(toy), StoredRounds(open_run(toy))
    for peer in ("peer0000", "peer0001"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with RunStore.create(tmp_path / "x" / peer, source.graph_yaml, source.versions) as store:
            steps = [step for step in source.steps().to_pylist() if step["holder"] == peer]
            store.commit([stored.holder_round(step["round"], peer).record(step["node"]) for step in steps])
    found = replay(tmp_path / "x", toy_game(), out=tmp_path / "y", recompute=("score_final",), quiet=True)
    assert found.peers == ["peer0000", "peer0001"]
    assert {move.changed for move in found.moves} == {0}
    made, run = open_run(found.folder), open_run(toy)
    for group in set(run.groups) - {"update/trained"}:
        assert made.table(group).equals(run.table(group)), group


def test_a_replay_that_fails_leaves_nothing(toy: Path, tmp_path: Path) -> None:
    graph = edited(toy_game(), ("type: reward.toy_matches", "type: reward.replay_judged\n    params: {fails_in: 2}"))
    with pytest.raises(NodeFailed, match=r"nodes.match_final \(round 2, peer0000\): ValueError: no idea"):
        replay(toy, graph, out=tmp_path / "y", quiet=True)
    assert not (tmp_path / "y").exists()
    ASKED.clear()
    found = replay(toy, graph, out=tmp_path / "y", rounds=(0, 2), quiet=True)
    assert ASKED == [(0, "peer0000"), (0, "peer0001"), (1, "peer0000"), (1, "peer0001")]
    assert open_run(found.folder).rounds == [0, 1]


def test_updates_run_on_request_from_the_newest_checkpoint(toy: Path, tmp_path: Path) -> None:
    found = replay(toy, toy_game(), out=tmp_path / "y", rounds=(2, 4), update=True, quiet=True)
    assert fates(found, "updated") == {"update": "updated"}
    assert found.notes == ["policy: starts from the checkpoint after 2 rounds"]
    assert_same_but(found)
    run, made = open_run(toy), open_run(found.folder)
    for round in (2, 3):
        assert made.facts("update", round) == run.facts("update", round)
    saved = [folder / "checkpoints" / "000004" / "peer0001" / "policy" / "toy.json" for folder in (toy, found.folder)]
    assert saved[0].read_text() == saved[1].read_text()
    found = replay(toy, toy_game(), out=tmp_path / "late", rounds=(3, 4), update=True, quiet=True)
    assert found.notes == ["policy: starts from the checkpoint after 2 rounds, for there is no checkpoint at round 3"]
    other = play(toy_game(), out=tmp_path / "other", rounds=3, quiet=True)
    found = replay(other.folder, toy_game(), out=tmp_path / "first", rounds=(1, 3), update=True, quiet=True)
    assert found.notes == ["policy: starts from its initial value, for there is no checkpoint at round 1"]


class Versions(Step, name="replay_versions"):
    """Remembers the versions in the rows that it trains on."""

    def run(self, policy: ToyPolicy, credited: list[Credited[Rollouts]], *, log: Log) -> ToyPolicy:  # type: ignore[override]
        SEEN.extend(version for rows in credited for version in rows.values("policy_version"))
        policy.version += 1
        return policy


SEEN: list[int] = []


def test_rows_are_off_policy_for_updates_alone(toy: Path, tmp_path: Path) -> None:
    graph = edited(toy_game(), ("update.toy_step", "update.replay_versions"))
    found = replay(toy, graph, out=tmp_path / "y", update=True, quiet=True)
    assert set(SEEN) == {-1}
    assert set(open_run(found.folder).frame("credit_final").values("policy_version")) == {0, 1, 2, 3}


def test_the_command_line_says_what_is_wrong_in_a_line(
    toy: Path, toys_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("game.yaml").write_text(toy_game().dump())
    toys = ["--import", str(toys_file)]

    def told(*arguments: object, error: type[GenrlGraphError]) -> str:
        assert run_command(["replay", *map(str, arguments), *toys]) == error.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no run here" in told("nowhere", "game.yaml", "-o", "y", error=StoreError)
    assert "holds a run already" in told(toy, "game.yaml", "-o", toy, error=StoreError)
    assert "rounds 0 to 3" in told(toy, "game.yaml", "-o", "y", "--rounds", "4:", error=ParamError)
    assert "write A:B" in told(toy, "game.yaml", "-o", "y", "--rounds", "x", error=ParamError)
    assert "leave it out" in told(toy, "game.yaml", "-o", "y", "run.seed=3", error=ParamError)
    assert "'credit_final'" in told(toy, "game.yaml", "-o", "y", "--recompute", "credit_finl", error=ParamError)
    assert "answer: is no select" in told(toy, "game.yaml", "-o", "y", "--recompute", "answer", error=ParamError)
    assert "unknown param" in told(toy, "game.yaml", "-o", "y", "nodes.best.params.k=1", error=GraphError)
    assert run_command(["replay", str(toy), "game.yaml", "-o", "y", "--rounds", "1:3", "-q", *toys]) == 0
    assert capsys.readouterr() == ("", "")
    assert open_run("y").rounds == [1, 2]
    for again in (["resume", "y", *toys], ["run", "game.yaml", "-o", "y", "--resume", *toys]):
        assert run_command(again) == StoreError.exit_code
        assert f"y: is a replay of {toy}, which has an end; replay it again" in capsys.readouterr().err
    assert run_command(["replay", "y", "game.yaml", "-o", "z", *toys, "nodes.score_final.params.weight=2"]) == 0
    assert "2 rows" not in capsys.readouterr().err


def test_the_python_door(toy: Path, tmp_path: Path) -> None:
    found = genrl_graph.replay(toy, toy_game(), out=tmp_path / "y", rounds=(1, None), recompute=["score_final"])
    assert found.folder == tmp_path / "y"
    assert list(found.rounds) == [1, 2, 3]
    assert {move.node for move in found.moves} == {"score_final", "match_final", "credit_final"}


def by_hand(policy: CausalPolicy, rounds: Sequence[Rollouts], node: Grpo) -> list[tuple[float, float]]:
    """Loss and norm of the gradient of each round in plain torch: dapo, ratios to the stored log-probs, AdamW."""
    import torch

    weights = list(policy.model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0)
    found = []
    for number, rows in enumerate(rounds):
        tokens = sum(map(len, rows.ragged("completion_ids")))
        loss = torch.zeros(())
        for row in rows.rows():
            ids, completion = row["prompt_ids"] + row["completion_ids"], row["completion_ids"]
            logits = policy.model(torch.tensor([ids])).logits[0, len(row["prompt_ids"]) - 1 : -1]
            logprobs = torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
            ratio = (logprobs - torch.tensor(row["logprobs"])).exp()
            clipped = ratio.clamp(1 - node.epsilon_low, 1 + node.epsilon_high)
            loss = loss - torch.minimum(ratio * row["advantage"], clipped * row["advantage"]).sum() / tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, node.max_grad_norm)
        optimizer.param_groups[0]["lr"] = node.learning_rate_at(number)
        optimizer.step()
        found.append((loss.item(), norm.item()))
    return found


def test_training_on_a_replay_weighs_by_the_stored_logprobs(tiny: Path, tmp_path: Path) -> None:
    """Rounds 4 to 6 under an edited reward, from the initial weights: off-policy from the first step on."""
    graph = genrl_graph.load(
        TINY, [*SMALL, "nodes.score_answer.params.compare=false", "nodes.score_critique.params.exists=0.5"]
    )
    found = replay(tiny, graph, out=tmp_path / "y", rounds=(4, 7), update=True, quiet=True)
    assert fates(found, "updated") == {"update": "updated"}
    made, metrics = open_run(found.folder), open_run(found.folder).metrics().to_pylist()
    node, carry = graph.nodes["update"].declared, graph.carries["policy"].carry
    assert isinstance(node, Grpo)
    for peer in found.peers:
        rounds = []
        for number in found.rounds:
            names = ("credit_answer", "credit_critique", "credit_final")
            stored = [made.frame(name, number, holder=peer) for name in names]
            rounds.append(Rollouts.concat([rows for rows in stored if isinstance(rows, Rollouts)]))
        expected = by_hand(causal(carry.init("policy", seed=0)), rounds, node)
        told = [(row["update/loss"], row["update/grad_norm"]) for row in metrics if row["peer"] == peer]
        np.testing.assert_allclose(told, expected, rtol=2e-3, atol=2e-5)
        assert abs(metrics[0]["update/ratio"] - 1) > 1e-3
    assert len(list((found.folder / "checkpoints" / "000007").glob("*/policy"))) == 2
