"""Reads images and captions from a folder; Pillow is imported where the first image is read."""

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
    """The captions of a folder by file name, sorted; read again where the folder changed.

    Raises `DataError` where there is no image, or an image or caption is missing.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{folder}: no such folder; a relative path starts at the graph file")
    listed = place / CAPTIONS
    captions = _listed(place, listed) if listed.is_file() else _beside(place)
    if not captions:
        raise DataError(f"{folder}: no image; it wants {', '.join(SUFFIXES)} files with captions")
    return dict(sorted(captions.items()))


def read_image(folder: str, file: str, size: tuple[int, int]) -> Image:
    """The image as RGB, resized to (height, width): uint8 [height, width, 3].

    Raises `DataError` where it is no PNG or JPEG, broken, or larger than Pillow takes without a warning.
    """
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as error:
        raise DataError("source.folder: Pillow is not installed; run: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(Path(folder, file), formats=("PNG", "JPEG")) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
                return cast(Image, np.array(upright.resize((size[1], size[0]))))
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise DataError(f"{folder}/{file}: {_first_line(error)}; scale it down or leave it out") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow tells a broken PNG by a SyntaxError
        raise DataError(f"{folder}/{file}: no readable PNG or JPEG: {_first_line(error)}") from error


def _beside(folder: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for file in folder.iterdir():
        if file.suffix.lower() in SUFFIXES:
            text = file.with_suffix(".txt")
            try:
                captions[file.name] = text.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{file}: no caption in {text.name}: {_first_line(error)}") from error
    return captions


def _listed(folder: Path, listed: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(listed.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            file, caption = _entry(line, f"{listed}:{number}")
            if not (folder / file).resolve().is_relative_to(folder.resolve()) or not (folder / file).is_file():
                raise DataError(f"{listed}:{number}: no file {file!r} in this folder")
            if file in captions:
                raise DataError(f"{listed}:{number}: {file!r} has a caption already; leave one out")
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
