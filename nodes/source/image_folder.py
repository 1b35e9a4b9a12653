"""`source.folder`: captioned images from a folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from genrl_graph.contract.data_path import DataPath
from genrl_graph.nodes.source.data.captioned import CaptionedSource, ImageSet
from genrl_graph.nodes.source.data.data_set import file_state
from genrl_graph.nodes.source.data.images import CAPTIONS, Image, list_captions, read_image


@dataclass(frozen=True, slots=True)
class FolderImages:
    """The images of a folder by file name; the folder is listed again once it has changed."""

    path: str

    @property
    def captions(self) -> Mapping[str, str]:
        """The captions by file name, sorted."""
        return list_captions(self.path, file_state(self.path), file_state(f"{self.path}/{CAPTIONS}"))

    def read(self, key: str, size: tuple[int, int], max_pixels: int) -> Image:
        """Decode the image of a file."""
        return read_image(Path(self.path, key), f"{self.path}/{key}", size, max_pixels=max_pixels)

    def state(self, key: str) -> tuple[int, int] | None:
        """Return the modification time and size of a file."""
        return file_state(f"{self.path}/{key}")


class ImageFolder(CaptionedSource, name="folder"):
    """Provides `num_tasks` images of a folder per round, sampled without replacement, resized to (height, width).

    Images are PNG, JPEG or WebP. Captions are in `<stem>.txt` beside each image, or all in `captions.jsonl`, one
    `{"file": ..., "caption": ...}` per line; then only the listed images are used. The key of a task is its file name,
    its `answer` the caption and `raw` the image. The share `holdout` is held out for evaluation, by a hash of the file
    name. `prepare` reads every image once and raises `DataError` for one that is broken, moves or is too large.
    """

    path: DataPath = Field(
        min_length=1,
        description="folder of PNG, JPEG or WebP images and their captions; a relative path starts at the graph file",
    )

    def check_data(self) -> Iterator[str]:
        """Report a missing folder."""
        if not Path(self.path).is_dir():
            yield f"{self.path}: no such folder; a relative path starts at the graph file"

    def images(self) -> ImageSet:
        """Return the images of the folder."""
        return FolderImages(self.path)

    def where(self) -> str:
        """Return the folder."""
        return self.path
