"""Images: ids, what is refused of other peers, the bytes of PNG, and how they are shown."""

import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

from genrl_graph.edge_types.images import Images, image_group, image_id, preview
from genrl_graph.edge_types.png import decode_png, encode_png, png_size
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.errors import PeerRefused
from genrl_graph.wire.packet import PacketLimits, decode, encode

RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (6, 8, 3), np.uint8), np.full((40, 30, 3), 200, np.uint8)]
PLACE: dict[str, Any] = {"peer": "peer0000", "round": 2, "node": "paint", "task_id": "tasks/0"}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, data: bytes, *, form: tuple[int, ...] = (8, 2, 0, 0, 0), more: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">II5B", width, height, *form))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = png(10_000, 10_000, zlib.compress(bytes(10_000)))
LYING = png(8, 6, zlib.compress(bytes(10_000_000)))  # 10 MB of data for 48 pixels


def images(**changed: Any) -> Images:
    data = changed.pop("png", [encode_png(pixels) for pixels in PIXELS])
    rows = Images.from_columns(
        {
            "id": ["", ""],
            **{name: [value] * 2 for name, value in PLACE.items()},
            "group_id": [image_group(protocol="p", caption="red", **PLACE)] * 2,
            "parent_ids": [[], []],
            "stage": [0, 0],
            "sample": [0, 1],
            "policy": ["policy"] * 2,
            "policy_version": [7, 7],
            "scheduler": ["ddim"] * 2,
            "steps": [3, 3],
            "eta": [1.0, 1.0],
            "guidance": [1.0, 1.0],
            "caption": ["red"] * 2,
            "height": [6, 40],
            "width": [8, 30],
            "png": [np.frombuffer(each, np.uint8) for each in data],
            "logprobs": [[-1.0, -1.0, 0.5]] * 2,
            "finish_reason": ["stop", "stop"],
            "error": ["", ""],
            **changed,
        }
    )
    return Images.from_columns({**{n: rows.table.column(n) for n in rows.table.column_names}, "id": ids(rows)})


def ids(rows: Images) -> list[str]:
    return rows.content_ids(protocol="p")


def broken(rows: Images) -> dict[str, list[int]]:
    known = ReceiverContext("p", {})
    return {flaw.rule: np.flatnonzero(flaw.rows).tolist() for flaw in rows.violations(known) if flaw.rows.any()}


def test_good_images_pass_and_ids_are_those_of_the_content() -> None:
    rows = images()
    assert not broken(rows) and len(set(rows.values("id"))) == 2
    place = {**PLACE, "sample": 1, "parent_ids": [], "caption": "red", "png": encode_png(PIXELS[1])}
    assert rows.values("id")[1] == image_id(protocol="p", **place)
    assert set(broken(images(group_id=["x", "y"]))) == {"hash"}
    assert images(caption=["red", "blue"]).values("id")[1] != rows.values("id")[1]
    for row, pixels in enumerate(PIXELS):
        assert (rows.pixels(row) == pixels).all()


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"png": [BOMB, encode_png(PIXELS[1])], "height": [10_000, 40], "width": [10_000, 30]}, "size"),
        ({"png": [BOMB, encode_png(PIXELS[1])]}, "png"),
        ({"png": [encode_png(PIXELS[1]), encode_png(PIXELS[1])]}, "png"),
        ({"png": [encode_png(PIXELS[0])[:-30], encode_png(PIXELS[1])]}, "png"),
        ({"png": [png(8, 6, b"no zlib"), encode_png(PIXELS[1])]}, "png"),
        ({"png": [png(8, 6, zlib.compress(bytes(100))), encode_png(PIXELS[1])]}, "png"),
        ({"png": [png(8, 6, zlib.compress(bytes(9 * 6)), form=(8, 0, 0, 0, 0)), encode_png(PIXELS[1])]}, "png"),
        ({"png": [png(8, 6, b"", more=chunk(b"acTL", bytes(8))), encode_png(PIXELS[1])]}, "png"),
        ({"png": [b"GIF89a", encode_png(PIXELS[1])]}, "png"),
        ({"height": [0, 40]}, "size"),
        ({"finish_reason": ["length", "stop"]}, "finish_reason"),
        ({"finish_reason": ["failed", "stop"]}, "size"),
        ({"logprobs": [[-1e9], [0.0]]}, "logprobs"),
        ({"logprobs": [[0.0] * 1001, [0.0]]}, "steps"),
        ({"steps": [-3, 3]}, "negative"),
        ({"parent_ids": [[str(n) for n in range(5000)], []]}, "parents"),
    ],
)
def test_what_no_generator_makes_is_refused_with_its_rule(changed: dict[str, Any], rule: str) -> None:
    flaws = broken(images(**changed))
    assert flaws[rule] == [0] and not any(1 in rows for rows in flaws.values())


def test_more_data_than_pixels_is_refused_unread() -> None:
    assert png_size(LYING) == (6, 8) and len(LYING) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it unpacks to more than 150 bytes, not 150"):
            decode_png(LYING)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_the_images_of_a_peer_have_together_no_more_pixels_than_is_cheap_to_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genrl_graph.edge_types.images.MOST_PIXELS", 6 * 8 + 40 * 30 - 1)
    assert broken(images(png=[encode_png(PIXELS[0]), b"not read"])) == {"pixels": [1]}


def test_a_failed_row_has_no_image() -> None:
    rows = images(
        png=[b"", encode_png(PIXELS[1])],
        height=[0, 40],
        width=[0, 30],
        logprobs=[[], [0.0]],
        finish_reason=["failed", "stop"],
        error=["not finite", ""],
    )
    assert not broken(rows) and len(rows.finished()) == 1
    assert next(rows.transcripts()).parts[1] == ("[image]", "not finite")


def test_peers_get_the_image_but_not_its_latents() -> None:
    rows = images(latents=[np.arange(8, dtype=np.float32)] * 2, latent_shape=[[1, 2, 2]] * 2)
    assert [latents.shape for latents in rows.latents()] == [(2, 1, 2, 2)] * 2
    received = decode(encode(rows), like=rows.take([]), limits=PacketLimits())
    assert received == rows.without_local() and [len(latents) for latents in received.latents()] == [0, 0]
    assert not broken(received)
    with pytest.raises(PeerRefused, match="body_bytes"):
        decode(encode(rows), like=rows.take([]), limits=PacketLimits(max_decoded_bytes=100))


def test_a_preview_shows_light_and_dark() -> None:
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[:4] = 255
    assert preview(pixels) == "@@@@\n@@@@\n\n"
    assert max(map(len, preview(np.full((64, 300, 3), 255, np.uint8)).splitlines())) <= 32
    transcript = next(images().transcripts())
    assert transcript.gist == "red" and "6 x 8 pixels, 3 random steps, ddim eta 1" in transcript.facts
