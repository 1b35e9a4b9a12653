"""`source.folder`, and a whole game without text on its images: a policy that paints."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pytest
import zarr
from PIL import Image

import genrl_graph
from genrl_graph import Frame, Generator, Graph, Policy, PolicyCarry, Reward, Scored, TaskBook, Tensor, Update, score
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.captioned import CaptionedImages
from genrl_graph.nodes.source.image_folder import ImageFolder
from genrl_graph.seeds import digest, stream

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "grey": (128, 128, 128)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        Image.new("RGB", (12, 6), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"all {name}\n")
    return tmp_path


def test_an_image_comes_resized_with_its_caption_and_its_id_makes_it_again(folder: Path) -> None:
    source = ImageFolder(path=str(folder), size=(4, 8), num_tasks=4).placed(Place("images"))
    source.prepare()
    rows = source.run(rng=stream("s"), round=3)
    assert rows.numpy("image").shape == (4, 4, 8, 3) and rows.numpy("image").dtype == np.uint8
    assert sorted(rows.values("id")) == [f"images/{name}.png" for name in sorted(COLOURS)]
    for id, image in zip(rows.values("id"), rows.numpy("image"), strict=True):
        task, name = source.resolve(id), Path(id).stem
        assert task.answer == f"all {name}" and task.metadata == {"file": f"{name}.png"}
        assert isinstance(task.raw, np.ndarray) and (task.raw == image).all() and tuple(image[1, 2]) == COLOURS[name]


def test_captions_in_one_file_say_what_belongs_to_the_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    Image.new("L", (5, 5), 77).save(folder / "deep" / "x.JPG")
    lines = [{"file": "red.png", "caption": "warm"}, {"file": "deep/x.JPG", "caption": "dull"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = ImageFolder(path=str(folder), size=(3, 3), num_tasks=2).placed(Place("images"))
    assert sorted(source.run(rng=stream("s"), round=0).values("caption")) == ["dull", "warm"]
    assert source.resolve("images/deep/x.JPG").answer == "dull"
    for id in ("images/blue.png", "images/../secret.png", "red.png", "images/"):
        with pytest.raises(DataError, match="no task of this source"):
            source.resolve(id)


def test_a_photograph_stands_upright(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(folder / "red.png", exif=exif)
    image = ImageFolder(path=str(folder), size=(16, 8)).resolve("source.folder/red.png").raw
    assert isinstance(image, np.ndarray) and image[:6].min() == 255 and image[-6:].max() == 0


def test_an_evaluation_asks_other_images(folder: Path) -> None:
    for n in range(40):
        Image.new("RGB", (2, 2)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(str(n))
    source = ImageFolder(path=str(folder), size=(2, 2), num_tasks=5, holdout=0.3)
    source.prepare()
    trained = {id for r in range(40) for id in source.run(rng=stream("s"), round=r).values("id")}
    asked = source.evaluated(Evaluation(num_tasks=99)).run(rng=stream("e"), round=0).values("id")
    assert asked and not trained & set(asked) and len(trained) + len(asked) == 44
    assert source.resolve(asked[0]).id == asked[0]
    with pytest.raises(ParamError, match="set holdout"):
        ImageFolder(path=str(folder), size=(2, 2)).evaluated(Evaluation())


def broken(folder: Path) -> None:
    whole = (folder / "red.png").read_bytes()
    (folder / "red.png").write_bytes(whole[: len(whole) // 2])


def a_gif(folder: Path) -> None:
    Image.new("RGB", (2, 2)).save(folder / "red.png", format="GIF")


def no_caption(folder: Path) -> None:
    (folder / "red.txt").unlink()


def unknown_file(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file": "gone.png", "caption": "x"}')


def outside(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file": "../x.png", "caption": "x"}')


def half_a_line(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file": "red.png"}')


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken, "red.png: no readable PNG, JPEG or WebP"),
        (a_gif, "red.png: no readable PNG, JPEG or WebP"),
        (no_caption, "red.png: no caption in red.txt"),
        (unknown_file, "captions.jsonl:1: no file 'gone.png'"),
        (outside, "captions.jsonl:1: no file '../x.png'"),
        (half_a_line, "captions.jsonl:1: a line is"),
        (emptied, "no image; it wants .png"),
    ],
)
def test_what_is_broken_is_told_by_name_before_the_first_round(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=message) as raised:
        ImageFolder(path=str(folder), size=(2, 2), num_tasks=1).prepare()
    assert "\n" not in str(raised.value)


def test_pillow_is_needed_only_for_images(folder: Path) -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import genrl_graph.nodes.library\n"
        "from genrl_graph.errors import DataError\n"
        "from genrl_graph.nodes.source.image_folder import ImageFolder\n"
        f"try: ImageFolder(path={str(folder)!r}, size=(2, 2), num_tasks=1).prepare()\n"
        "except DataError as error: print(error)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("Pillow is not installed; run: pip install pillow")


class Palette(Policy):
    """A policy that paints every image in one colour."""

    def __init__(self, name: str) -> None:
        self.name, self.version, self.colour = name, 0, np.full(3, 128.0)

    def save(self, folder: Path) -> None:
        """Write version and colour."""
        (folder / "palette.json").write_text(json.dumps([self.version, self.colour.tolist()]))

    def load(self, folder: Path) -> None:
        """Read version and colour."""
        version, colour = json.loads((folder / "palette.json").read_text())
        self.version, self.colour = version, np.array(colour)

    def digest(self) -> str:
        """Hex digest of the colour."""
        return digest(("palette", self.colour.tobytes()))

    def fork(self, name: str) -> Self:
        """Return a copy under another name."""
        copy = type(self)(name)
        copy.version, copy.colour = self.version, self.colour.copy()
        return copy


class Paintings(Frame):
    """Painted images with the task of each."""

    columns = {"id": pa.string(), "task_id": pa.string(), "image": Tensor(pa.uint8(), ndim=3)}


class PaletteCarry(PolicyCarry, name="palette"):
    """A palette that is grey at first."""

    def init(self, name: str, *, seed: int) -> Palette:
        """Return the grey palette."""
        return Palette(name)


class Paint(Generator, name="paint"):
    """Generates eight paintings per image, each in a colour near the policy's."""

    def run(self, images: CaptionedImages, policy: Palette, *, rng: np.random.Generator, round: int) -> Paintings:
        """Return the paintings."""
        _, height, width, _ = images.numpy("image").shape
        ids = [id for id in images.values("id") for _ in range(8)]
        colours = np.clip(policy.colour + rng.normal(0, 20, size=(len(ids), 3)), 0, 255).astype(np.uint8)
        painted = np.broadcast_to(colours[:, None, None], (len(ids), height, width, 3))
        own = [digest((self.place.protocol, round, at)) for at in range(len(ids))]
        return Paintings.from_columns({"id": own, "task_id": ids, "image": painted})


class Likeness(Reward, name="likeness"):
    """Reward of 1 minus the mean difference from the image of the task."""

    def run(self, paintings: Paintings, *, tasks: TaskBook) -> Scored[Paintings]:
        """Add the reward to the paintings."""
        expected = np.stack([np.asarray(tasks[id].raw) for id in paintings.values("task_id")]).astype(float)
        apart = np.abs(paintings.numpy("image") - expected).mean(axis=(1, 2, 3)) / 255
        return score(paintings, {"alike": 1 - apart})


class MixPaint(Update, name="mix_paint"):
    """Sets the policy's colour to the mean colour of the better half of the paintings."""

    def run(self, policy: Palette, scored: Scored[Paintings]) -> Palette:
        """Return the updated policy."""
        best = scored.take(np.argsort(-scored.numpy("reward"))[: len(scored) // 2])
        policy.colour = best.numpy("image").mean(axis=(0, 1, 2))
        policy.version += 1
        return policy


def test_a_game_of_images_is_played_learned_and_stored(folder: Path, tmp_path: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file": "red.png", "caption": "all red"}')
    g = Graph("painting")
    policy = g.carry("policy", PaletteCarry())
    images = g.add("images", ImageFolder(path=str(folder), size=(4, 6), num_tasks=1))
    painted = g.add("painted", Paint(), images=images, policy=policy)
    alike = g.add("alike", Likeness(), paintings=painted)
    g.next_round(policy=g.add("learn", MixPaint(), policy=policy, scored=alike))
    run = genrl_graph.play(g, out=tmp_path / "run", rounds=12, peers=2, quiet=True)
    root: Any = zarr.open(str(run.rollouts), mode="r")
    assert root["images/image"].shape == (24, 4, 6, 3) and root["images/image"].dtype == np.uint8
    assert (root["images/image"][:] == COLOURS["red"]).all() and set(root["images/caption"][:]) == {"all red"}
    assert root["painted/image"].shape == (2 * 12 * 8, 4, 6, 3)
    rewards, rounds = root["alike/reward"][:], root["alike/round"][:]
    expected = 1 - np.abs(root["painted/image"][:].astype(float) - COLOURS["red"]).mean(axis=(1, 2, 3)) / 255
    assert np.allclose(rewards, expected)
    assert rewards[rounds == 11].mean() > rewards[rounds == 0].mean() + 0.2
