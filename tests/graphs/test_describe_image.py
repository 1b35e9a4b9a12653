"""describe_image.yaml: one model sees pictures and describes them, another guesses, and both learn."""

from pathlib import Path

import numpy as np
import pytest
from crash import Left, killed

import genrl_graph
from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.png import decode_png
from genrl_graph.edge_types.rollouts import Rollouts


def small(graphs: Path, *more: str) -> Graph:
    few = ["nodes.describe.params.num_generations=2", "nodes.guess.params.num_generations=2", "run.checkpoint_every=2"]
    return load(graphs / "describe_image.yaml", [*few, *more])


def test_descriptions_keep_their_image_and_guesses_read_the_letter_alone(graphs: Path, tmp_path: Path) -> None:
    genrl_graph.play(small(graphs), out=tmp_path / "run", rounds=1, quiet=True, threads=1)
    assert run_command(["store", "verify", str(tmp_path / "run")]) == 0
    stored = genrl_graph.open_run(tmp_path / "run")
    described, guessed = stored.frame("describe", 0), stored.frame("guess", 0)
    assert isinstance(described, Rollouts) and len(described) == 24 and len(guessed) == 48
    shown = stored.frame("pictures", 0)
    pictures = dict(zip(shown.values("id"), shown.numpy("image"), strict=True))
    for task_id, image in zip(described.values("task_id"), described.ragged("image"), strict=True):
        assert (decode_png(image.astype(np.uint8).tobytes()) == pictures[task_id]).all()
    assert "image" not in guessed.table.column_names
    assert set(guessed.values("parent_ids")[0]) <= set(described.values("id"))
    trained = stored.table("update_describer/trained")
    assert set(trained.column("id").to_pylist()) <= set(described.values("id"))


@pytest.mark.long
def test_both_learn_a_language(graphs: Path, tmp_path: Path) -> None:
    genrl_graph.play(load(graphs / "describe_image.yaml"), out=tmp_path / "run", rounds=60, quiet=True, threads=1)
    scored = genrl_graph.open_run(tmp_path / "run").frame("score_guess")
    right = [scored.numpy("reward")[scored.numpy("round") == round].mean() for round in range(60)]
    assert np.mean(right[-5:]) > 0.45 > 0.3 > np.mean(right[:5])  # a guess is right by chance in a quarter


@pytest.mark.long
def test_peers_get_descriptions_without_images_and_do_not_train_on_them(graphs: Path, tmp_path: Path) -> None:
    gather = "nodes.descriptions={type: exchange.gather, inputs: {rows: describe}, params: {min_peers: 2}}"
    shared = small(graphs, gather, "nodes.score_describe.inputs.rollouts=descriptions")
    genrl_graph.play(shared, out=tmp_path / "run", rounds=1, peers=2, quiet=True, threads=1)
    stored = genrl_graph.open_run(tmp_path / "run")
    gathered = stored.frame("descriptions", 0, holder="peer0000").with_local(["image"])
    of = dict.fromkeys(gathered.values("peer"), 0)
    for peer, image in zip(gathered.values("peer"), gathered.ragged("image"), strict=True):
        of[peer] += len(image) > 0
    assert of == {"peer0000": 24, "peer0001": 0}
    trained = stored.table("update_describer/trained").column("id").to_pylist()
    assert trained and len(trained) == len(set(trained))  # no row is trained on by the peer that lacks its image


@pytest.mark.long
def test_killed_in_the_middle_of_a_round_it_goes_on_to_the_same_bits(
    graphs: Path, tmp_path: Path, one_thread: None
) -> None:
    game = small(graphs, "run.rounds=3", "run.checkpoint_every=1", "run.trackers=[]")
    whole = genrl_graph.play(game, out=tmp_path / "whole", quiet=True)
    left = Left.of(tmp_path / "whole", {"/".join(key): digest for key, digest in whole.after.items()})
    commits = sum(step.action != "open" for step in compile_graph(game).steps)
    assert killed(game, tmp_path / "cut", commits + commits // 2 + 1)
    again = genrl_graph.play(game, out=tmp_path / "cut", quiet=True, resume=True)
    cut = Left.of(tmp_path / "cut", {"/".join(key): digest for key, digest in again.after.items()})
    assert left.differences(cut) == []
