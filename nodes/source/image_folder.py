"""`source.folder`: captioned images from a folder."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from genrl_graph.arrow.cast import TEXT, Tensor
from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.data_set import file_state
from genrl_graph.nodes.source.data.epoch import json_text, require_enough_rows, shuffled_rows
from genrl_graph.nodes.source.data.holdout import held_out_names
from genrl_graph.nodes.source.data.images import list_captions, read_image

Pixels = Annotated[int, Field(ge=1, le=8192)]


class CaptionedImages(Frame):
    """Images (uint8 [height, width, RGB]) with captions; `metadata` is JSON."""

    columns = {"id": TEXT, "caption": TEXT, "image": Tensor(pa.uint8(), ndim=3), "metadata": TEXT}
    __slots__ = ()


class ImageFolder(Source, name="folder"):
    """Provides `num_tasks` images of a folder per round, sampled without replacement, resized to (height, width).

    Images are PNG or JPEG. Captions are in `<stem>.txt` beside each image, or all in `captions.jsonl`, one
    `{"file": ..., "caption": ...}` per line; then only the listed images are used. The key of a task is its file name,
    its `answer` the caption and `raw` the image. The share `holdout` is held out for evaluation, by a hash of the file
    name. `prepare` reads every image once and raises `DataError` for a broken one.
    """

    path: DataPath = Field(
        min_length=1,
        description="folder of PNG or JPEG images and their captions; a relative path starts at the graph file",
    )
    size: tuple[Pixels, Pixels] = Field(description="height and width in pixels to which images are resized")
    num_tasks: int = Field(default=8, ge=1, description="images per round")
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the images kept for evaluations, chosen by a hash of the file name",
    )

    _evaluating: bool = PrivateAttr(default=False)

    def prepare(self) -> None:
        """Read all captions and images; raises `DataError` if one is missing or broken, or there are too few."""
        captions = self._captions()
        if not self._evaluating:
            require_enough_rows(num_tasks=self.num_tasks, size=len(self._files(held_out=False)))
        if self.holdout and not self._files(held_out=True):
            raise DataError(f"{self.path}: holdout {self.holdout} of {len(captions)} images is none; raise it")
        for file in captions:
            read_image(self.path, file, self.size)

    def check_data(self) -> Iterator[str]:
        """Report a missing folder."""
        if not Path(self.path).is_dir():
            yield f"{self.path}: no such folder; a relative path starts at the graph file"

    def run(self, *, rng: np.random.Generator, round: int) -> CaptionedImages:
        """Return the images of one round."""
        files = self._files(held_out=self._evaluating)
        num_tasks = min(self.num_tasks, len(files)) if self._evaluating else self.num_tasks
        require_enough_rows(num_tasks=num_tasks, size=len(files))
        rows = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=len(files))
        return self._as_rows([files[row] for row in rows])

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for a file that is not in the folder."""
        node, captions = self.place.node, self._captions()
        file = task_id.removeprefix(f"{node}/")
        if file == task_id or file not in captions:
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/<file>")
        return Task(task_id, [], captions[file], {"file": file}, raw=self._image(file))

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that provides held-out images, at most all."""
        if not self.holdout:
            raise ParamError(f"{self.type_name}: has no tasks to evaluate on; set holdout")
        copy = self.model_copy(update={"num_tasks": how.num_tasks or self.num_tasks})
        copy._evaluating = True
        return copy

    def _as_rows(self, files: Sequence[str]) -> CaptionedImages:
        captions = self._captions()
        columns = {
            "id": [self.task_id(file) for file in files],
            "caption": [captions[file] for file in files],
            "image": np.stack([self._image(file) for file in files]),
            "metadata": [json_text({"file": file}) for file in files],
        }
        return CaptionedImages.from_columns(columns)

    def _captions(self) -> dict[str, str]:
        return list_captions(self.path, file_state(self.path), file_state(f"{self.path}/captions.jsonl"))

    def _files(self, *, held_out: bool) -> list[str]:
        files = list(self._captions())
        flags = held_out_names(files, self.holdout)
        return [file for file, is_held_out in zip(files, flags, strict=True) if is_held_out == held_out]

    def _image(self, file: str) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
        return _cached_image(self.path, file, self.size, file_state(f"{self.path}/{file}"))


@lru_cache(maxsize=256)
def _cached_image(
    folder: str, file: str, size: tuple[int, int], _: tuple[int, int] | None
) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    image = read_image(folder, file, size)
    image.flags.writeable = False  # cached: several tasks share it
    return image
