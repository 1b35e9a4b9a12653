"""Images that prompts show, and the inputs that a model makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

ReadImages = Callable[[Sequence[bytes]], dict[str, torch.Tensor]]
"""Turns encoded images, at least one, into keyword arguments of a model."""

NO_IMAGES: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PromptImages:
    """The encoded image of each prompt (b"" for a prompt that shows none), and how a model reads them."""

    of: Sequence[bytes]
    read: ReadImages

    def take(self, prompts: NDArray[np.int64]) -> Self:
        """Return the images of these prompts, by number."""
        return replace(self, of=[self.of[prompt] for prompt in prompts.tolist()])


def inputs_of(read: ReadImages | None, images: Sequence[bytes]) -> Mapping[str, torch.Tensor]:
    """Return the model's inputs of those rows of a call that show an image, in the order of the rows."""
    shown = [image for image in images if image]
    return NO_IMAGES if read is None or not shown else read(shown)
