"""Frames: immutable rows with typed columns over a `pyarrow.Table`, the base of all rows on edges."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.cast import Column, Tensor, cast_column, count_nulls, fits, to_arrow
from genrl_graph.edge_types.display import DisplayMetrics, Transcript
from genrl_graph.edge_types.edge_type import EdgeType, EdgeValue, Mark, closure
from genrl_graph.edge_types.violation import ReceiverContext, Violation
from genrl_graph.errors import ColumnError
from genrl_graph.messages import did_you_mean, first_line

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame


_RENAMED = {"flaws": "violations", "story": "trajectory_id"}
"""Methods that were renamed, and would never be called under their old names."""


@dataclass(frozen=True, slots=True)
class LocalColumn:
    """A column of an author's own rows: its type, and the value of rows that lack it."""

    type: pa.DataType
    missing: Any


class Frame(EdgeValue):
    """Rows with declared columns; each subclass is an edge type, and a new game only has to declare one.

    Attributes:
        columns: Declared columns and their types, in order.
        local_columns: Columns that rows may have besides, and that no peer sends or accepts.
        version: Version of the type in packets and stores.
        task_column: Column of task ids that a receiver of rows looks up in its own sources, if the type has it.
        sample_column: Column that tells the samples of a task apart where one has several rows; None: each is a sample.
        role_column: Column that says in which role a row was made, for baselines that are kept per role.
        shown: Metrics that are shown first for generators of this type.

    No value is null. Raises `ColumnError` if a column is missing, unknown, null or of another type.
    """

    columns: ClassVar[Mapping[str, Column]] = {}
    local_columns: ClassVar[Mapping[str, LocalColumn]] = {}
    version: ClassVar[int] = 1
    task_column: ClassVar[str] = "task_id"
    sample_column: ClassVar[str | None] = None
    role_column: ClassVar[str] = "node"
    shown: ClassVar[DisplayMetrics] = DisplayMetrics()
    __slots__ = ("marks", "table")

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        for old, new in _RENAMED.items():
            if old in vars(cls):
                raise ColumnError(f"{cls.__name__}.{old}: this method is called {new!r} now; rename it")
        for name, column in cls.columns.items():
            if not isinstance(column, pa.DataType | Tensor):
                raise ColumnError(f"{cls.__name__}.{name}: {column!r} is no column type; write one such as pa.int64()")
        for parent in cls.__mro__[1:]:
            for name, column in parent.columns.items() if issubclass(parent, Frame) else ():
                if cls.columns.get(name) != column:
                    what = f"lacks the column {name!r} ({column}) of its base class {parent.__name__}"
                    raise ColumnError(f"{cls.__name__}: {what}; add it, or subclass Frame")

    def __init__(self, table: pa.Table, *, marks: Iterable[Mark] = ()) -> None:
        self.marks = closure(marks)
        self.table = self._conform(table)

    @classmethod
    def declared(cls, marks: Iterable[Mark] = ()) -> dict[str, Column]:
        """Return the declared columns of this type with these marks, in order."""
        ordered = sorted(closure(marks), key=lambda mark: (len(closure(mark.implies)), mark.name))
        return dict(cls.columns) | {name: column for mark in ordered for name, column in mark.columns.items()}

    @classmethod
    def from_columns(cls, values: Mapping[str, Any], *, marks: Iterable[Mark] = ()) -> Self:
        """Build a frame from one sequence per column (list, NumPy array or Arrow array), all of one length.

        A NumPy array of shape (rows, ...) becomes a tensor column if the type declares one.
        """
        marks = closure(marks)
        declared = cls.declared(marks)
        arrays = {
            name: to_arrow(f"{cls.__name__}.{name}", value, declared.get(name) or cls.extra_column(name, marks))
            for name, value in values.items()
        }
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise ColumnError(f"{cls.__name__}: columns of different lengths: {lengths}")
        return cls(pa.table(arrays), marks=marks)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, marks: Iterable[Mark] = ()) -> Self:
        """Build a frame from one dict per row; every row holds all columns."""
        names = dict.fromkeys([*cls.declared(marks), *(name for row in rows for name in row)])
        for position, row in enumerate(rows):
            for name in names:
                if name not in row:
                    where = f"{cls.__name__}: row {position}"
                    raise ColumnError(f"{where} has no {name!r}; all rows hold {', '.join(names)}")
        return cls.from_columns({name: [row[name] for row in rows] for name in names}, marks=marks)

    @classmethod
    def empty(cls, *, marks: Iterable[Mark] = ()) -> Self:
        """Return a frame without rows."""
        return cls.from_rows([], marks=marks)

    @classmethod
    def concat(cls, frames: Sequence[Self]) -> Self:
        """Concatenate frames in order, with the marks and additional columns that all of them share.

        Local columns of some are filled in the others. Raises `ColumnError` if tensors have different shapes.
        """
        if not frames:
            return cls.empty()
        marks = frozenset.intersection(*(frame.marks for frame in frames))
        local = [name for name in cls.local_columns if any(name in frame.table.column_names for frame in frames)]
        tables = [frame.with_local(local).table for frame in frames]
        names = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
        shared = [name for name in names if name in cls.declared(marks) or cls.extra_column(name, marks) is not None]
        full = [table for table in tables if table.num_rows] or tables[:1]  # an empty tensor column has no real shape
        try:
            table = pa.concat_tables([table.select(shared) for table in full])
        except pa.ArrowInvalid as error:
            raise ColumnError(f"{cls.__name__}: frames that do not fit together: {first_line(error)}") from error
        return cls(table, marks=marks)

    @property
    def edge_type(self) -> EdgeType:
        """Return the edge type of these rows: their class and marks."""
        return EdgeType(type(self), self.marks)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"<{self.edge_type} of {len(self)} rows>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return self.edge_type == other.edge_type and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]  # rows are compared by value and too many to hash

    def violations(self, known: ReceiverContext) -> Iterable[Violation]:
        """Return the rules of this type that rows from another peer break, beyond the rules for all types.

        A row is refused for the first of its violations. `known` holds the tasks of all rows.
        """
        return ()

    @classmethod
    def trajectory_id(cls, id: str) -> str:
        """Return the trajectory id of a row id; by default the id itself."""
        return id

    def trajectory_codes(self) -> "NDArray[np.int64]":
        """Return for each row the index of its trajectory, from 0, shape (rows,); by default each row is its own."""
        return np.arange(len(self), dtype=np.int64)

    def transcripts(self) -> Iterator[Transcript]:
        """Render these rows for people; by default there is nothing to read."""
        return iter(())

    def to_pandas(self) -> "DataFrame":
        """Return the rows as a pandas table; tensors and lists are NumPy arrays, one per row."""
        names = self.table.column_names
        tensors = [name for name in names if isinstance(self.table.column(name).type, pa.FixedShapeTensorType)]
        rows: DataFrame = self.table.drop_columns(tensors).to_pandas()
        for name in tensors:
            rows.insert(names.index(name), name, list(self.numpy(name)))
        return rows

    def values(self, column: str) -> list[Any]:
        """Return one column as Python values."""
        values: list[Any] = self._column(column).to_pylist()
        return values

    def numpy(self, column: str) -> "NDArray[Any]":
        """Return one column as a NumPy array: numbers (rows,), tensors (rows, ...), text (rows,) of objects."""
        array = self._column(column)
        if isinstance(array.type, pa.FixedShapeTensorType):
            if len(array) == 0:
                return np.empty((0, *array.type.shape), dtype=array.type.value_type.to_pandas_dtype())
            tensors: NDArray[Any] = array.to_numpy_ndarray()
            return tensors
        numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return numbers

    def ragged(self, column: str) -> "list[NDArray[Any]]":
        """Return one list column as one array per row, without copying the values."""
        array = self._column(column)
        flat = array.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False))
        return np.split(flat, ends[:-1]) if len(array) else []

    def rows(self, *columns: str) -> list[dict[str, Any]]:
        """Return the rows as dicts of the named columns, or of all columns if none is named."""
        for name in columns:
            self._column(name)
        table = self.table.select(list(columns)) if columns else self.table
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def take(self, indices: "ArrayLike") -> Self:
        """Return the rows at these positions, in this order."""
        positions = np.asarray(indices)
        if positions.size and not np.issubdtype(positions.dtype, np.integer):
            raise ColumnError(
                f"{type(self).__name__}: `take` wants positions, not {positions.dtype}; a mask is for `where`"
            )
        return type(self)(self.table.take(pa.array(positions.astype(np.int64))), marks=self.marks)

    def where(self, mask: "ArrayLike") -> Self:
        """Return the rows for which the boolean `mask` is true, shape (rows,)."""
        flags = np.asarray(mask)
        if flags.shape != (len(self),) or (flags.size and flags.dtype != np.bool_):
            what = f"a boolean mask of shape ({len(self)},), not {flags.dtype} of shape {flags.shape}"
            raise ColumnError(f"{type(self).__name__}: `where` wants {what}; positions are for `take`")
        return type(self)(self.table.filter(pa.array(flags.astype(bool))), marks=self.marks)

    def positions(self, column: str) -> "dict[Any, NDArray[np.int64]]":
        """Return the positions of the rows by value of a column, in order of first appearance."""
        encoded = self._column(column).dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(encoded.dictionary))
        parts = np.split(order, np.cumsum(counts)[:-1]) if len(counts) else []
        return dict(zip(encoded.dictionary.to_pylist(), parts, strict=True))

    def marked(self, mark: Mark, columns: Mapping[str, Any] | None = None) -> Self:
        """Return these rows with a mark and its columns; existing columns of the same names are replaced."""
        table = self.table
        for name, value in (columns or {}).items():
            where = f"{type(self).__name__}.{name}"
            array = to_arrow(where, value, mark.columns.get(name) or in_family(name, [mark]))
            if len(array) != len(self):
                raise ColumnError(f"{where}: {len(array)} values for {len(self)} rows; give one a row")
            index = table.column_names.index(name) if name in table.column_names else None
            table = table.append_column(name, array) if index is None else table.set_column(index, name, array)
        return type(self)(table, marks=self.marks | {mark})

    @classmethod
    def extra_column(cls, name: str, marks: Iterable[Mark]) -> pa.DataType | None:
        """Return the type of a column that is not declared but may exist: local, or allowed by a mark; else None."""
        local = cls.local_columns.get(name)
        return in_family(name, marks) if local is None else local.type

    def with_local(self, names: Iterable[str]) -> Self:
        """Return these rows with the local columns of these names; those that are new hold the value for missing."""
        table = self.table
        for name in names:
            if name not in table.column_names:
                column = self.local_columns[name]
                table = table.append_column(name, pa.array([column.missing] * len(self), column.type))
        return self if table is self.table else type(self)(table, marks=self.marks)

    def without_local(self) -> Self:
        """Return these rows without their local columns, as other peers see them."""
        names = [name for name in self.table.column_names if name not in self.local_columns]
        if len(names) == self.table.num_columns:
            return self
        return type(self)(self.table.select(names), marks=self.marks)

    def _column(self, name: str) -> pa.Array:
        names = self.table.column_names
        if name not in names:
            hint = did_you_mean(name, names) or f"; it has {', '.join(names)}"
            raise ColumnError(f"{type(self).__name__}: no column {name!r}{hint}")
        column = self.table.column(name)
        if column.num_chunks == 0 and isinstance(column.type, pa.FixedShapeTensorType):  # Arrow cannot combine 0 chunks
            return pa.ExtensionArray.from_storage(column.type, pa.array([], column.type.storage_type))
        return column.combine_chunks()

    def _conform(self, table: pa.Table) -> pa.Table:
        """Check the columns of a table, put them into the declared order and cast them to the declared types."""
        expected = self._expected_columns(table.column_names)
        if list(expected) != table.column_names:
            table = table.select(list(expected))
        for index, (name, column) in enumerate(expected.items()):
            array = table.column(index)
            if nulls := sum(map(count_nulls, array.chunks)):
                raise ColumnError(f"{type(self).__name__}.{name}: {nulls} null values; none is allowed")
            if not fits(column, array.type):
                table = table.set_column(index, name, cast_column(type(self).__name__, name, array, column))
        return table

    def _expected_columns(self, names: list[str]) -> dict[str, Column]:
        """Return the declared columns and those that a mark allows by prefix; `names` are those of the table.

        Raises `ColumnError` for unknown, missing and duplicate names.
        """
        declared = self.declared(self.marks)
        extra: dict[str, Column] = {}
        for name in names:
            if name in declared:
                continue
            column = self.extra_column(name, self.marks)
            if column is None:
                hint = did_you_mean(name, declared) or f"; it has {', '.join(declared)}"
                raise ColumnError(f"{type(self).__name__}: unknown column {name!r}{hint}")
            extra[name] = column
        for name in declared:
            if name not in names:
                raise ColumnError(
                    f"{type(self).__name__}: column {name!r} is missing; given {', '.join(names) or 'none'}"
                )
        if len(set(names)) < len(names):
            raise ColumnError(f"{type(self).__name__}: two columns of one name; given {', '.join(names)}")
        return declared | extra


def in_family(name: str, marks: Iterable[Mark]) -> pa.DataType | None:
    """Return the type of a column that one of the marks allows by the prefix of its name, or None."""
    for mark in marks:
        if mark.prefix and name.startswith(mark.prefix[0]):
            return mark.prefix[1]
    return None


def frames_of(value: Any) -> Iterator[Frame]:
    """Iterate over the frames of an input value: one frame, a list, or a mapping by name."""
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else (value,)
    return (item for item in several if isinstance(item, Frame))
