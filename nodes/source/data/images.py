"""Read images and captions from a folder; Pillow is imported with the first image."""

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from genrl_graph.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
CAPTIONS = "captions.jsonl"

Image = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]


@lru_cache(maxsize=32)
def list_captions(folder: str, *_: tuple[int, int] | None) -> dict[str, str]:
    """Return the captions of a folder by file name, sorted; further arguments key the cache by the folder's state.

    Raises `DataError` if there are no images, or an image or caption is missing.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{folder}: no such folder; a relative path starts at the graph file")
    list_file = place / CAPTIONS
    captions = _read_list(place, list_file) if list_file.is_file() else _read_text_files(place)
    if not captions:
        raise DataError(f"{folder}: no image; it wants {', '.join(SUFFIXES)} files with captions")
    return dict(sorted(captions.items()))


def read_image(folder: str, file: str, size: tuple[int, int]) -> Image:
    """Read an image as RGB, resized to (height, width): uint8 [height, width, 3].

    Raises `DataError` if it is not a PNG or JPEG, is broken, or exceeds Pillow's size limit.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise DataError("source.folder: Pillow is not installed; run: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(Path(folder, file), formats=("PNG", "JPEG")) as opened:
                upright = PIL.ImageOps.exif_transpose(opened).convert("RGB")
                return cast(Image, np.array(upright.resize((size[1], size[0]))))
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{folder}/{file}: {_first_line(error)}; scale it down or leave it out") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise DataError(f"{folder}/{file}: no readable PNG or JPEG: {_first_line(error)}") from error


def _read_text_files(folder: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for file in folder.iterdir():
        if file.suffix.lower() in SUFFIXES:
            text = file.with_suffix(".txt")
            for entry in (file, text):
                if not entry.resolve().is_relative_to(folder.resolve()):
                    raise DataError(f"{entry}: a link that leads out of the folder; copy what it leads to into it")
            try:
                captions[file.name] = text.read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{file}: no caption in {text.name}: {_first_line(error)}") from error
    return captions


def _read_list(folder: Path, list_file: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            file, caption = _entry(line, f"{list_file}:{number}")
            if not (folder / file).resolve().is_relative_to(folder.resolve()) or not (folder / file).is_file():
                raise DataError(f"{list_file}:{number}: no file {file!r} in this folder")
            if file in captions:
                raise DataError(f"{list_file}:{number}: {file!r} has a caption already; leave one out")
            captions[file] = caption
    return captions


def _entry(line: str, where: str) -> tuple[str, str]:
    try:
        entry: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: no JSON: {_first_line(error)}") from error
    match entry:
        case {"file": str(file), "caption": str(caption)} if file and caption:
            return file, caption
    raise DataError(f'{where}: a line is {{"file": ..., "caption": ...}}, not {line.strip()[:80]!r}')


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
