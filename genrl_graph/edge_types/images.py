"""The edge type of text-to-image games: one row for each image that a diffusion policy made of a caption."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.arrow.cast import BYTES, FLOATS, IDS, TEXT
from genrl_graph.edge_types.display import DisplayMetrics, Transcript
from genrl_graph.edge_types.frame import Frame, LocalColumn
from genrl_graph.edge_types.png import MOST_SIDE, decode_png, png_size
from genrl_graph.edge_types.rollout_rules import MOST_PARENTS
from genrl_graph.edge_types.rollouts import SAMPLED
from genrl_graph.edge_types.violation import Mask, ReceiverContext, Violation, differing
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINISHES = ("stop", "failed")
MOST_STEPS = 1000  # a longer list of log-probs comes from no sampler
MOST_PIXELS = 1 << 26  # of the images of another peer together: bytes of one colour unpack to a thousand times as many
LARGEST_LOGPROB = 1e6
PREVIEW_WIDTH = 32
SHADES = np.array(list(" .:-=+*#%@"))


class Images(Frame):
    """Images that a diffusion policy sampled, with the log-probs of its denoising steps.

    `png` is the image (8-bit RGB) of `height` x `width` pixels and `caption` the text that it was made of; `scheduler`,
    `steps`, `eta` and `guidance` say how. `logprobs` has one value per random denoising step: the log-density of the
    next latents, averaged over their dimensions. `finish_reason` is stop or failed; a failed row has no image, and
    `error` says why.

    Generators add `latents` and `latent_shape`: the latents before the first random step and after each of them,
    float32, flat. Updates train on them; other peers do not get these columns, as nothing proves that an image was
    made of the latents that come with it.
    """

    columns = {
        **SAMPLED,
        "scheduler": TEXT,
        "steps": pa.int32(),
        "eta": pa.float32(),
        "guidance": pa.float32(),
        "caption": TEXT,
        "height": pa.int32(),
        "width": pa.int32(),
        "png": BYTES,
        "logprobs": FLOATS,
        "finish_reason": TEXT,
        "error": TEXT,
    }
    local_columns = {"latents": LocalColumn(FLOATS, []), "latent_shape": LocalColumn(IDS, [])}
    shown = DisplayMetrics(line=("reward",), unit="images", effort={"denoising_steps": "denoising steps an image"})
    __slots__ = ()

    def pixels(self, row: int) -> "NDArray[np.uint8]":
        """Return the image of a row, [height, width, RGB]; raises `ValueError` if it has none."""
        return decode_png(self.encoded(row))

    def encoded(self, row: int) -> bytes:
        """Return the PNG of a row, empty for a failed one."""
        data: NDArray[np.uint8] = self.table.column("png")[row].values.to_numpy(zero_copy_only=False)
        return data.astype(np.uint8).tobytes()

    def latents(self) -> "list[NDArray[np.float32]]":
        """Return the latents of each row, [random steps + 1, ...]; empty for rows without them."""
        known = self.with_local(self.local_columns)
        shapes = known.values("latent_shape")
        return [
            flat.astype(np.float32).reshape(-1, *shape) if shape else flat
            for flat, shape in zip(known.ragged("latents"), shapes, strict=True)
        ]

    def finished(self) -> Self:
        """Return the rows that did not fail."""
        return self.where(~self._is_failed())

    def content_ids(self, *, protocol: str) -> list[str]:
        """Return the id that each row must have in a graph with this protocol fingerprint."""
        places = self.rows("peer", "round", "node", "task_id", "sample", "parent_ids", "caption")
        return [
            image_id(**place, protocol=protocol, png=self.encoded(position)) for position, place in enumerate(places)
        ]

    def violations(self, known: ReceiverContext) -> Iterator[Violation]:
        """Yield values that no generator produces, images that are none, and ids that do not match the content."""
        failed = self._is_failed()
        steps = pc.list_value_length(self.table.column("logprobs")).to_numpy()
        finishes = pc.is_in(self._column("finish_reason"), pa.array(FINISHES)).to_numpy(zero_copy_only=False)
        yield Violation("finish_reason", "finish_reason", ~finishes)
        for name in ("sample", "policy_version", "steps", "eta"):
            yield Violation("negative", name, self.numpy(name) < 0)
        yield Violation("steps", "logprobs", steps > MOST_STEPS)
        large = [bool(np.abs(values).max(initial=0.0) > LARGEST_LOGPROB) for values in self.ragged("logprobs")]
        yield Violation("logprobs", "logprobs", np.asarray(large, bool))
        parents = pc.list_value_length(self.table.column("parent_ids")).to_numpy()
        yield Violation("parents", "parent_ids", parents > MOST_PARENTS)
        for name in ("height", "width"):
            side = self.numpy(name)
            yield Violation("size", name, np.where(failed, side != 0, (side < 1) | (side > MOST_SIDE)))
        beyond = self._beyond_most_pixels()
        yield Violation("pixels", "png", beyond)
        yield Violation("png", "png", self._broken_images(failed, beyond))
        yield Violation("hash", "id", differing(self.values("id"), self.content_ids(protocol=known.protocol)))
        places = self.rows("peer", "round", "node", "task_id", "caption")
        groups = [image_group(protocol=known.protocol, **place) for place in places]
        yield Violation("hash", "group_id", differing(self.values("group_id"), groups))

    def transcripts(self) -> Iterator[Transcript]:
        """Render each row: its caption, and a preview of the image in shades of grey."""
        names = ("caption", "height", "width", "scheduler", "eta", "guidance", "finish_reason", "error")
        steps = pc.list_value_length(self.table.column("logprobs")).to_pylist()
        for position, row in enumerate(self.rows(*names)):
            how = f"{row['scheduler']} eta {row['eta']:g}, guidance {row['guidance']:g}"
            facts = f"{row['height']} x {row['width']} pixels, {steps[position]} random steps, {how}"
            shown = row["error"] if row["finish_reason"] == "failed" else self._preview(position)
            parts = (("[caption]", row["caption"]), ("[image]", shown))
            image = self.encoded(position)
            yield Transcript(np.asarray([position]), facts, row["caption"], parts, image=image)

    def _preview(self, row: int) -> str:
        try:
            return preview(self.pixels(row))
        except ValueError as error:  # of a damaged store
            return f"no image: {error}"

    def _is_failed(self) -> Mask:
        mask: Mask = pc.equal(self._column("finish_reason"), "failed").to_numpy(zero_copy_only=False)
        return mask

    def _beyond_most_pixels(self) -> Mask:
        """Return a mask of the rows whose images, with those before them, have more than `MOST_PIXELS`."""
        sides = (np.clip(self.numpy(name).astype(np.int64), 0, MOST_SIDE) for name in ("height", "width"))
        beyond: Mask = np.cumsum(np.prod([*sides], axis=0)) > MOST_PIXELS
        return beyond

    def _broken_images(self, failed: Mask, unread: Mask) -> Mask:
        """Return a mask of the rows whose bytes are no image of their size; a failed row has no bytes."""
        sizes = zip(self.numpy("height").tolist(), self.numpy("width").tolist(), strict=True)
        broken = np.zeros(len(self), bool)
        for position, size in enumerate(sizes):
            data = self.encoded(position)
            if not unread[position]:
                broken[position] = bool(data) if failed[position] else not _is_image(data, size)
        return broken


def _is_image(data: bytes, size: tuple[int, int]) -> bool:
    """Return whether the bytes are a whole PNG of (height, width) pixels; decodes no other size."""
    try:
        return png_size(data) == size and decode_png(data).shape[:2] == size
    except ValueError:
        return False


def image_id(*, protocol: str, parent_ids: "list[str]", caption: str, png: bytes, **place: Any) -> str:
    """Return the id of an image: a hash of where it was sampled (`place`), its parents, its caption and its bytes."""
    where = _where(place)
    return digest(("image", protocol, *where, place["sample"], len(parent_ids), *parent_ids, caption, png))


def image_group(*, protocol: str, caption: str, **place: Any) -> str:
    """Return the id that images share which one peer sampled of one caption, in one round, at one node."""
    return digest(("images", protocol, *_where(place), caption))


def _where(place: Mapping[str, Any]) -> tuple[str, int, str, str]:
    return place["peer"], place["round"], place["node"], place["task_id"]


def preview(pixels: "NDArray[np.uint8]") -> str:
    """Return an image as lines of text: its luminance in ten shades, at most `PREVIEW_WIDTH` characters wide."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    step = max(1, -(-grey.shape[1] // PREVIEW_WIDTH))
    tall = 2 * step  # a character is about twice as tall as wide
    rows, columns = -(-grey.shape[0] // tall), -(-grey.shape[1] // step)
    padded = np.pad(grey, ((0, rows * tall - grey.shape[0]), (0, columns * step - grey.shape[1])), mode="edge")
    means = padded.reshape(rows, tall, columns, step).mean(axis=(1, 3))
    shades = SHADES[np.minimum(means * len(SHADES) / 256, len(SHADES) - 1).astype(int)]
    return "\n".join("".join(line).rstrip() for line in shades)
