"""Generators that show images to a policy that cannot see them."""

from collections.abc import Iterable, Sequence

from genrl_graph.contract.node import Node
from genrl_graph.nodes.generate.chat import ChatGenerator


def unseen_images(readers: Sequence[Node]) -> Iterable[str]:
    """Yield the readers of a text-only policy that show it images."""
    for reader in readers:
        if isinstance(reader, ChatGenerator) and reader.show_image:
            yield f"sees no images, but {reader.place.node} has show_image; use policy.vlm, or leave show_image out"
