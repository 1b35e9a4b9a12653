"""The swarm runner with real processes: equal to a local run, and sound when peers crash, join late or lie."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from players import GATE, TINY, Players, wait_until
from ranks import CUT, digests_of, rows_of

from genrl_graph.cli import run_command
from genrl_graph.graph_file.read import read
from genrl_graph.runners.loop.runner import BEHIND
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.store.run_store import RunStore

HOSTILE = Path(__file__).with_name("hostile.py")
PEERS = ("peer0000", "peer0001")
GOOD = ("ann", "bob", "carol", "dave")
ROUNDS, LONG, GATE_AT = 3, 8, 3
LIMIT_S = 120.0
SMALL = (
    "nodes.tasks.params.num_tasks=4",
    *(f"nodes.{name}.params.num_generations=4" for name in ("answer", "critique", "final")),
    "run.trackers=[]",
)
HASTE = tuple(f"nodes.{name}.params.timeout_s=4" for name in ("answers", "critiques"))
NOTHING_TO_TRAIN = (
    "nodes.score_answer.params.pattern='^(x)$'",
    "nodes.score_final.params.pattern='^(x)$'",
    "nodes.score_critique.params.exists=0",
)


def facts_of(run: Path, name: str) -> dict[tuple[int, str], object]:
    """Return the values of one fact by round and node, for the steps that have it."""
    steps = RunStore.open(run).steps().to_pylist()
    facts = {(step["round"], step["node"]): json.loads(step["facts"]) for step in steps}
    return {place: fact[name] for place, fact in facts.items() if name in fact}


def test_two_processes_play_what_two_peers_of_one_process_play(tmp_path: Path) -> None:
    game, local = read(TINY, SMALL).graph, tmp_path / "local"
    play(game, out=local, rounds=ROUNDS, quiet=True, threads=1)
    with Players(tmp_path, [*SMALL, f"run.rounds={ROUNDS}"]) as swarm:
        first = swarm.start(PEERS[0])
        second = SwarmRunner(name=PEERS[1], network=NetworkOptions(join=(first.address(),)))
        play(game, out=tmp_path / "run", rounds=ROUNDS, quiet=True, threads=1, runner=second)
        swarm.wait(first, limit_s=LIMIT_S)
    for peer in PEERS:
        here, there = rows_of(local, peer), rows_of(swarm.run(peer), peer)
        assert here.keys() == there.keys()
        for group, rows in here.items():
            assert rows.equals(there[group]), (peer, group)
        assert digests_of(local, peer) == digests_of(swarm.run(peer), peer)
        assert len(digests_of(local, peer)) == ROUNDS


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Players]:
    """Two honest peers with unequal work, carol (killed and resumed), dave (joins late) and mallory (hostile)."""
    folder = tmp_path_factory.mktemp("company")
    (folder / "cut.py").write_text(CUT)
    (folder / "gate.py").write_text(GATE)
    gate, cut = (("--import", str(folder / name)) for name in ("gate.py", "cut.py"))
    gated = {"GATE": str(folder / "open"), "GATE_AT": str(GATE_AT)}
    arguments = [*SMALL, *HASTE, f"run.rounds={LONG}", "run.checkpoint_every=2", "run.block_rounds=2"]
    with Players(folder, arguments) as swarm:
        ann = swarm.start("ann", *gate, "nodes.answer.params.num_generations=2", env=gated)
        address = ann.address()
        other = (*NOTHING_TO_TRAIN, "nodes.update.params.max_batch_tokens=64")
        bob = swarm.start("bob", *gate, *other, join=address, env=gated)
        carol = swarm.start("carol", *cut, join=address, env={"CUT_AT": "16"})
        mallory = swarm.start("mallory", "--import", str(HOSTILE), join=address)
        wait_until("carol is dead", lambda: not carol.running, limit_s=LIMIT_S)
        dave = swarm.start("dave", join=address)
        again = swarm.start("carol", "--resume", *cut, join=address)
        wait_until("both are there", lambda: all("left: " in each.text for each in (dave, again)), limit_s=LIMIT_S)
        (folder / "open").touch()
        swarm.wait(ann, bob, again, dave, limit_s=LIMIT_S)
        if mallory.running:
            mallory.kill()
    yield swarm


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, checks that it succeeds and returns its output."""

    def run(*arguments: str) -> str:
        assert run_command(arguments) == 0, capsys.readouterr()
        return capsys.readouterr().out

    return run


@pytest.mark.soak
def test_all_good_peers_come_to_the_end_with_sound_stores(company: Players, command: Callable[..., str]) -> None:
    for name in GOOD:
        steps = RunStore.open(company.run(name)).steps().to_pylist()
        assert max(step["round"] for step in steps) == LONG - 1
    command("store", "verify", str(company.run("carol")))


@pytest.mark.soak
def test_the_others_miss_who_was_killed(company: Players) -> None:
    missing = [facts_of(company.run(name), "missing").values() for name in ("ann", "bob")]
    assert any("carol" in names for told in missing for names in told)  # type: ignore[operator]
    log = (company.folder / "carol.log").read_text()
    assert "goes on from" in log and "left: the swarm is in round" in log


@pytest.mark.soak
def test_who_comes_late_goes_on_where_the_others_are(company: Players) -> None:
    (begun, later), *_ = [(round, to) for (round, node), to in facts_of(company.run("dave"), "to").items()]
    assert (begun, later) == (0, GATE_AT)
    taken = RunStore.open(company.run("ann")).table("answers")
    assert "dave" in taken["peer"].to_pylist()
    assert min(row["round"] for row in taken.to_pylist() if row["peer"] == "dave") >= later


@pytest.mark.soak
def test_what_a_hostile_peer_sends_is_refused_by_name_and_rule(company: Players) -> None:
    told = set[tuple[str, str]]()
    for name in GOOD:
        store = RunStore.open(company.run(name))
        for group in ("answers/refusals", "critiques/refusals"):
            if group in store.groups():
                told |= {(row["peer"], row["rule"]) for row in store.table(group).to_pylist()}
    assert {peer for peer, rule in told if rule != "round"} == {"mallory"}, "an honest peer is at most too late"
    rules = {rule for peer, rule in told if peer == "mallory"}
    assert rules >= {"signed message", "head", "announcement", "protocol", "node", "round"}


@pytest.mark.soak
def test_unequal_work_ends_every_round(company: Players) -> None:
    rows = RunStore.open(company.run("bob")).table("answers").to_pylist()
    assert sum(row["peer"] == "ann" and row["round"] == 0 for row in rows) == 4 * 2
    assert facts_of(company.run("bob"), "digests").keys() == {(round, "update") for round in range(LONG)}


@pytest.mark.soak
def test_a_round_that_was_left_is_no_stumbling_block(
    company: Players, command: Callable[..., str], tmp_path: Path
) -> None:
    """Commands skip the record of an abandoned round, and a resumed run abandons it again and verifies its updates."""
    run = company.run("dave")
    assert (0, BEHIND) in facts_of(run, "to")
    assert f"finished, {LONG - GATE_AT} of {LONG} rounds" in command("runs", str(run))
    (final,) = RunStore.open(run).table("final").slice(0, 1).to_pylist()
    for arguments in (["rollouts", str(run), "--limit", "2"], ["lineage", str(run), final["id"][:12]]):
        assert command(*arguments)
    command("rows", str(run), "final", "-o", str(tmp_path / "final.parquet"))

    again = tmp_path / "run" / "dave"
    shutil.copytree(run, again)
    for checkpoint in (again / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    game = read(TINY, company.arguments).graph
    runner = SwarmRunner(name="dave", network=NetworkOptions())
    ended = play(game, out=tmp_path / "run", resume=True, quiet=True, runner=runner)
    assert ended.folder == again
    assert digests_of(again, "dave") == digests_of(run, "dave")
    assert facts_of(again, "to") == facts_of(run, "to")
