"""Read images and captions from a folder; Pillow is imported with the first image."""

import io
import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from genrl_graph.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
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


def read_image(data: bytes | Path, where: str, size: tuple[int, int], *, max_pixels: int) -> Image:
    """Decode an image as RGB, upright, resized to (height, width): uint8 [height, width, 3].

    `data` is a file or its content. Raises `DataError`, beginning with `where`, if it is no PNG, JPEG or WebP, is
    truncated, moves, or has more than `max_pixels` pixels, which its header says before anything is decoded.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise DataError("source.images: Pillow is not installed; run: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            # Pillow's own limit, of which it warns, is larger or smaller than max_pixels
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS) as opened:
                _refuse(opened, where, max_pixels)
                upright = PIL.ImageOps.exif_transpose(opened).convert("RGB")
                return cast(Image, np.array(upright.resize((size[1], size[0]))))
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"{where}: {_first_line(error)}; scale it down or leave it out") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise DataError(f"{where}: no readable PNG, JPEG or WebP: {_first_line(error)}") from error


def _refuse(opened: Any, where: str, max_pixels: int) -> None:
    """Raise `DataError` for an image that is too large or moves; reads its header only."""
    width, height = opened.size
    if width * height > max_pixels:
        what = f"{height} x {width} are {height * width} pixels, of {max_pixels} at most (max_pixels)"
        raise DataError(f"{where}: {what}; scale it down or leave it out")
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        raise DataError(f"{where}: an animation of {frames} frames; save one of them as an image")


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
    def is_inside(file: str) -> bool:
        return (folder / file).resolve().is_relative_to(folder.resolve()) and (folder / file).is_file()

    return listed_captions(list_file.read_text(encoding="utf-8-sig"), str(list_file), is_inside)


def listed_captions(text: str, where: str, exists: Callable[[str], bool]) -> dict[str, str]:
    """Return the captions of `captions.jsonl` by file name; `exists` says whether there is such an image.

    Raises `DataError` for a line that is none, for a file that does not exist, and for one that is listed twice.
    """
    captions: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            file, caption = _entry(line, f"{where}:{number}")
            if not exists(file):
                raise DataError(f"{where}:{number}: no file {file!r} in this folder")
            if file in captions:
                raise DataError(f"{where}:{number}: {file!r} has a caption already; leave one out")
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
