"""Two processes of a swarm exchange images; one of them also sends bombs, NaN and other sizes, which are refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from players import Players
from ranks import ROOT, rows_of

from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.images import Images
from genrl_graph.graph_file.read import read
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.store.run_store import RunStore

FILE, ROUNDS, LIMIT_S = ROOT / "graphs/text_to_image.yaml", 2, 300.0
SMALL = [
    "carry.policy.params.tiny={height: 8, width: 8, channels: 8, caption_characters: 4, noise: diffusion}",
    "carry.policy.params.device=cpu",
    "nodes.paint.params={num_generations: 2, scheduler: ddim, steps: 2, eta: 1.0}",
    "nodes.images={type: exchange.gather, inputs: {rows: paint}, params: {min_peers: 2, timeout_s: 120}}",
    "nodes.score.inputs.images=images",
    f"run.rounds={ROUNDS}",
]
HOSTILE = f"""
# Sends other images than the peer made: one row for each case, with an id that fits it.
import sys
sys.path += [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from genrl_graph.runners.swarm import exchange
from test_images import spoiled

honest = exchange.encode
exchange.encode = lambda rows, **options: honest(spoiled(rows), **options)
"""


def png(width: int, height: int, pixels: bytes) -> list[int]:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    return list(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("png", {"png": png(8, 8, bytes(20_000_000))}),  # a bomb: more data than its header says
    ("png", {"png": png(10_000, 10_000, b"")}),  # 100 megapixels in a row of 64
    ("size", {"png": png(10_000, 10_000, b""), "width": 10_000, "height": 10_000}),
    ("png", {"width": 9}),
    ("finite", {"logprobs": [float("nan"), 0.0]}),
]


def spoiled(rows: Images) -> Images:
    """Return the rows with a case in each of the first ones."""
    columns = {name: rows.table.column(name).to_pylist() for name in Images.columns}
    protocol = compile_graph(read(FILE, SMALL).graph).protocol
    for at, (_, values) in enumerate(CASES):
        for name, value in values.items():
            columns[name][at] = value
    columns["id"] = Images.from_columns(columns).content_ids(protocol=protocol)
    return Images.from_columns(columns)


@pytest.mark.long
def test_two_processes_share_images_and_hostile_ones_are_refused_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    game = read(FILE, SMALL).graph
    with Players(tmp_path, SMALL, graph=FILE) as swarm:
        mallory = swarm.start("mallory", "--import", str(tmp_path / "hostile.py"))
        ann = SwarmRunner(name="ann", network=NetworkOptions(join=(mallory.address(),)))
        play(game, out=tmp_path / "run", quiet=True, threads=1, runner=ann)
        swarm.wait(mallory, limit_s=LIMIT_S)
    assert run_command(["store", "verify", str(swarm.run("ann"))]) == 0
    run = open_run(swarm.run("ann"))
    seen, made = run.frame("images"), open_run(swarm.run("mallory")).frame("paint")
    assert isinstance(seen, Images) and isinstance(made, Images)
    admitted = seen.where([peer == "mallory" for peer in seen.values("peer")])
    honest = [
        id for round in range(ROUNDS) for id in made.where(made.numpy("round") == round).values("id")[len(CASES) :]
    ]
    assert sorted(admitted.values("id")) == sorted(honest) and len(honest) == ROUNDS * (8 - len(CASES))
    assert [len(latents) for latents in admitted.latents()] == [0] * len(honest)
    refusals = RunStore.open(swarm.run("ann")).table("images/refusals").to_pylist()
    rules = [row["rule"] for row in refusals for _ in range(row.get("rows", 1))]
    assert sorted(rules) == sorted(rule for rule, _ in CASES * ROUNDS)
    other = open_run(swarm.run("mallory")).frame("images")
    assert {peer: other.values("peer").count(peer) for peer in ("ann", "mallory")} == {"ann": 16, "mallory": 16}


@pytest.mark.soak
def test_two_processes_of_a_swarm_play_what_two_peers_of_one_process_play(tmp_path: Path) -> None:
    peers, local = ("peer0000", "peer0001"), tmp_path / "local"
    game = read(FILE, SMALL).graph
    play(game, out=local, peers=2, quiet=True, threads=1)
    with Players(tmp_path, SMALL, graph=FILE) as swarm:
        first = swarm.start(peers[0])
        second = SwarmRunner(name=peers[1], network=NetworkOptions(join=(first.address(),)))
        play(game, out=tmp_path / "run", quiet=True, threads=1, runner=second)
        swarm.wait(first, limit_s=LIMIT_S)
    for peer in peers:
        here, there = rows_of(local, peer), rows_of(swarm.run(peer), peer)
        for group in ("paint", "images", "score", "update/trained"):
            assert here[group].equals(there[group]), (peer, group)
    assert np.isfinite(open_run(swarm.run(peers[0])).frame("score").numpy("reward")).all()
