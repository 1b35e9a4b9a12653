"""Ready functions of `reward.image`: how bright an image is, and how small a JPEG it makes."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
JPEG_QUALITY = 95
"""As in DDPO's experiments (arXiv 2305.13301, section 5.1)."""


def brightness(images: Sequence[Pixels], captions: Sequence[str], **columns: object) -> list[float]:
    """Return the mean of the channels of each image, from 0 (black) to 1 (white)."""
    return [float(image.mean()) / 255 for image in images]


def jpeg_compressibility(images: Sequence[Pixels], captions: Sequence[str], **columns: object) -> list[float]:
    """Return minus the size of each image as JPEG, in kB (arXiv 2305.13301)."""
    return [-_jpeg_kb(image) for image in images]


def jpeg_incompressibility(images: Sequence[Pixels], captions: Sequence[str], **columns: object) -> list[float]:
    """Return the size of each image as JPEG, in kB (arXiv 2305.13301)."""
    return [_jpeg_kb(image) for image in images]


READY: Mapping[str, Callable[..., list[float]]] = {
    function.__name__: function for function in (brightness, jpeg_compressibility, jpeg_incompressibility)
}


def _jpeg_kb(image: Pixels) -> float:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(image, "RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.tell() / 1000
