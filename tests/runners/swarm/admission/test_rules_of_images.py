"""Admission of images: those of an honest peer are admitted without their latents, hostile ones refused unread."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genrl_graph.graphs
from genrl_graph import TaskBook, load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.png import encode_png
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.admission.rules import Admission, makers
from genrl_graph.runners.swarm.admission.verdict import Admitted
from genrl_graph.wire.packet import encode

FILE = Path(genrl_graph.graphs.__file__).resolve().parent / "text_to_image.yaml"
GAME = load(
    FILE,
    [
        "carry.policy.params.tiny={height: 8, width: 8, channels: 8, caption_characters: 4, noise: diffusion}",
        "carry.policy.params.device=cpu",
        "nodes.paint.params={num_generations: 2, scheduler: ddim, steps: 2, eta: 1.0}",
        "nodes.images={type: exchange.gather, inputs: {rows: paint}, params: {min_peers: 2}}",
        "nodes.score.inputs.images=images",
    ],
)
SCHEDULE = compile_graph(GAME)
SENDER = "peer0001"


@pytest.fixture(scope="module")
def offers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images]:
    """Return the images that two honest peers made in one round."""
    out = tmp_path_factory.mktemp("images") / "run"
    run = open_run(play(GAME, out=out, rounds=1, peers=2, quiet=True, threads=1).folder)
    frames = {name: run.frame("paint", 0, holder=name) for name in ("peer0000", SENDER)}
    return {name: rows for name, rows in frames.items() if isinstance(rows, Images)}


def judged(rows: Images, like: Images) -> Admitted:
    """Encode rows as a payload and return what an honest peer admits of it."""
    node: Any = SCHEDULE.nodes["images"]
    book = TaskBook({"captions": SCHEDULE.nodes["captions"]})  # type: ignore[dict-item]
    admission = Admission(node, makers(SCHEDULE, "images"))
    return admission.receive(encode(rows), like=like, sender=SENDER, announced=0, round=0, tasks=book)


def with_first(rows: Images, **values: Any) -> Images:
    """Return the rows with other values in the first one, and ids that fit the new content."""
    columns = {name: rows.table.column(name).to_pylist() for name in Images.columns}
    for name, value in values.items():
        columns[name][0] = value
    columns["id"] = Images.from_columns(columns).content_ids(protocol=SCHEDULE.protocol)
    return Images.from_columns(columns)


def png(width: int, height: int, pixels: bytes) -> list[int]:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    return list(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))


OTHER = list(encode_png(np.zeros((8, 9, 3), np.uint8)))
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "more data than pixels": ({"png": png(8, 8, bytes(20_000_000))}, "png"),
    "100 megapixels": ({"png": png(10_000, 10_000, b""), "width": 10_000, "height": 10_000}, "size"),
    "100 megapixels in a small row": ({"png": png(10_000, 10_000, b"")}, "png"),
    "another size": ({"png": OTHER}, "png"),
    "no image": ({"png": list(b"<svg/>")}, "png"),
    "NaN": ({"logprobs": [float("nan"), 0.0]}, "finite"),
    "endless guidance": ({"guidance": float("inf")}, "finite"),
    "a vast log-prob": ({"logprobs": [1e9, 0.0]}, "logprobs"),
}


def test_the_images_of_an_honest_peer_are_admitted_without_their_latents(offers: dict[str, Images]) -> None:
    admitted = judged(offers[SENDER], offers["peer0000"])
    assert admitted.refusals == () and admitted.rows == offers[SENDER].without_local()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused_and_the_others_of_their_sender_admitted(
    offers: dict[str, Images], name: str
) -> None:
    values, rule = HOSTILE[name]
    admitted = judged(with_first(offers[SENDER], **values), offers["peer0000"])
    assert {refusal.rule for refusal in admitted.refusals} == {rule}
    assert admitted.rows == offers[SENDER].without_local().take(range(1, 8))


def test_an_image_under_the_id_of_another_is_refused(offers: dict[str, Images]) -> None:
    ids = offers[SENDER].table.column("id")
    black = with_first(offers[SENDER], png=list(encode_png(np.zeros((8, 8, 3), np.uint8))))
    forged = Images(black.table.set_column(0, "id", ids))
    assert black.table.column_names[0] == "id"
    assert [refusal.rule for refusal in judged(forged, offers["peer0000"]).refusals] == ["hash"]
