"""Frames: values survive a round trip, and values that do not fit are refused with their column and value."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from toys import Moves

from genrl_graph import Frame, Rollouts, Tasks, Tensor, credit, score
from genrl_graph.edge_types.edge_type import CREDITED, PEER, SCORED
from genrl_graph.edge_types.frame import LocalColumn
from genrl_graph.errors import ColumnError


class Board(Frame):
    """Rows with one tensor each."""

    columns = {"id": pa.string(), "board": Tensor(pa.float32(), ndim=2)}


def moves(*values: int) -> Moves:
    return Moves.from_columns(
        {
            "id": [f"m{value}" for value in values],
            "value": list(values),
            "path": [list(range(value % 4)) for value in values],
            "board": np.array([np.full((2, 3), value) for value in values], np.float32).reshape(len(values), 2, 3),
        }
    )


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(),
            "messages": st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), max_size=3),
            "answer": st.text(),
            "metadata": st.text(),
        }
    ),
    max_size=5,
)
NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8)
RAGGED = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), min_size=1, max_size=6)
FLOAT32 = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=4))


@given(ROWS)
def test_rows_come_back_as_they_went_in(rows: list[dict[str, Any]]) -> None:
    assert Tasks.from_rows(rows).rows() == rows
    columns = {name: [row[name] for row in rows] for name in Tasks.columns}
    assert Tasks.from_columns(columns) == Tasks.from_rows(rows)


@given(NUMBERS)
def test_numbers_come_back_as_they_went_in(numbers: list[int]) -> None:
    class Numbers(Frame):
        columns = {"n": pa.int64()}

    frame = Numbers.from_columns({"n": numbers})
    assert frame.values("n") == numbers
    assert frame.numpy("n").tolist() == numbers
    assert Numbers.from_columns({"n": np.array(numbers, np.int64)}) == frame


@given(FLOAT32)
def test_tensors_of_any_shape_come_back_bit_by_bit(values: np.ndarray) -> None:
    class Images(Frame):
        columns = {"image": Tensor(pa.float32())}

    if not values[:1].size and len(values):
        with pytest.raises(ColumnError, match=r"Images.image: tensors of shape .*; one of at least one dimension"):
            Images.from_columns({"image": values})
        return
    frame = Images.from_columns({"image": np.asfortranarray(values)})
    assert frame.numpy("image").shape == values.shape
    assert frame.numpy("image").tobytes() == np.ascontiguousarray(values).tobytes()
    kept = frame.take(range(0, len(frame), 2)).numpy("image")
    assert kept.tobytes() == np.ascontiguousarray(values[::2]).tobytes()


@pytest.mark.parametrize("dtype", [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.float64(), pa.float16()])
def test_tensors_have_the_declared_dtype(dtype: pa.DataType) -> None:
    class Images(Frame):
        columns = {"image": Tensor(dtype)}

    values = np.arange(12).reshape(2, 2, 3)
    got = Images.from_columns({"image": values}).numpy("image")
    assert got.dtype == dtype.to_pandas_dtype()
    assert (got == values).all()


@given(RAGGED)
def test_ragged_columns_come_back_row_by_row(rows: list[list[int]]) -> None:
    class Ragged(Frame):
        columns = {"ids": pa.list_(pa.int32())}

    frame = Ragged.from_columns({"ids": rows})
    assert frame.values("ids") == rows
    assert [part.tolist() for part in frame.ragged("ids")] == rows
    assert Ragged.from_columns({"ids": [np.array(row, np.int32) for row in rows]}) == frame
    tail = frame.take(range(1, len(rows)))
    assert [part.tolist() for part in tail.ragged("ids")] == rows[1:]
    sliced = Ragged(frame.table.slice(1))
    assert [part.tolist() for part in sliced.ragged("ids")] == rows[1:]


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 9), max_size=8))
def test_take_where_and_concat_are_those_of_lists(first: list[int], second: list[int]) -> None:
    both = Moves.concat([moves(*first), moves(*second)])
    assert both == moves(*first, *second)
    everything = first + second
    backwards = list(range(len(everything)))[::-1]
    assert both.take(backwards) == moves(*everything[::-1])
    assert both.where([value % 2 == 0 for value in everything]) == moves(*(v for v in everything if v % 2 == 0))


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=12))
def test_positions_group_rows_in_order_of_first_appearance(names: list[str]) -> None:
    class Named(Frame):
        columns = {"name": pa.string()}

    positions = Named.from_columns({"name": names}).positions("name")
    assert list(positions) == list(dict.fromkeys(names))
    for name, rows in positions.items():
        assert rows.tolist() == [at for at, given_name in enumerate(names) if given_name == name]


def test_no_rows_are_rows_too() -> None:
    kinds: tuple[type[Frame], ...] = (Tasks, Rollouts, Moves, Board)
    for kind in kinds:
        empty = kind.empty()
        assert len(empty) == 0
        assert kind.concat([]) == empty == kind.concat([empty, empty])
    assert Board.empty().numpy("board").shape == (0, 0, 0)
    assert Rollouts.empty().ragged("prompt_ids") == []
    assert Rollouts.empty().positions("task_id") == {}
    assert Moves.concat([Moves.empty(), moves(1)]) == moves(1)
    assert Moves.concat([moves(1).where([False]), moves(2)]) == moves(2)


def test_two_frames_are_equal_by_type_marks_and_rows() -> None:
    assert moves(1) == moves(1)
    assert moves(1) != moves(2)
    assert moves(1) != moves(1).marked(PEER)
    assert moves(1) != "rows"
    assert repr(moves(1, 2).marked(PEER)) == "<Peer[Moves] of 2 rows>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": [1.5]}, "Moves.value: .*1.5|Moves.value: .*truncated"),
        ({"value": ["1"]}, "Moves.value: .*'1'"),
        ({"value": [2**63]}, "Moves.value: .*"),
        ({"value": [None]}, "Moves.value: 1 null values; none is allowed"),
        ({"path": [[1, None]]}, "Moves.path: 1 null values; none is allowed"),
        ({"path": [1]}, "Moves.path: .*"),
        ({"path": ["ab"]}, "Moves.path: .*"),
        ({"id": [1]}, "Moves.id: .*"),
        ({"value": 5}, "Moves.value: .*"),
        ({"board": [[[1.0]], [[1.0, 2.0]]]}, "Moves.board: .*"),
        ({"board": [["a"]]}, "Moves.board: .*'a'"),
        ({"board": [1.0]}, r"Moves.board: tensors of shape \(\); one of at least one dimension"),
        ({"value": [1, 2]}, "Moves: columns of different lengths: id 1, value 2, path 1, board 1"),
        ({"valeu": [1]}, r"Moves: unknown column 'valeu' \(did you mean 'value'\?\)"),
        ({"board": pa.array([1.0])}, "Moves.board: double is no tensor column of float"),
        ({"value": pa.array(["1"])}, "Moves.value: wants int64, not string such as '1'"),
        ({"id": pa.array([1])}, "Moves.id: wants string, not int64 such as 1"),
        ({"path": pa.array([["1"]])}, "Moves.path: wants list<item: int32>, not list<.*string>"),
        ({"value": pa.array([1.5])}, "Moves.value: .*1.5.*"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_column(change: dict[str, Any], message: str) -> None:
    columns = {"id": ["m"], "value": [1], "path": [[1]], "board": np.zeros((1, 2), np.float32)}
    with pytest.raises(ColumnError, match=message):
        Moves.from_columns(columns | change)


def test_nulls_inside_messages_are_refused() -> None:
    task = {"id": "t", "messages": [{"role": "user"}], "answer": "", "metadata": ""}
    with pytest.raises(ColumnError, match=r"Tasks.messages: 1 null values"):
        Tasks.from_rows([task])


def test_arrow_columns_of_kindred_types_are_cast() -> None:
    table = pa.table(
        {
            "path": pa.array([[1, 2]], pa.large_list(pa.int64())),
            "id": pa.array(["a"]).dictionary_encode(),
            "value": pa.array([3], pa.int8()),
            "board": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2), np.float32)),
        }
    )
    frame = Moves(table)
    assert frame.table.column_names == list(Moves.columns)
    assert frame.rows("id", "value", "path") == [{"id": "a", "value": 3, "path": [1, 2]}]


def test_missing_and_doubled_columns_are_refused() -> None:
    with pytest.raises(ColumnError, match=r"Moves: row 1 has no 'path'; all rows hold id, value, path, board"):
        row = {"id": "a", "value": 1, "path": [], "board": [0.0]}
        Moves.from_rows([row, {name: row[name] for name in ("id", "value", "board")}])
    with pytest.raises(ColumnError, match=r"Moves: row 0 has no 'extra'"):
        Moves.from_rows([row, row | {"extra": 1}])
    with pytest.raises(ColumnError, match=r"Moves: column 'value' is missing; given id, path, board"):
        Moves(moves(1).table.drop_columns(["value"]))
    with pytest.raises(ColumnError, match="Moves: two columns of one name"):
        Moves(moves(1).table.append_column("value", pa.array([1])))


def test_tensors_must_have_the_declared_number_of_dimensions() -> None:
    with pytest.raises(ColumnError, match=r"Board.board: .* is no tensor column of float with 2 dimensions"):
        Board.from_columns({"id": ["a"], "board": np.zeros((1, 3), np.float32)})


def test_frames_with_tensors_of_other_shapes_do_not_join() -> None:
    small, large = (Board.from_columns({"id": ["a"], "board": np.zeros((1, n, n), np.float32)}) for n in (2, 3))
    with pytest.raises(ColumnError, match="Board: frames that do not fit together"):
        Board.concat([small, large])


def test_a_subclass_keeps_the_columns_of_its_parent() -> None:
    class Longer(Moves):
        columns = {**Moves.columns, "speed": pa.float32()}

    assert "speed" in Longer.empty().table.column_names
    with pytest.raises(ColumnError, match=r"Shorter: lacks the column 'value' \(int64\) of its base class Moves"):
        type("Shorter", (Moves,), {"columns": {"id": pa.string()}})
    with pytest.raises(ColumnError, match=r"Wrong.n: <class 'int'> is no column type"):
        type("Wrong", (Frame,), {"columns": {"n": int}})


def test_a_mask_is_no_list_of_positions_and_the_other_way_round() -> None:
    with pytest.raises(ColumnError, match="`take` wants positions, not bool; a mask is for `where`"):
        moves(1, 2).take([True, False])
    with pytest.raises(ColumnError, match=r"`where` wants a boolean mask of shape \(2,\), not int64 of shape \(2,\)"):
        moves(1, 2).where([0, 1])
    with pytest.raises(ColumnError, match=r"not bool of shape \(1,\)"):
        moves(1, 2).where([True])
    assert len(moves(1, 2).take([])) == 0


def test_an_unknown_column_is_told_with_the_known_ones() -> None:
    for read in (Moves.values, Moves.numpy, Moves.ragged, Moves.positions, Moves.rows):
        with pytest.raises(ColumnError, match=r"Moves: no column 'vlaue' \(did you mean 'value'\?\)"):
            read(moves(1), "vlaue")


def test_scores_in_a_chain_add_up_and_keep_their_terms() -> None:
    first = score(moves(1, 2), {"even": [0.0, 1.0], "long": [2.0, 2.0]}, weights={"long": 0.5})
    assert first.values("reward") == [1.0, 2.0]
    assert first.edge_type.marks == {SCORED}
    second = score(first, {"late": np.array([10.0, np.nan])})
    assert second.values("reward")[0] == 11.0
    assert np.isnan(second.numpy("reward")[1])
    assert second.values("reward_even") == [0.0, 1.0]
    assert second.table.column_names[-4:] == ["reward", "reward_even", "reward_long", "reward_late"]
    with pytest.raises(ColumnError, match="Moves: reward_even is scored twice; rename one of the terms"):
        score(second, {"even": [0.0, 0.0]})


def test_what_could_not_be_judged_is_nan_and_never_zero() -> None:
    terms: dict[str, Any] = {"a": [1.0, None, 3.0], "b": [1.0, 1.0, np.nan]}
    judged = score(moves(1, 2, 3), terms, weights={"b": 0.0})
    assert np.isnan(judged.numpy("reward")).tolist() == [False, True, True]
    assert judged.numpy("reward_a")[2] == 3.0


def test_an_advantage_presupposes_a_reward() -> None:
    scored = score(moves(1, 2), {"a": [0.0, 1.0]})
    credited = credit(scored, [-0.5, np.nan])
    assert credited.marks == {SCORED, CREDITED}
    assert credited.values("advantage")[0] == -0.5
    assert credit(credited, [1.0, 2.0]).values("advantage") == [1.0, 2.0]
    with pytest.raises(ColumnError, match="Moves: column 'reward' is missing"):
        credit(moves(1), [1.0])


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], 1.0, [[1.0, 2.0]]])
def test_rewards_and_advantages_are_one_a_row(values: Any) -> None:
    with pytest.raises(ColumnError, match=r"Moves: a of shape .* for 2 rows; give one a row"):
        score(moves(1, 2), {"a": values})
    with pytest.raises(ColumnError, match=r"Moves: advantage of shape .* for 2 rows"):
        credit(score(moves(1, 2), {"a": [0.0, 0.0]}), values)


def test_a_weight_without_its_term_is_refused() -> None:
    with pytest.raises(ColumnError, match=r"no term 'evne' to weigh \(did you mean 'even'\?\); terms: even"):
        score(moves(1), {"even": [1.0]}, weights={"evne": 2.0})


def test_marks_travel_with_rows_and_their_columns() -> None:
    rows = credit(score(moves(1, 2), {"a": [0.0, 1.0]}), [0.0, 1.0]).marked(PEER)
    for kept in (rows.take([1]), rows.where([False, True])):
        assert kept.marks == {SCORED, CREDITED, PEER}
        assert kept.values("reward_a") == [1.0]
    joined = Moves.concat([rows, score(moves(3), {"b": [0.0]})])
    assert joined.marks == {SCORED}
    assert joined.table.column_names == [*Moves.columns, "reward"]
    assert Moves.concat([rows, moves(3)]).table.column_names == list(Moves.columns)


def test_a_mark_column_needs_one_value_a_row() -> None:
    with pytest.raises(ColumnError, match=r"Moves.reward: 1 values for 2 rows; give one a row"):
        moves(1, 2).marked(SCORED, {"reward": [1.0]})
    with pytest.raises(ColumnError, match="Moves: unknown column 'advantage'"):
        moves(1).marked(SCORED, {"reward": [1.0], "advantage": [1.0]})


def test_rollouts_are_found_by_task_and_by_how_they_ended() -> None:
    blank: dict[str, Any] = {name: "" for name, kind in Rollouts.columns.items() if kind == pa.string()}
    blank |= dict.fromkeys(("stage", "round", "sample", "policy_version", "temperature"), 0)
    lists = ("parent_ids", "messages", "prompt_ids", "completion_ids", "completion_mask", "logprobs")
    blank |= {name: [] for name in lists}
    rows = [blank | {"id": "1", "task_id": "a", "finish_reason": "stop"}, blank | {"id": "2", "task_id": "b"}]
    rows += [blank | {"id": "3", "task_id": "a", "finish_reason": "failed"}]
    rollouts = Rollouts.from_rows(rows).marked(PEER)
    assert rollouts.of("a").values("id") == ["1", "3"]
    assert rollouts.finished().values("id") == ["1", "2"]
    assert rollouts.of("a").marks == {PEER}


class Notes(Frame):
    """Rows with a local column each of numbers and of lists."""

    columns = {"id": pa.string()}
    local_columns = {"ids": LocalColumn(pa.list_(pa.int32()), []), "penalty": LocalColumn(pa.float32(), 1.0)}


def test_local_columns_are_filled_in_rows_that_lack_them_and_can_be_dropped() -> None:
    plain = Notes.from_columns({"id": ["a", "b"]})
    own = Notes.from_columns({"id": ["c", "d"], "ids": [[4, 5], []]})
    both = Notes.concat([plain, own, plain.take([])])
    assert both.values("ids") == [[], [], [4, 5], []]
    assert "penalty" not in both.table.column_names
    assert plain.with_local(["penalty"]).values("penalty") == [1.0, 1.0]
    assert own.with_local(["ids"]) is own
    assert own.without_local() == Notes.from_columns({"id": ["c", "d"]})
    assert plain.without_local() is plain
    assert Notes.declared() == Notes.columns  # they are no part of the type that peers agree on
    with pytest.raises(ColumnError, match="unknown column 'idz'"):
        Notes.from_columns({"id": ["a"], "idz": [[]]})
