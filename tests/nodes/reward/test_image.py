"""`reward.image`: ready functions, own ones in workers, and what they are passed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Log, TaskBook
from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.png import encode_png
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import ParamError, RewardFailed
from genrl_graph.nodes.reward.image import ImageReward

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
PIXELS = [np.full((32, 32, 3), 51, np.uint8), NOISE, np.full((16, 8, 3), 255, np.uint8)]

JUDGE = '''
"""Functions of images for the tests."""
import time

def redness(images, captions, answer, kind, **columns):
    assert captions == ["c0", "c1", "c2"] and answer == ["a"] * 3 and kind == [1, 1, 1] and "latents" not in columns
    assert [image.shape for image in images] == [(32, 32, 3), (32, 32, 3), (16, 8, 3)]
    return [float(image[..., 0].mean()) if columns["sample"][n] != 1 else None for n, image in enumerate(images)]

def slow(images, captions, **columns):
    time.sleep(60 if len(images[0]) == 16 else 0)
    return [1.0] * len(images)

def limit(most):
    return lambda images, captions, **columns: [float(len(image) <= most) for image in images]
'''


class Tasks:
    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [], "a", {"kind": 1})


def images(*pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Images:
    rows = [
        {
            "id": str(n),
            **dict.fromkeys(("task_id", "group_id"), "tasks/0"),
            "parent_ids": [],
            "peer": "peer0000",
            "node": "paint",
            "stage": 0,
            "round": 0,
            "sample": n,
            "policy": "policy",
            "policy_version": 0,
            "scheduler": "ddim",
            "steps": 1,
            "eta": 1.0,
            "guidance": 1.0,
            "caption": f"c{n}",
            "height": each.shape[0],
            "width": each.shape[1],
            "png": np.frombuffer(encode_png(each), np.uint8),
            "logprobs": [0.0],
            "finish_reason": "stop",
            "error": "",
        }
        for n, each in enumerate(pixels)
    ]
    return Images.from_rows(rows)


def rewards(node: ImageReward, log: Log | None = None) -> list[float]:
    scored = node.run(images(*PIXELS), tasks=TaskBook({"tasks": Tasks()}), log=log or Log())
    return list(scored.numpy("reward"))


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "image_judges.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("image_judges", None)
    return tmp_path


def test_ready_functions_judge_in_this_process() -> None:
    assert rewards(ImageReward(function="brightness")) == pytest.approx([0.2, NOISE.mean() / 255, 1.0])
    small = rewards(ImageReward(function="jpeg_compressibility"))
    assert small == [-size for size in rewards(ImageReward(function="jpeg_incompressibility"))]
    assert small[1] < 2 * small[0] < 0  # noise makes a larger file than one colour


def test_an_own_function_runs_in_a_worker_on_arrays(judges: Path) -> None:
    log = Log()
    values = rewards(ImageReward(function="image_judges:redness", weight=2.0), log)
    assert values[::2] == [102.0, 510.0] and np.isnan(values[1])
    assert log.tables["failures"] == {"id": ["1"], "reason": ["returned None"]}
    assert rewards(ImageReward(function="image_judges:limit", factory={"most": 16})) == [0.0, 0.0, 1.0]


def test_an_image_that_hangs_its_function_stays_unjudged(judges: Path) -> None:
    log = Log()
    values = rewards(ImageReward(function="image_judges:slow", rows_per_call=1, timeout_s=0.5), log)
    assert values[:2] == [1.0, 1.0] and np.isnan(values[2]) and log.tables["failures"]["id"] == ["2"]


def test_a_function_of_python_runs_here() -> None:
    node = ImageReward(function=lambda images, captions, **columns: [len(image) for image in images])
    assert rewards(node) == [32.0, 32.0, 16.0]


def test_unknown_functions_are_refused() -> None:
    with pytest.raises(ParamError, match="'bright' is none of brightness, jpeg_compressibility"):
        ImageReward(function="bright")
    with pytest.raises(RewardFailed, match="No module named 'no_such_judges'"):
        ImageReward(function="no_such_judges:f").prepare()
