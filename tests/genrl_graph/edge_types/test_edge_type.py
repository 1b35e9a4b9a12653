"""Edge types: which inputs accept which outputs, how marks join, and how annotations are read."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
import pyarrow as pa
import pytest
from toys import Moves, Total, ToyPolicy

from genrl_graph import Credited, Frame, Peer, PeerRollouts, Policy, R, Rollouts, Scored, Tasks
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED, EdgeType, Mark, closure, read_pattern, read_socket
from genrl_graph.errors import NodeError

P = TypeVar("P", bound=Policy)
Loose = TypeVar("Loose")


def generic(scored: Scored[R], sequence: Sequence[Scored[R]], several: list[Scored[R]]) -> None:
    """Show annotations with a type variable: type checkers allow one in signatures only."""


GENERIC = get_type_hints(generic, include_extras=True)
LOUD = Mark("Loud", {"loudness": pa.float64()})


def edge(annotation: Any) -> EdgeType:
    return read_pattern(annotation, where="x").bound


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        (Rollouts, Rollouts, True),
        (Rollouts, Scored[Rollouts], True),
        (Rollouts, Peer[Credited[Rollouts]], True),
        (Frame, Tasks, True),
        (Policy, ToyPolicy, True),
        (Scored[Rollouts], Credited[Rollouts], True),
        (Scored[Rollouts], Rollouts, False),
        (Credited[Rollouts], Scored[Rollouts], False),
        (PeerRollouts, Rollouts, False),
        (PeerRollouts, Peer[Scored[Rollouts]], True),
        (Rollouts, Tasks, False),
        (ToyPolicy, Total, False),
        (Rollouts, Frame, False),
    ],
)
def test_an_input_takes_its_type_and_what_has_more(wanted: Any, given: Any, fits: bool) -> None:
    assert edge(wanted).accepts(edge(given)) is fits


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Rollouts, "Rollouts"),
        (Scored[Rollouts], "Scored"),
        (Credited[Rollouts], "Credited"),
        (PeerRollouts, "PeerRollouts"),
        (Peer[Scored[Rollouts]], "Peer[Scored]"),
        (Peer[Moves], "Peer[Moves]"),
        (Scored[Moves], "Scored[Moves]"),
        (Annotated[Moves, LOUD], "Loud[Moves]"),
    ],
)
def test_types_are_written_as_annotations_are(annotation: Any, text: str) -> None:
    assert str(edge(annotation)) == text


def test_a_mark_brings_what_it_presupposes() -> None:
    assert closure([CREDITED]) == {CREDITED, SCORED}
    assert edge(Credited[Rollouts]).marks == {CREDITED, SCORED}


def test_the_join_of_two_types_is_what_both_are() -> None:
    assert edge(Peer[Credited[Rollouts]]).join(edge(Scored[Rollouts])) == edge(Scored[Rollouts])
    assert edge(Rollouts).join(edge(Tasks)) == EdgeType(Frame)
    assert edge(Rollouts).join(edge(Rollouts)) == edge(Rollouts)


def test_a_generic_output_is_what_its_input_was_and_more() -> None:
    output = read_pattern(GENERIC["scored"], where="x")
    assert output.filled({R: edge(Peer[Moves])}) == edge(Peer[Scored[Moves]])
    assert output.filled({}) == edge(Scored[Rollouts])


@pytest.mark.parametrize(
    ("annotation", "many"),
    [
        (Rollouts, "one"),
        (list[Rollouts], "list"),
        (GENERIC["sequence"], "list"),
        (dict[str, Rollouts], "dict"),
        (Mapping[str, Rollouts], "dict"),
        (Rollouts | None, "one"),
        (list[Rollouts] | None, "list"),
    ],
)
def test_a_socket_takes_one_or_several(annotation: Any, many: str) -> None:
    assert read_socket("rows", annotation, optional=False, where="x").many == many


def test_a_socket_is_written_with_its_shape() -> None:
    assert str(read_socket("rows", GENERIC["several"], optional=True, where="x")) == "list[Scored[Frame]] (optional)"
    assert str(read_socket("rows", dict[str, Rollouts], optional=False, where="x")) == "dict[str, Rollouts]"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (int, "reward.x.rows: int is no edge type; use a subclass of Frame or Carried"),
        (np.ndarray, "reward.x.rows: ndarray is no edge type"),
        (list, "reward.x.rows: list is no edge type"),
        (list[list[Rollouts]], r"reward.x.rows: list\[.*Rollouts\] is no edge type"),
        (tuple[Rollouts, Tasks], r"reward.x.rows: tuple\[.*\] is no edge type"),
        (Any, "reward.x.rows: .*Any is no edge type"),
        (Rollouts | Tasks, "reward.x.rows: .* is a choice of types; declare one edge type"),
        (dict[int, Rollouts], r"reward.x.rows: .* is not keyed by names; write dict\[str, \.\.\.\]"),
        (Loose, "reward.x.rows: type variable ~Loose has no edge type as its bound; write bound=Frame"),
        (Annotated[int, SCORED], "reward.x.rows: int is no edge type"),
    ],
)
def test_what_is_no_edge_type_is_refused(annotation: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        read_socket("rows", annotation, optional=False, where="reward.x")


def test_a_type_variable_of_ones_own_is_its_bound() -> None:
    assert edge(P) == EdgeType(Policy)
    assert edge(Annotated[R, PEER]) == EdgeType(Frame, frozenset({PEER}))
