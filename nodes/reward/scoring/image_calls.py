"""Pass images to functions of arrays: as PNG in base64 on the way to a worker, as arrays where the function runs."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genrl_graph.edge_types.png import decode_png


def on_images(function: str, factory: Mapping[str, Any] | None) -> Callable[..., object]:
    """Return the function of a target, or the one that its factory makes, such that it takes images in base64.

    Runs in a worker process, as a factory.
    """
    from genrl_graph.nodes.worker.worker_main import call_factory, load_target

    target = load_target(function)
    return with_decoded(target if factory is None else call_factory(target, factory))


def with_decoded(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function that decodes the argument `images`, and passes arrays [height, width, RGB] on."""

    def called(*, images: Sequence[str], **keywords: Any) -> object:
        return function(images=[decode_png(base64.b64decode(image)) for image in images], **keywords)

    return called


def in_base64(images: Sequence[bytes]) -> list[str]:
    """Return bytes as text that JSON holds."""
    return [base64.b64encode(image).decode() for image in images]
