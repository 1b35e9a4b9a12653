"""`source.images`: images in the column of a data set, or in a zip archive; what is no plain image is refused."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.images import ImageData
from genrl_graph.seeds import stream

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def encoded(colour: tuple[int, int, int], form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 6), colour).save(buffer, format=form, **options)
    return buffer.getvalue()


def animation(form: str) -> bytes:
    buffer, frames = io.BytesIO(), [Image.new("RGB", (4, 4), colour) for colour in COLOURS.values()]
    frames[0].save(buffer, format=form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def noise() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stream("noise").integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 100 million pixels, and whose data are far fewer."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def parquet(path: Path, rows: Mapping[str, list[Any]]) -> Path:
    pq.write_table(pa.table(dict(rows)), path / "images.parquet")
    return path / "images.parquet"


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path / "images.zip"


def source(path: Path, **params: Any) -> ImageData:
    return ImageData(path=str(path), size=(4, 8), **{"num_tasks": 3} | params).placed(Place("images"))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_images_of_a_column_come_resized_with_their_captions(tmp_path: Path, form: str, wrapped: bool) -> None:
    images: list[Any] = [encoded(colour, form, quality=95) for colour in COLOURS.values()]
    images = [{"bytes": image, "path": None} for image in images] if wrapped else images
    file = parquet(tmp_path, {"image": images, "text": list(COLOURS)})
    rows = (made := source(file)).run(rng=stream("s"), round=0)
    made.prepare()
    assert rows.numpy("image").shape == (3, 4, 8, 3) and not list(made.check_data())
    for id, caption, image in zip(rows.values("id"), rows.values("caption"), rows.numpy("image"), strict=True):
        assert np.abs(image[2, 3].astype(int) - COLOURS[caption]).max() < 8
        task = made.resolve(id)
        assert task.answer == caption and task.metadata == {"row": id.removeprefix("images/")}


def test_a_saved_data_set_with_an_image_feature_is_read_as_the_library_writes_it(tmp_path: Path) -> None:
    import datasets

    images = [Image.new("RGB", (12, 6), colour) for colour in COLOURS.values()]
    data = datasets.Dataset.from_dict({"image": images, "text": list(COLOURS)})
    data.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    rows = source(tmp_path / "saved").run(rng=stream("s"), round=0)
    assert sorted(rows.values("caption")) == sorted(COLOURS)


def test_an_archive_is_read_as_a_folder_and_nothing_is_unpacked(tmp_path: Path) -> None:
    files = {f"in/{name}.png": encoded(colour) for name, colour in COLOURS.items()}
    texts = {f"in/{name}.txt": f"all {name}\n".encode() for name in COLOURS}
    file = archive(tmp_path, files | texts)
    rows = (made := source(file, holdout=0.0)).run(rng=stream("s"), round=0)
    assert sorted(rows.values("caption")) == ["all blue", "all green", "all red"]
    assert made.resolve("images/in/red.png").metadata == {"file": "in/red.png"}
    listed = b'{"file": "red.png", "caption": "warm"}\n'
    assert source(archive(tmp_path, files | {"in/captions.jsonl": listed}), num_tasks=1).images().captions == {
        "in/red.png": "warm"
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.zip"]


def test_an_evaluation_shows_other_images(tmp_path: Path) -> None:
    file = parquet(tmp_path, {"image": [encoded((n, 0, 0)) for n in range(40)], "text": [str(n) for n in range(40)]})
    made = source(file, holdout=0.3)
    trained = {id for round in range(20) for id in made.run(rng=stream("s"), round=round).values("id")}
    asked = made.evaluated(Evaluation(num_tasks=99)).run(rng=stream("e"), round=0).values("id")
    assert asked and not trained & set(asked) and len(trained) + len(asked) == 40


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bomb(), "10000 x 10000 are 100000000 pixels, of 67108864 at most"),
        (animation("PNG"), "an animation of 3 frames"),
        (animation("WEBP"), "an animation of 3 frames"),
        (noise()[:2000], "no readable PNG, JPEG or WebP"),
        (encoded((1, 2, 3), "GIF"), "no readable PNG, JPEG or WebP"),
        (b"", "no readable PNG, JPEG or WebP"),
    ],
    ids=["bomb", "animated-png", "animated-webp", "truncated", "gif", "empty"],
)
def test_what_is_no_plain_image_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    made = parquet(tmp_path, {"image": [encoded((1, 2, 3)), data], "text": ["good", "bad"]})
    with pytest.raises(DataError, match=f"images.parquet: 1: {message}"):
        source(made, num_tasks=1).prepare()
    made = archive(tmp_path, {"bad.png": data, "bad.txt": b"bad"})
    with pytest.raises(DataError, match=f"images.zip: bad.png: {message}"):
        source(made, num_tasks=1).prepare()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image": [{"bytes": None, "path": "/etc/passwd"}], "text": ["x"]}, "row 0, image names the file"),
        ({"image": ["x.png"], "text": ["x"]}, "row 0, image holds 'x.png', no image"),
        ({"image": [None], "text": ["x"]}, "row 0, image holds None"),
        ({"image": [b"x"], "text": [None]}, "row 0, text holds nothing"),
        ({"picture": [b"x"], "text": ["x"]}, "no column 'image'"),
    ],
)
def test_a_row_that_holds_no_image_is_named(tmp_path: Path, rows: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(parquet(tmp_path, rows), num_tasks=1).prepare()


def test_check_reports_missing_columns_and_files(tmp_path: Path) -> None:
    file = parquet(tmp_path, {"picture": [b"x"], "text": ["x"]})
    (problem,) = source(file).check_data()
    assert "no column 'image'" in problem and "picture, text" in problem
    assert "no such file" in next(iter(source(tmp_path / "gone.zip").check_data()))


def test_an_entry_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrl_graph.nodes.source.data.image_sets.MOST_ENCODED", 1000)
    file = archive(tmp_path, {"big.png": bytes(100_000), "big.txt": b"zeros"})
    assert file.stat().st_size < 1000
    with pytest.raises(DataError, match=r"big.png: more than 1000 bytes unpacked"):
        source(file, num_tasks=1).prepare()


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"images.zip: no readable zip archive"):
        source(tmp_path / "images.zip").prepare()
