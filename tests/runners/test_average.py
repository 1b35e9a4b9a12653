"""Runs whose peers average weights: all go on with one policy, also after an interruption and as ranks of a job."""

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from averaged import AVERAGED
from ranks import CUT, digests_of, play_ranks, rows_of

from genrl_graph.cli import run_command
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import Loaded, read_document
from genrl_graph.records.facts import read_facts
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.play import play
from genrl_graph.runners.replay.replay import replay
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

ROUNDS, STEPS = 5, 6
GAME = f"{AVERAGED}run: {{rounds: {ROUNDS}, peers: 2, checkpoint_every: 100, trackers: []}}\n"


def game(*changes: tuple[str, str]) -> Loaded:
    text = GAME
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return read_document(parse_document(text, file="averaged.yaml"))


def digests(folder: Path, node: str) -> list[set[str]]:
    """Return the distinct digests of the policy that a node gave, round by round."""
    steps = [step for step in RunStore.open(folder).steps().to_pylist() if step["node"] == node]
    found: list[set[str]] = [set() for _ in range(1 + max(step["round"] for step in steps))]
    for step in steps:
        given = read_facts(step["facts"], RunStore.open(folder).folder)["digests"]
        found[step["round"]].add(given.get("average.policy") or given["update"])
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged") / "run"
    play(game().graph, out=folder, quiet=True, threads=1)
    return folder


def test_peers_part_between_averages_and_have_one_policy_after_each(local: Path) -> None:
    assert [len(found) for found in digests(local, "update")] == [2] * ROUNDS
    assert [len(found) for found in digests(local, "average")] == [2, 1, 2, 1, 2]
    metrics = [json.loads(line) for line in (local / "metrics.jsonl").read_text().splitlines()]
    averaged = {line["round"]: line["average/averaged"] for line in metrics if "average/averaged" in line}
    assert averaged == {1: 2.0, 3: 2.0}
    assert all(line["average/distance"] > 0 for line in metrics if "average/distance" in line)
    verify_run(local)


@pytest.mark.parametrize("commit", [4 * STEPS, 4 * STEPS + 3], ids=["in the average", "in the round after it"])
def test_a_run_that_is_cut_goes_on_to_the_same_bits(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: int
) -> None:
    left = [commit]

    class Cut(BaseException):
        """Raised instead of the end of a process."""

    def committing(self: RunStore, records: Sequence[Record]) -> list[str]:
        left[0] -= 1
        if left[0] == 0:
            raise Cut
        return whole(self, records)

    whole = RunStore.commit
    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(RunStore, "commit", committing)
        play(game().graph, out=tmp_path / "run", quiet=True, threads=1)
    play(game().graph, out=tmp_path / "run", quiet=True, threads=1, resume=True)
    for peer in ("peer0000", "peer0001"):
        assert digests_of(tmp_path / "run", peer) == digests_of(local, peer)
        here, there = rows_of(tmp_path / "run", peer), rows_of(local, peer)
        assert {group: here[group].equals(rows) for group, rows in there.items()} == dict.fromkeys(here, True)


def test_the_plan_says_that_the_average_replaces_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "game.yaml").write_text(GAME)
    assert run_command(["plan", str(tmp_path / "game.yaml")]) == 0
    plan = capsys.readouterr().out
    assert re.search(r"open average +exchange.average +reads outer; weights of update \(this round\)\n", plan)
    assert re.search(r"close average +gives average.policy: new weights", plan)
    assert run_command(["check", str(tmp_path / "game.yaml"), "carry.policy.next=update"]) == 2
    assert "'update' is replaced before the round ends; write `next: average.policy`" in capsys.readouterr().out
    assert run_command(["plan", str(tmp_path / "game.yaml"), "--estimate"]) == 0
    assert run_command(["run", str(tmp_path / "game.yaml"), "--dry", "-q", "-o", str(tmp_path / "dry")]) == 0


def test_an_average_is_read_in_a_replay_and_cannot_be_trained_again(local: Path, tmp_path: Path) -> None:
    edited = game(("miss: -0.5", "miss: -0.4")).graph
    replay(local, edited, out=tmp_path / "replayed", quiet=True)
    with pytest.raises(GraphError, match="average averages with weights that the other peers had in the run"):
        replay(local, edited, out=tmp_path / "trained", update=True, quiet=True)


def same_as(local: Path, run: Path) -> None:
    for peer in ("peer0000", "peer0001"):
        assert digests_of(run / peer, peer) == digests_of(local, peer)
        here, there = rows_of(run / peer, peer), rows_of(local, peer)
        assert {group: here[group].equals(rows) for group, rows in there.items()} == dict.fromkeys(here, True)


@pytest.mark.long
def test_ranks_average_to_the_same_bits_also_where_one_died_while_it_committed_an_average(
    local: Path, tmp_path: Path
) -> None:
    (tmp_path / "game.yaml").write_text(GAME)
    (tmp_path / "cut.py").write_text(CUT)
    arguments = ["run", str(tmp_path / "game.yaml"), "-o", str(tmp_path / "run"), "--import", str(tmp_path / "cut.py")]
    arguments += ["--resume", "run.threads=1"]
    cut = play_ranks(arguments, own=[[], []], env=[{}, {"CUT_AT": str(2 * STEPS)}])
    assert cut[1].code == -signal.SIGKILL
    for ended in play_ranks(arguments, own=[[], []]):
        assert ended.code == 0, ended.text
    same_as(local, tmp_path / "run")
