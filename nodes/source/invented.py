"""Tasks made up on the spot, for play without a network."""

from collections.abc import Sequence

from genrl_graph.nodes.source.listed import ListedTask


def invented_sums(count: int, *, start: int = 0, metadata: Sequence[str] = ()) -> list[ListedTask]:
    """`count` different sums with their results; each named column of metadata is empty text."""
    return [
        ListedTask(
            question=f"What is {number} + {number % 7 + 1}?",
            answer=str(number + number % 7 + 1),
            metadata=dict.fromkeys(metadata, ""),
        )
        for number in range(start, start + count)
    ]
