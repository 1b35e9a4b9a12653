"""Contact sheets: images of rollouts in one PNG, under their captions."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.edge_types.png import decode_png
from genrl_graph.errors import ParamError
from genrl_graph.inspection.transcripts import RolloutFilter, select_rollouts
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.store.durable import failed, replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

TILE, GAP, LABEL = 96, 4, 18
"""Pixels: the side of the square that an image is fitted in, the space between two, the height of a caption."""
COLUMNS = 8
PAPER, INK = (255, 255, 255), (0, 0, 0)


def write_sheet(run: StoredRun, query: RolloutFilter, out: Path) -> None:
    """Write the images of the rollouts that a query selects, a line of tiles for each caption.

    Raises `ParamError` where no rollout has an image, `StoreError` where the file cannot be written.
    """
    selected, count = select_rollouts(run, query)
    tiles: dict[str, list[Image]] = defaultdict(list)
    for judged in selected:
        if judged.rollout.image:
            tiles[judged.rollout.gist].append(_tile(judged.rollout.image, judged.rollout.name))
    if not tiles:
        raise ParamError(f"{run.folder}: none of the {len(selected)} of {count} rollouts has an image for a sheet")
    drawn = io.BytesIO()
    _sheet(tiles).save(drawn, format="PNG")
    try:
        replace_file(out, drawn.getvalue())
    except OSError as error:
        raise failed(out, "write the picture", error) from error


def _tile(png: bytes, name: str) -> "Image":
    """Return an image that fits in a tile: small ones are enlarged by a whole factor, so that pixels stay squares."""
    from PIL import Image

    try:
        image = Image.fromarray(decode_png(png))
    except ValueError as error:
        raise ParamError(f"rollout {name}: its image is damaged: {error}; run store verify") from error
    factor = TILE // max(image.size)
    if factor == 0:
        image.thumbnail((TILE, TILE))
        return image
    width, height = image.size
    return image.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def _sheet(tiles: Mapping[str, Sequence["Image"]]) -> "Image":
    from PIL import Image, ImageDraw

    step = TILE + GAP
    heights = {caption: LABEL + step * -(-len(images) // COLUMNS) for caption, images in tiles.items()}
    columns = min(COLUMNS, max(map(len, tiles.values())))
    sheet = Image.new("RGB", (columns * step + GAP, sum(heights.values()) + GAP), PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for caption, images in tiles.items():
        label = " ".join(caption.split())[:200].encode("latin-1", "replace").decode("latin-1")  # what the font draws
        draw.text((GAP, top + GAP), label, fill=INK)
        for number, image in enumerate(images):
            line, column = divmod(number, COLUMNS)
            sheet.paste(image, (GAP + column * step, top + LABEL + GAP + line * step))
        top += heights[caption]
    return sheet
