"""Images as PNG: encode pixels, and decode bytes that may come from a stranger; Pillow is imported with the first one.

One form of PNG is written and accepted: 8 bits a channel, RGB, not interlaced, with the chunks IHDR, IDAT and IEND
only. Its header says how many pixels it holds, so the size is known before anything is decoded.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

MOST_SIDE = 4096
"""Most pixels of a side of an image on an edge: at most 16.8 million pixels, 48 MiB decoded."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
_RGB = (8, 2, 0, 0, 0)  # bits a channel, colour type, compression, filter, interlace


def encode_png(pixels: "Pixels") -> bytes:
    """Return an image [height, width, RGB] of uint8 as PNG; equal pixels give equal bytes with the same Pillow."""
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def png_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) as the header says; raises `ValueError` for another form of PNG, or a side too long."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("it is no PNG")
    names = [name for name, _ in _chunks(data)]
    if names[:1] != [b"IHDR"] or names[-1:] != [b"IEND"] or len(names) < 3:
        raise ValueError("its chunks are not IHDR, IDAT and IEND")
    if other := next((name for name in names[1:-1] if name != b"IDAT"), None):
        raise ValueError(f"it has the chunk {other.decode('latin-1')!r}, which is none of IHDR, IDAT and IEND")
    header = next(body for _, body in _chunks(data))
    if len(header) != _HEADER.size:
        raise ValueError(f"its header has {len(header)} bytes, not {_HEADER.size}")
    width, height, *form = _HEADER.unpack(header)
    if tuple(form) != _RGB:
        raise ValueError(f"its header says {form}, not {list(_RGB)} (8 bits RGB, not interlaced)")
    if not (1 <= width <= MOST_SIDE and 1 <= height <= MOST_SIDE):
        raise ValueError(f"it is {height} x {width} pixels, of {MOST_SIDE} x {MOST_SIDE} at most")
    return height, width


def decode_png(data: bytes) -> "Pixels":
    """Return the pixels [height, width, RGB]; raises `ValueError` as `png_size` does, and for a broken image."""
    import PIL.Image

    height, width = png_size(data)
    _require_whole(data, height * (1 + 3 * width))
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            opened.load()
            pixels: Pixels = np.asarray(opened)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"it cannot be decoded: {str(error).partition(chr(10))[0]}") from error
    if pixels.shape != (height, width, 3):
        raise ValueError(f"it decodes to {list(pixels.shape)}, not [{height}, {width}, 3]")
    return pixels


def _require_whole(data: bytes, size: int) -> None:
    """Raise `ValueError` unless the pixels unpack to exactly `size` bytes; Pillow takes images that lack their end.

    Unpacks one byte more at most, whatever the data would come to.
    """
    unpacking = zlib.decompressobj()
    packed = b"".join(body for name, body in _chunks(data) if name == b"IDAT")
    try:
        unpacked = len(unpacking.decompress(packed, size + 1))
    except zlib.error as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    if unpacked != size:
        raise ValueError(f"it unpacks to {'more than ' * (unpacked > size)}{min(unpacked, size)} bytes, not {size}")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk; raises `ValueError` where one reaches beyond the end."""
    at = len(_SIGNATURE)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            raise ValueError("it is truncated")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size
