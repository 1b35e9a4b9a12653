"""Dialogue games go through every door: dry, played, looked at, cut, resumed, replayed, exported, and among peers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Graph, GraphError, ParamError, load
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.turns import Turns
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.runners.export import export_policy
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

SCRIPT = Path(__file__).parents[1] / "text_games.py"
SMALL = ["nodes.tasks.params.num_episodes=6", "run.eval_every=0", "run.eval_tasks=4", "run.trackers=[]"]
registry.import_file(SCRIPT)

GUESS = """
graph: guess
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "0123456789guesmorl\\n ", hidden_size: 8, heads: 1}, next: update}
nodes:
  tasks: {type: source.environment, params: {environment: {kind: text, id: guess}, num_episodes: 2}}
  play:
    type: generate.dialogue
    inputs: {tasks: tasks, policy: policy}
    params: {num_generations: 2, max_turns: 4, max_new_tokens: 2}
  brief: {type: reward.regex, inputs: {rollouts: play}, params: {pattern: '^\\d$', term: brief}}
  credit: {type: advantage.turns, inputs: {scored: brief}, params: {credit: return_to_go}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
run: {rounds: 3, trackers: []}
"""


def small(graphs: Path, name: str, *more: str) -> Graph:
    """A shipped game with few episodes a round."""
    return load(graphs / "dialogue" / f"{name}.yaml", [*SMALL, *more])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stored(folder: Path) -> dict[str, Any]:
    """All columns of all groups."""
    store = RunStore.open(folder)
    return {group: store.table(group).to_pydict() for group in store.groups()}


@pytest.fixture(scope="module")
def kuhn(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds."""
    return play(small(graphs, "kuhn"), out=tmp_path_factory.mktemp("runs") / "kuhn", rounds=2, quiet=True).folder


@pytest.mark.usefixtures("one_thread")
def test_it_plays_moves_its_policy_and_evaluates_against_random_moves(kuhn: Path, graphs: Path) -> None:
    rows = Turns(RunStore.open(kuhn).table("play").drop_columns(["holder", "reward"]))
    assert set(rows.values("round")) == {0, 1}
    known = ReceiverContext(compile_graph(small(graphs, "kuhn")).protocol, {})
    for at in rows.positions("round").values():
        assert [flaw.rule for flaw in rows.take(at).violations(known) if flaw.rows.any()] == []
    lines = [line for line in metrics(kuhn) if "play/turns" in line]
    assert len(lines) == 2 and all(line["play/failed"] == 0 and line["play/turns"] >= 12 for line in lines)
    assert lines[-1]["update/version"] == 2
    last = metrics(kuhn)[-1]
    assert "eval/play/random/wins" in last and last["eval/stage0/return"] == last["eval/play/return"]


def test_a_transcript_is_an_episode_and_a_turn_leads_to_its_lineage(kuhn: Path, capsys: Any) -> None:
    assert run_command(["rollouts", str(kuhn), "--round", "1", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "[game to seat 0]" in printed and "[seat 1" in printed and "turns, terminated, seat 0 " in printed
    row = RunStore.open(kuhn).table("play").slice(0, 1).to_pylist()[0]
    for id in (row["id"], row["episode"]):
        assert run_command(["lineage", str(kuhn), id]) == 0
        printed = capsys.readouterr().out
        assert f"task {row['task_id']}" in printed and "trained on by update  round 0" in printed
    assert run_command(["store", "verify", str(kuhn)]) == 0
    assert run_command(["runs", str(kuhn)]) == 0


def test_a_policy_of_dialogues_is_exported(kuhn: Path, tmp_path: Path) -> None:
    assert (export_policy(kuhn, "policy", tmp_path / "model") / "model.safetensors").exists()


@pytest.mark.usefixtures("one_thread")
def test_rewards_of_turns_are_edited_and_replayed(tmp_path: Path) -> None:
    game, edited = tmp_path / "guess.yaml", tmp_path / "edited.yaml"
    game.write_text(GUESS)
    edited.write_text(GUESS.replace("^\\d$", "^[0-4]$"))
    folder = play(load(game), out=tmp_path / "run", quiet=True).folder
    assert run_command(["replay", str(folder), str(edited), "-o", str(tmp_path / "replay")]) == 0
    before, after = stored(folder), stored(tmp_path / "replay")
    assert before["play"]["completion_ids"] and before["brief"]["id"] == after["brief"]["id"]
    changed = np.asarray(before["brief"]["reward_brief"]) - np.asarray(after["brief"]["reward_brief"])
    assert set(changed.tolist()) <= {0.0, 1.0}
    turns = Turns(RunStore.open(folder).table("play").drop_columns(["holder", "reward"]))
    expected = [float(text in "01234") and len(text) == 1 for text in turns.values("completion")]
    assert after["brief"]["reward_brief"] == [float(value) for value in expected]


@pytest.mark.usefixtures("one_thread")
def test_peers_train_on_the_turns_of_each_other(graphs: Path, tmp_path: Path) -> None:
    graph = load(graphs / "dialogue" / "kuhn.yaml", SMALL)
    text = graph.dump().replace("scored: play, baselines", "scored: others, baselines")
    others = "  others: {type: exchange.gather, inputs: {rows: play}, params: {min_peers: 2}}\n"
    (tmp_path / "swarm.yaml").write_text(text.replace("  track:\n", others + "  track:\n"))
    run = play(load(tmp_path / "swarm.yaml", ["run.mode=train"]), out=tmp_path / "run", rounds=1, peers=2, quiet=True)
    for line in metrics(run.folder):
        assert line["others/refused"] == 0 and line["update/external"] > 0


KILLED = """
import os, signal
from pathlib import Path
from genrl_graph.nodes.games.environment import register_text
from genrl_graph.nodes.games.text_game import Spoken, TextTurn
from text_games import Guess

class Deadly(Guess):
    steps = 0
    def step(self, action):
        Deadly.steps += 1
        if Deadly.steps == 23 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)

register_text("deadly", Deadly)
"""


@pytest.mark.long
def test_a_run_that_is_killed_in_the_middle_of_an_episode_resumes_exactly(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n{KILLED}")
    (tmp_path / "guess.yaml").write_text(GUESS.replace("id: guess", "id: deadly"))

    def run(folder: str, *more: str) -> int:
        command = [sys.executable, "-m", "genrl_graph", "run", "guess.yaml", "--import", "deadly.py", "-o", folder]
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, timeout=240).returncode

    assert run("cut") == -9
    assert run("cut", "--resume") == 0
    assert run("whole") == 0
    assert stored(tmp_path / "cut") == stored(tmp_path / "whole")


@pytest.mark.long
def test_an_estimate_counts_the_turns_of_games(graphs: Path) -> None:
    assert run_command(["plan", str(graphs / "dialogue" / "kuhn.yaml"), "--estimate"]) == 0


def test_what_does_not_fit_is_a_line_before_the_first_round(tmp_path: Path) -> None:
    (tmp_path / "cart.yaml").write_text(GUESS.replace("{kind: text, id: guess}", "{id: CartPole-v1}"))
    with pytest.raises(
        GraphError, match=r"nodes.play: gymnasium CartPole-v1 has observations \[4\], 2 actions, not tex"
    ):
        load(tmp_path / "cart.yaml")
    drops = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    (tmp_path / "guess.yaml").write_text(GUESS.replace("heads: 1}", f'heads: 1, chat_template: "{drops}"}}'))
    with pytest.raises(
        ParamError, match=r"nodes.play: `policy`: policy.tiny_lm: its chat template cannot be continued"
    ):
        play(load(tmp_path / "guess.yaml"), out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "advantage.turns, inputs: {scored: brief}, params: {credit: return_to_go}",
            "advantage.group, inputs: {scored: brief}",
            r"nodes.credit: can never learn: 'play' samples a single turn for each prompt \(max_turns is 4\); set "
            r"nodes.play.params.max_turns to 1, or compare episodes with advantage.turns",
        ),
        (
            "max_turns: 4",
            "opponents: {perfect: 1}",
            r"nodes.play: text guess: perfect play is not known; remove the opp",
        ),
        (
            "max_turns: 4",
            "top_k: 1",
            r"nodes.update: can never learn: 'play' samples certain tokens \(top_k is 1\); set "
            r"nodes.play.params.top_k to 0",
        ),
    ],
)
def test_turns_that_teach_nothing_are_an_error_of_check(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in GUESS
    (tmp_path / "guess.yaml").write_text(GUESS.replace(old, new))
    with pytest.raises(GraphError, match=line):
        load(tmp_path / "guess.yaml")


def test_check_names_a_game_that_no_script_has_registered(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "guess.yaml").write_text(GUESS.replace("id: guess", "id: gess"))
    assert run_command(["check", str(tmp_path / "guess.yaml")]) == 2
    assert "nodes.tasks.params: text gess: no scri" in capsys.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_a_transcript_says_that_its_reward_is_a_sum_over_seats(kuhn: Path, capsys: Any) -> None:
    assert run_command(["rollouts", str(kuhn), "--limit", "1"]) == 0
    assert "sum over 2 seats: reward " in capsys.readouterr().out
