"""Roles of one game in processes of their own: ranks of a torchrun job, and a swarm in which a peer is killed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from players import Players, wait_until
from ranks import CUT, ROOT, play_ranks, rows_of

from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.graph_file.read import read
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

pytestmark = pytest.mark.long

GAME = ROOT / "tests/data/roles.yaml"
ROLES = {"ann": "asker", "bob": "solver", "carol": "solver", "dave": "judge"}
ROUNDS, LIMIT_S = 6, 300.0
TOGETHER = [f"nodes.{name}.params.{param}" for name in ("asked", "solved") for param in ("min_peers=4", "timeout_s=20")]


def played(run: Path) -> set[str]:
    """Return the nodes of which a run has steps."""
    return {step["node"] for step in RunStore.open(run).steps().to_pylist()}


def part_of(*roles: str) -> set[str]:
    """Return the nodes that a peer of these roles plays."""
    return set(compile_graph(read(GAME).graph).played_by(roles).nodes)


def authors(run: Path, peer: str, group: str, round: int) -> set[str]:
    """Return the other peers that made rows of an exchange in a round; own rows are stored where they were made."""
    rows = rows_of(run, peer)[group].to_pylist()
    return {row["peer"] for row in rows if row["round"] == round}


def assert_readable(run: Path, output: Callable[[], str]) -> None:
    """Assert that commands read the run of some roles as any other."""
    for command in (["store", "verify"], ["rollouts"], ["draw", "--run"], ["runs"]):
        assert run_command([*command, str(run)]) == 0, (command, output())


def test_ranks_of_different_roles_play_one_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(GAME), "-o", str(tmp_path / "run")]
    for process in play_ranks(command, own=[["--role", "asker,judge"], ["--role", "solver"]]):
        assert process.code == 0, process.text
    runs = [tmp_path / "run" / name for name in ("peer0000", "peer0001")]
    assert [played(run) for run in runs] == [part_of("asker", "judge"), part_of("solver")]
    assert authors(runs[1], "peer0001", "asked", 1) == {"peer0000"}
    assert authors(runs[0], "peer0000", "solved", 1) == {"peer0001"}
    for run in runs:
        assert_readable(run, lambda: str(capsys.readouterr()))
        stored = open_run(run)
        assert stored.rounds == [0, 1] and set(stored.played_nodes) == played(run)
    assert open_run(tmp_path / "run").played_nodes == list(compile_graph(read(GAME).graph).nodes)
    capsys.readouterr()
    assert run_command(["runs", str(runs[1])]) == 0
    shown = capsys.readouterr().out
    assert "finished, 2 of 2 rounds" in shown and "learn_to_solve" in shown and "learn_to_ask" not in shown
    assert run_command(["rollouts", str(runs[1]), "--node", "ask"]) != 0
    assert "'ask' is played by role 'asker'" in capsys.readouterr().err
    made, read_there = rows_of(runs[0], "peer0000")["ask"], rows_of(runs[1], "peer0001")["asked"]
    assert made["id"].equals(read_there["id"])
    alone = play(read(GAME).graph, out=tmp_path / "alone", rounds=1, quiet=True, threads=1)
    here, there = rows_of(alone.folder, "peer0000")["ask"], rows_of(runs[0], "peer0000")["ask"]
    assert here.equals(there.slice(0, len(here))), "a role plays as it does beside the others"
    ended = play_ranks(["run", str(GAME), "-o", str(tmp_path / "no")], own=[["--role", "solver"], ["--role", "judge"]])
    assert ended[0].code == 3 and "no rank plays role 'asker'; give one of them --role asker" in ended[0].text


def test_a_swarm_shares_roles_out_and_outlives_a_killed_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.py").write_text(CUT)
    with Players(tmp_path, [*TOGETHER, f"run.rounds={ROUNDS}", "run.checkpoint_every=2"], graph=GAME) as swarm:
        role = {name: ["--role", roles, "--import", str(tmp_path / "cut.py")] for name, roles in ROLES.items()}
        ann = swarm.start("ann", *role["ann"])
        bob = swarm.start("bob", *role["bob"], join=ann.address(), env={"CUT_AT": "25"})
        others = [swarm.start(name, *role[name], join=ann.address()) for name in ("carol", "dave")]
        wait_until("bob is dead", lambda: not bob.running, limit_s=LIMIT_S)
        again = swarm.start("bob", "--resume", *role["bob"], join=ann.address())
        swarm.wait(ann, again, *others, limit_s=LIMIT_S)
    for name, plays in ROLES.items():
        run = swarm.run(name)
        assert played(run) == part_of(plays), name
        assert authors(run, name, "asked", ROUNDS - 1) == {"ann"} - {name}
        assert authors(run, name, "solved", ROUNDS - 1) == {"bob", "carol"} - {name}
        assert_readable(run, lambda: str(capsys.readouterr()))
    resumed = ["run", str(GAME), "--resume", "-o", str(tmp_path / "run"), "--import", str(tmp_path / "cut.py")]
    other = [*resumed, "--runner", "swarm", "--peer-name", "bob", *TOGETHER, f"run.rounds={ROUNDS}", "--role", "judge"]
    assert run_command(other) != 0 and "roles" in capsys.readouterr().err.partition("fingerprints")[0]
