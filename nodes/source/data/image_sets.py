"""Images that stand in one file with others: in an image column of a data set, or in a zip archive.

Everything is loaded encoded, as it stands in the file, and decoded when it is asked for.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.messages import short
from genrl_graph.nodes.source.data.data_set import DataFiles, DataState, local_data_set
from genrl_graph.nodes.source.data.images import CAPTIONS, SUFFIXES, Image, listed_captions, read_image
from genrl_graph.nodes.source.data.values import text_of, unknown_column, value_at

MOST_ENCODED = 2**26
"""Most bytes of one encoded image or caption in a file."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImages:
    """Encoded images and captions by key; `where` names the file for messages."""

    where: str
    captions: Mapping[str, str]
    encoded: Mapping[str, bytes]

    def read(self, key: str, size: tuple[int, int], max_pixels: int) -> Image:
        """Decode the image of a key."""
        return read_image(self.encoded[key], f"{self.where}: {key}", size, max_pixels=max_pixels)

    def state(self, key: str) -> None:
        """Return nothing: what is loaded does not change."""


@lru_cache(maxsize=8)  # shared by all peers of a process and by copies of a source
def column_images(path: str, name: str | None, split: str, image: str, caption: str, _: DataState) -> EncodedImages:
    """Load the images of a column, keyed by their row number; raises `DataError` naming the first bad row.

    The last argument keys the cache by the state of the files.
    """
    captions, encoded = dict[str, str](), dict[str, bytes]()
    files: DataFiles = local_data_set(path, name=name, split=split)
    for row, (_where, values) in enumerate(files.rows(0, [image, caption])):
        where = f"{path}: row {row}"
        captions[str(row)] = text_of(_value(values, caption, where), f"{where}, {caption}", caption)
        encoded[str(row)] = _image_bytes(_value(values, image, where), f"{where}, {image}")
    if not captions:
        raise DataError(f"{path}: no rows; it wants one image a row")
    return EncodedImages(path, captions, encoded)


@lru_cache(maxsize=8)
def zipped_images(path: str, _: DataState) -> EncodedImages:
    """Load the images of a zip archive by their names in it; captions are as in a folder (`source.folder`).

    Nothing is extracted to disk. Raises `DataError` for a broken archive, an image without a caption, or an entry of
    more than `MOST_ENCODED` bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
            images = [name for name in sizes if PurePosixPath(name).suffix.lower() in SUFFIXES]
            listing = next((name for name in sizes if PurePosixPath(name).name == CAPTIONS), None)
            if listing is not None:
                captions = _listed(archive, path, listing, images)
            else:
                captions = {name: _caption_beside(archive, path, name, sizes) for name in images}
            encoded = {name: _entry(archive, path, name) for name in captions}
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:  # passwords, methods
        raise DataError(f"{path}: no readable zip archive: {short(str(error))}") from error
    if not captions:
        raise DataError(f"{path}: no image; it wants {', '.join(SUFFIXES)} files with captions")
    return EncodedImages(path, dict(sorted(captions.items())), encoded)


def is_zip(path: str) -> bool:
    """Return whether a path names a zip archive."""
    return Path(path).suffix.lower() == ".zip"


def _value(values: Mapping[str, Any], column: str, where: str) -> Any:
    try:
        return value_at(values, column)
    except LookupError:
        raise unknown_column(where, column, values) from None


def _image_bytes(value: object, where: str) -> bytes:
    """Return the bytes of an image: plain ones, or those of the data sets library, {bytes: ..., path: ...}."""
    if isinstance(value, Mapping) and {"bytes", "path"} >= set(value):
        if value.get("bytes") is None and value.get("path") is not None:
            raise DataError(f"{where} names the file {short(value['path'])}, which is not followed; embed the image")
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{where} holds {short(value)}, no image; store the bytes of a PNG, JPEG or WebP file")
    if len(value) > MOST_ENCODED:
        raise DataError(f"{where} has {len(value)} bytes, of {MOST_ENCODED} at most; scale it down or leave it out")
    return value


def _listed(archive: zipfile.ZipFile, path: str, listing: str, images: list[str]) -> dict[str, str]:
    """Return the captions of the list in an archive; its names are relative to the folder of the list."""
    folder, names = PurePosixPath(listing).parent, set(images)
    text = _text(archive, path, listing)
    listed = listed_captions(text, f"{path}/{listing}", lambda file: str(folder / file) in names)
    return {str(folder / file): caption for file, caption in listed.items()}


def _caption_beside(archive: zipfile.ZipFile, path: str, name: str, sizes: Mapping[str, int]) -> str:
    beside = str(PurePosixPath(name).with_suffix(".txt"))
    if beside not in sizes:
        raise DataError(f"{path}/{name}: no caption in {PurePosixPath(beside).name}")
    return _text(archive, path, beside).strip()


def _text(archive: zipfile.ZipFile, path: str, name: str) -> str:
    try:
        return _entry(archive, path, name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}/{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _entry(archive: zipfile.ZipFile, path: str, name: str) -> bytes:
    """Return the content of an entry; what it claims of its size is not trusted."""
    with archive.open(name) as file:
        data = file.read(MOST_ENCODED + 1)
    if len(data) > MOST_ENCODED:
        raise DataError(f"{path}/{name}: more than {MOST_ENCODED} bytes unpacked; scale it down or leave it out")
    return data
