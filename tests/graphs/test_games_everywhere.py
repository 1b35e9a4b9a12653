"""Every shipped game in steps goes through every door: check, draw, plan, store, SIGKILL and resume, replay."""

import re
from pathlib import Path

import numpy as np
import pytest
from crash import Left, killed

import genrl_graph.graphs
from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.stored_run import open_run
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.play import play
from genrl_graph.runners.replay.replay import Replay, replay

GAMES = Path(genrl_graph.graphs.__file__).resolve().parent / "games"
NAMES = sorted(path.stem for path in GAMES.glob("*.yaml") if "play" in load(path).nodes)
SMALL = {
    "cartpole": ["nodes.tasks.params.num_episodes=4"],
    "cartpole_swarm": ["nodes.tasks.params.num_episodes=2"],
    "cartpole_dqn": ["nodes.update.params.start_size=10"],
    "chess": [
        "nodes.tasks.params.num_episodes=1",
        "nodes.update.params.minibatch_size=1024",
        "carry.policy.params.channels=[4]",
        "carry.policy.params.hidden=[8]",
    ],
    "connect_four": ["nodes.tasks.params.num_episodes=4"],
    "leduc": ["nodes.tasks.params.num_episodes=16"],
    "tic_tac_toe": ["nodes.tasks.params.num_episodes=16"],
    "tic_tac_toe_swarm": ["nodes.tasks.params.num_episodes=8"],
}
EDITS = {
    "cartpole": ("nodes.credit.params.lam=0.5", "credit"),
    "cartpole_dqn": ("nodes.update.params.gamma=0.5", ""),
    "cartpole_swarm": ("nodes.credit.params.gamma=0.5", "credit"),
    "chess": ("nodes.credit.params.gamma=0.9", "credit"),
    "connect_four": ("nodes.track.params.decay=0.2", "credit"),
    "leduc": ("nodes.track.params.decay=0.2", "credit"),
    "tic_tac_toe": ("nodes.track.params.decay=0.2", "credit"),
    "tic_tac_toe_swarm": ("nodes.track.params.decay=0.2", "credit"),
}
"""Another discount, baseline or target, and the advantage that is another one then; a critic's targets are no rows."""
ROUNDS = 2
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """A game of `graphs/games`."""
    return str(request.param)


@pytest.fixture(scope="module")
def arguments(name: str) -> list[str]:
    """Return the overrides that make the game small; pools of past policies fill from the first round on."""
    pool = ["nodes.remember.params.every=1"] if "past" in load(GAMES / f"{name}.yaml").carries else []
    common = ["run.mode=train", "run.eval_every=0", "run.trackers=[]", "run.checkpoint_every=1", "run.block_rounds=2"]
    return [*SMALL.get(name, []), *pool, *common, f"run.rounds={ROUNDS}"]


@pytest.fixture(scope="module")
def game(name: str, arguments: list[str]) -> Graph:
    """The small game."""
    return load(GAMES / f"{name}.yaml", arguments)


@pytest.fixture(scope="module")
def whole(game: Graph, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, Left]:
    """A run that nothing happened to."""
    run = play(game, out=tmp_path_factory.mktemp("games") / "whole", quiet=True)
    return run.folder, Left.of(run.folder, {"/".join(key): digest for key, digest in run.after.items()})


def test_it_is_checked_drawn_and_planned(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(GAMES / f"{name}.yaml")
    assert run_command(["check", file]) == 0
    assert f"{name}.yaml: ok (" in capsys.readouterr().out
    nodes = list(load(GAMES / f"{name}.yaml").nodes)
    assert run_command(["draw", file, "--format", "text"]) == 0
    drawn = capsys.readouterr().out
    assert run_command(["draw", file, "-o", str(tmp_path / "game.svg")]) == 0
    svg = (tmp_path / "game.svg").read_text()
    assert "Trajectories" in drawn + svg
    capsys.readouterr()
    assert run_command(["plan", file]) == 0
    planned = capsys.readouterr().out
    for node in nodes:
        assert node in drawn and node in svg and re.search(rf"\d\. (open |close )?{node} ", planned), node
    assert "carry policy" in planned


def test_its_store_is_sound_and_holds_every_episode(whole: tuple[Path, Left], game: Graph) -> None:
    folder, _ = whole
    found = verify_run(folder)
    assert found.problems == []
    run = open_run(folder)
    assert run.rounds == list(range(ROUNDS))
    rows = run.frame("play")
    assert set(rows.values("round")) == set(range(ROUNDS))
    assert rows.content_ids(protocol=compile_graph(game).protocol) == rows.values("id")  # type: ignore[attr-defined]


def test_killed_in_the_middle_of_a_round_it_goes_on_to_the_same_bits(
    whole: tuple[Path, Left], game: Graph, tmp_path: Path
) -> None:
    commits = sum(step.action != "open" for step in compile_graph(game).steps)
    folder = tmp_path / "cut"
    assert killed(game, folder, commits + commits // 2 + 1)
    assert len(open_run(folder).rounds) == 1
    again = play(game, out=folder, resume=True, quiet=True)
    left = Left.of(folder, {"/".join(key): digest for key, digest in again.after.items()})
    assert whole[1].differences(left) == []


def fates(found: Replay) -> set[str]:
    return {verdict.fate for verdict in found.verdicts.values()}


def test_replayed_as_it_is_nothing_is_computed(whole: tuple[Path, Left], game: Graph, tmp_path: Path) -> None:
    found = replay(whole[0], game, out=tmp_path / "same", quiet=True)
    assert fates(found) <= {"pinned", "read"}
    run, made = open_run(whole[0]), open_run(found.folder)
    assert run.groups == made.groups
    for group in run.groups:
        assert run.table(group).equals(made.table(group)), group
    assert verify_run(found.folder).problems == []


def test_its_updates_are_replayed_from_stored_steps(whole: tuple[Path, Left], game: Graph, tmp_path: Path) -> None:
    found = replay(whole[0], game, out=tmp_path / "again", update=True, quiet=True)
    assert found.before["peer0000", "policy"] != found.after["peer0000", "policy"]
    assert found.after["peer0000", "policy"] == whole[1].after["peer0000/policy"]
    assert verify_run(found.folder).problems == []


def test_an_edit_of_advantages_or_targets_trains_otherwise(
    name: str, arguments: list[str], whole: tuple[Path, Left], tmp_path: Path
) -> None:
    edit, credit = EDITS[name]
    other = load(GAMES / f"{name}.yaml", [*arguments, edit])
    found = replay(whole[0], other, out=tmp_path / "other", update=True, quiet=True)
    recomputed = {node for node, verdict in found.verdicts.items() if verdict.fate == "recomputed"}
    assert recomputed == ({credit} if credit else set())
    assert not credit or next(move for move in found.moves if move.column == "advantage").changed > 0
    assert found.after["peer0000", "policy"] != whole[1].after["peer0000/policy"]
    assert verify_run(found.folder).problems == []


def test_advantages_against_baselines_that_are_tracked_otherwise_are_other_advantages(tmp_path: Path) -> None:
    small = [*SMALL["leduc"], "run.mode=train", "run.eval_every=0", "run.trackers=[]", "run.rounds=2"]
    run = play(load(GAMES / "leduc.yaml", small), out=tmp_path / "run", quiet=True)
    other = load(GAMES / "leduc.yaml", [*small, "nodes.track.params.decay=0.2"])
    found = replay(run.folder, other, out=tmp_path / "other", update=True, quiet=True)
    verdict = found.verdicts["credit"]
    assert (verdict.fate, verdict.why) == ("recomputed", "because track is another one")
    (moved,) = (move for move in found.moves if move.column == "advantage")
    assert moved.changed > 0
    rows, credit = open_run(found.folder).frame("play"), open_run(found.folder).frame("credit")
    returns = {key: rows.numpy("reward")[at].sum() for key, at in episodes(rows).items()}
    tracked = {0: 0.0, 1: 0.0}
    for number in range(2):
        own = [key for key in returns if key[0] == number]
        for _, group, seat in own:
            tracked[seat] = 0.2 * tracked[seat] + 0.8 * returns[number, group, seat]
        for key in own:
            at = episodes(credit)[key]
            assert np.allclose(credit.numpy("advantage")[at], returns[key] - tracked[key[2]]), key


def episodes(rows: Frame) -> dict[tuple[int, str, int], list[int]]:
    """The places of the steps of each seat's episodes, by round, episode and seat."""
    found: dict[tuple[int, str, int], list[int]] = {}
    for at, row in enumerate(rows.rows("round", "group_id", "seat")):
        found.setdefault((row["round"], row["group_id"], row["seat"]), []).append(at)
    return found
