"""`source.images`: captioned images from an image column of a data set, or from a zip archive."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from genrl_graph.contract.data_path import DataPath
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.captioned import CaptionedSource, ImageSet
from genrl_graph.nodes.source.data.data_set import data_state, local_data_set
from genrl_graph.nodes.source.data.image_sets import column_images, is_zip, zipped_images
from genrl_graph.nodes.source.data.values import top_columns, unknown_column


class ImageData(CaptionedSource, name="images"):
    """Provides `num_tasks` images of a data set per round, sampled without replacement, resized to (height, width).

    `path` is a Parquet file, a folder of such files, a data set written by `save_to_disk`, or a zip archive. A column
    `image` holds the bytes of PNG, JPEG or WebP files, plain or as the data sets library stores them, and `caption`
    their captions; the key of a task is its row number. In an archive the images and captions stand as in
    `source.folder`, and the key is the name in it. A file that a row names is never followed, and nothing is unpacked
    to disk. All images are loaded as they are encoded; `prepare` decodes each once, and raises `DataError` for one
    that is broken, moves, or has more than `max_pixels` pixels, which its header says.
    """

    path: DataPath = Field(
        min_length=1,
        description="Parquet file, folder, saved data set or zip archive; a relative path starts at the graph file",
    )
    name: str | None = Field(default=None, description="subset of the data set, a folder in it; null: none")
    split: str = Field(default="train", description="split of the data set")
    image: str = Field(default="image", description="column of the images")
    caption: str = Field(default="text", description="column of the captions")

    def check_data(self) -> Iterator[str]:
        """Report a missing file or column, from names and headers alone."""
        if is_zip(self.path):
            if not Path(self.path).is_file():
                yield f"{self.path}: no such file; a relative path starts at the graph file"
            return
        try:
            names = local_data_set(self.path, name=self.name, split=self.split).header()
        except DataError as error:
            yield str(error)
            return
        for column in (self.image, self.caption):
            if names is not None and not top_columns(names, column):
                yield str(unknown_column(self.path, column, dict.fromkeys(names)))

    def images(self) -> ImageSet:
        """Load the images of the data set."""
        if is_zip(self.path):
            return zipped_images(self.path, data_state(self.path))
        state = data_state(self.path)
        return column_images(self.path, self.name, self.split, self.image, self.caption, state)

    def where(self) -> str:
        """Return the path of the data set."""
        return self.path

    @property
    def key_name(self) -> str:
        """The name of the keys of images: names in an archive, or row numbers."""
        return "file" if is_zip(self.path) else "row"
