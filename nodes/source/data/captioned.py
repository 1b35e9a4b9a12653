"""Captioned images: the rows of a round, and the base class of the sources that provide them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Protocol, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from genrl_graph.arrow.cast import TEXT, Tensor
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.epoch import json_text, require_enough_rows, shuffled_rows
from genrl_graph.nodes.source.data.holdout import held_out_names
from genrl_graph.nodes.source.data.images import Image

Pixels = Annotated[int, Field(ge=1, le=8192)]


class CaptionedImages(Frame):
    """Images (uint8 [height, width, RGB]) with captions; `metadata` is JSON."""

    columns = {"id": TEXT, "caption": TEXT, "image": Tensor(pa.uint8(), ndim=3), "metadata": TEXT}
    __slots__ = ()


class ImageSet(Protocol):
    """Images and their captions by key, wherever they are kept."""

    @property
    def captions(self) -> Mapping[str, str]:
        """The captions by key, in a fixed order."""
        ...

    def read(self, key: str, size: tuple[int, int], max_pixels: int) -> Image:
        """Decode the image of a key; raises `DataError` for a broken one, or one of more than `max_pixels`."""
        ...

    def __hash__(self) -> int: ...

    def state(self, key: str) -> object:
        """Return what changes with the image of a key on disk, to key caches."""
        ...


class CaptionedSource(Source):
    """Provides `num_tasks` captioned images per round, sampled without replacement, resized to (height, width)."""

    size: tuple[Pixels, Pixels] = Field(description="height and width in pixels to which images are resized")
    num_tasks: int = Field(default=8, ge=1, description="images per round")
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the images kept for evaluations, chosen by a hash of their keys",
    )
    max_pixels: int = Field(
        default=2**26, ge=1, le=2**28, description="most pixels of an image as it is stored; larger ones are errors"
    )

    _evaluating: bool = PrivateAttr(default=False)

    def images(self) -> ImageSet:
        """Open the images; raises `DataError` if there are none."""
        raise NotImplementedError

    def where(self) -> str:
        """Return the place of the images for messages."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Read all captions and images; raises `DataError` if one is missing or broken, or there are too few."""
        images = self.images()
        if not self._evaluating:
            require_enough_rows(num_tasks=self.num_tasks, size=len(self._keys(images, held_out=False)))
        if self.holdout and not self._keys(images, held_out=True):
            total = len(images.captions)
            raise DataError(f"{self.where()}: holdout {self.holdout} of {total} images is none; raise it")
        for key in images.captions:
            images.read(key, self.size, self.max_pixels)

    def run(self, *, rng: np.random.Generator, round: int) -> CaptionedImages:
        """Return the images of one round."""
        images = self.images()
        keys = self._keys(images, held_out=self._evaluating)
        num_tasks = min(self.num_tasks, len(keys)) if self._evaluating else self.num_tasks
        require_enough_rows(num_tasks=num_tasks, size=len(keys))
        rows = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=len(keys))
        return self._as_rows(images, [keys[row] for row in rows])

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for a key that no image has."""
        node, images = self.place.node, self.images()
        key = task_id.removeprefix(f"{node}/")
        if key == task_id or key not in images.captions:
            ids = f"{node}/<{self.key_name}>"
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {ids}")
        return Task(task_id, [], images.captions[key], {self.key_name: key}, raw=self._image(images, key))

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that provides held-out images, at most all."""
        if not self.holdout:
            raise ParamError(f"{self.type_name}: has no tasks to evaluate on; set holdout")
        copy = self.model_copy(update={"num_tasks": how.num_tasks or self.num_tasks})
        copy._evaluating = True
        return copy

    @property
    def key_name(self) -> str:
        """The name of the keys of images in messages and metadata."""
        return "file"

    def _as_rows(self, images: ImageSet, keys: Sequence[str]) -> CaptionedImages:
        columns = {
            "id": [self.task_id(key) for key in keys],
            "caption": [images.captions[key] for key in keys],
            "image": np.stack([self._image(images, key) for key in keys]),
            "metadata": [json_text({self.key_name: key}) for key in keys],
        }
        return CaptionedImages.from_columns(columns)

    def _keys(self, images: ImageSet, *, held_out: bool) -> list[str]:
        keys = list(images.captions)
        flags = held_out_names(keys, self.holdout)
        return [key for key, is_held_out in zip(keys, flags, strict=True) if is_held_out == held_out]

    def _image(self, images: ImageSet, key: str) -> Image:
        return _cached_image(images, key, self.size, self.max_pixels, images.state(key))


@lru_cache(maxsize=256)
def _cached_image(images: ImageSet, key: str, size: tuple[int, int], max_pixels: int, _: object) -> Image:
    image = images.read(key, size, max_pixels)
    image.flags.writeable = False  # cached: several tasks share it
    return image
