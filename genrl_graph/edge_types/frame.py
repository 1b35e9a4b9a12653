"""The base of all rows that travel on edges: immutable, typed columns over a `pyarrow.Table`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Frame(EdgeValue):
    """Rows with declared columns; a subclass is an edge type, and declaring one is all that a new game needs.

    `columns` holds the declared columns in order; `version` belongs to the wire and store format of the type;
    `task_column` names the column, if there is one, whose tasks a receiver must be able to make itself; `shown` says
    which numbers of its generators people see first.
    No value is null. Raises `ColumnError` where a column is missing, unknown, null or of another type.
    """

    columns: ClassVar[Mapping[str, Column]] = {}
    version: ClassVar[int] = 1
    task_column: ClassVar[str] = "task_id"
    shown: ClassVar[DisplayMetrics] = DisplayMetrics()
    __slots__ = ("marks", "table")

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        for name, column in cls.columns.items():
            if not isinstance(column, pa.DataType | Tensor):
                raise ColumnError(f"{cls.__name__}.{name}: {column!r} is no column type; write one such as pa.int64()")
        for parent in cls.__mro__[1:]:
            for name, column in parent.columns.items() if issubclass(parent, Frame) else ():
                if cls.columns.get(name) != column:
                    what = f"has not the column {name!r} ({column}) of {parent.__name__}, which it subclasses"
                    raise ColumnError(f"{cls.__name__}: {what}; add it, or subclass Frame")

    def __init__(self, table: pa.Table, *, marks: Iterable[Mark] = ()) -> None:
        self.marks = closure(marks)
        self.table = self._conform(table)

    @classmethod
    def declared(cls, marks: Iterable[Mark] = ()) -> dict[str, Column]:
        """The columns of this type with these marks, in order."""
        ordered = sorted(closure(marks), key=lambda mark: (len(closure(mark.implies)), mark.name))
        return dict(cls.columns) | {name: column for mark in ordered for name, column in mark.columns.items()}

    @classmethod
    def from_columns(cls, values: Mapping[str, Any], *, marks: Iterable[Mark] = ()) -> Self:
        """A frame of equally long sequences (lists, numpy arrays, Arrow arrays), one a column.

        A numpy array of shape (rows, ...) becomes a tensor column where one is declared.
        """
        marks = closure(marks)
        declared = cls.declared(marks)
        arrays = {
            name: to_arrow(f"{cls.__name__}.{name}", value, declared.get(name) or in_family(name, marks))
            for name, value in values.items()
        }
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise ColumnError(f"{cls.__name__}: columns of different lengths: {lengths}")
        return cls(pa.table(arrays), marks=marks)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, marks: Iterable[Mark] = ()) -> Self:
        """A frame of dicts, one a row; all rows hold the declared columns."""
        names = dict.fromkeys([*cls.declared(marks), *(name for row in rows for name in row)])
        for at, row in enumerate(rows):
            for name in names:
                if name not in row:
                    raise ColumnError(f"{cls.__name__}: row {at} has no {name!r}; all rows hold {', '.join(names)}")
        return cls.from_columns({name: [row[name] for row in rows] for name in names}, marks=marks)

    @classmethod
    def empty(cls, *, marks: Iterable[Mark] = ()) -> Self:
        """No rows."""
        return cls.from_rows([], marks=marks)

    @classmethod
    def concat(cls, frames: Sequence[Self]) -> Self:
        """The rows of all frames in the order given; the marks, and the columns beyond the declared, that all have.

        Raises `ColumnError` where tensors have different shapes.
        """
        if not frames:
            return cls.empty()
        marks = frozenset.intersection(*(frame.marks for frame in frames))
        names = [name for name in frames[0].table.column_names if all(name in f.table.column_names for f in frames)]
        kept = [name for name in names if name in cls.declared(marks) or in_family(name, marks) is not None]
        full = [frame for frame in frames if len(frame)] or frames[:1]  # without rows a tensor has no shape
        try:
            table = pa.concat_tables([frame.table.select(kept) for frame in full])
        except pa.ArrowInvalid as error:
            raise ColumnError(f"{cls.__name__}: frames that do not fit together: {first_line(error)}") from error
        return cls(table, marks=marks)

    @property
    def edge_type(self) -> EdgeType:
        """The type of the edge that this value may travel on."""
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

    def flaws(self, known: ReceiverContext) -> Iterable[Violation]:
        """What is wrong in these rows, of another peer, beyond what holds for rows of every type.

        The first flaw of a row is why it is refused. All tasks of the rows are known.
        """
        return ()

    @classmethod
    def story(cls, id: str) -> str:
        """The name of what a row of this id tells together with others; its own where it stands for itself."""
        return id

    def transcripts(self) -> Iterator[Transcript]:
        """What happened in these rows as a person reads it; nothing for a type that nobody reads."""
        return iter(())

    def values(self, column: str) -> list[Any]:
        """One column as Python values."""
        values: list[Any] = self._column(column).to_pylist()
        return values

    def numpy(self, column: str) -> "NDArray[Any]":
        """One column of numbers as an array of shape (rows,), of tensors as (rows, ...), of text as objects."""
        array = self._column(column)
        if isinstance(array.type, pa.FixedShapeTensorType):
            if len(array) == 0:
                return np.empty((0, *array.type.shape), dtype=array.type.value_type.to_pandas_dtype())
            tensors: NDArray[Any] = array.to_numpy_ndarray()
            return tensors
        numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return numbers

    def ragged(self, column: str) -> "list[NDArray[Any]]":
        """One list column as an array a row, without a copy."""
        array = self._column(column)
        flat = array.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False))
        return np.split(flat, ends[:-1]) if len(array) else []

    def rows(self, *columns: str) -> list[dict[str, Any]]:
        """The rows as dicts, of all columns or of those named."""
        for name in columns:
            self._column(name)
        table = self.table.select(list(columns)) if columns else self.table
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def take(self, indices: "ArrayLike") -> Self:
        """The rows at these positions, in this order."""
        given = np.asarray(indices)
        if given.size and not np.issubdtype(given.dtype, np.integer):
            raise ColumnError(
                f"{type(self).__name__}: `take` wants positions, not {given.dtype}; a mask is for `where`"
            )
        return type(self)(self.table.take(pa.array(given.astype(np.int64))), marks=self.marks)

    def where(self, mask: "ArrayLike") -> Self:
        """The rows at which the boolean `mask` holds."""
        given = np.asarray(mask)
        if given.shape != (len(self),) or (given.size and given.dtype != np.bool_):
            what = f"a boolean mask of shape ({len(self)},), not {given.dtype} of shape {given.shape}"
            raise ColumnError(f"{type(self).__name__}: `where` wants {what}; positions are for `take`")
        return type(self)(self.table.filter(pa.array(given.astype(bool))), marks=self.marks)

    def positions(self, column: str) -> "dict[Any, NDArray[np.int64]]":
        """For each value of a column, in order of first appearance, the positions of its rows."""
        encoded = self._column(column).dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(encoded.dictionary))
        parts = np.split(order, np.cumsum(counts)[:-1]) if len(counts) else []
        return dict(zip(encoded.dictionary.to_pylist(), parts, strict=True))

    def marked(self, mark: Mark, columns: Mapping[str, Any] | None = None) -> Self:
        """These rows with a mark and its columns; a column that is there already is replaced."""
        table = self.table
        for name, value in (columns or {}).items():
            where = f"{type(self).__name__}.{name}"
            array = to_arrow(where, value, mark.columns.get(name) or in_family(name, [mark]))
            if len(array) != len(self):
                raise ColumnError(f"{where}: {len(array)} values for {len(self)} rows; give one a row")
            at = table.column_names.index(name) if name in table.column_names else None
            table = table.append_column(name, array) if at is None else table.set_column(at, name, array)
        return type(self)(table, marks=self.marks | {mark})

    def _column(self, name: str) -> pa.Array:
        names = self.table.column_names
        if name not in names:
            hint = did_you_mean(name, names) or f"; it has {', '.join(names)}"
            raise ColumnError(f"{type(self).__name__}: no column {name!r}{hint}")
        column = self.table.column(name)
        if column.num_chunks == 0 and isinstance(column.type, pa.FixedShapeTensorType):  # Arrow cannot combine none
            return pa.ExtensionArray.from_storage(column.type, pa.array([], column.type.storage_type))
        return column.combine_chunks()

    def _conform(self, table: pa.Table) -> pa.Table:
        declared = self.declared(self.marks)
        given = table.column_names
        extra = [name for name in given if name not in declared]
        for name in extra:
            if in_family(name, self.marks) is None:
                hint = did_you_mean(name, declared) or f"; it has {', '.join(declared)}"
                raise ColumnError(f"{type(self).__name__}: unknown column {name!r}{hint}")
        for name in declared:
            if name not in given:
                raise ColumnError(
                    f"{type(self).__name__}: column {name!r} is missing; given {', '.join(given) or 'none'}"
                )
        if len(set(given)) < len(given):
            raise ColumnError(f"{type(self).__name__}: two columns of one name; given {', '.join(given)}")
        wanted = declared | {name: in_family(name, self.marks) for name in extra}
        if list(wanted) != table.column_names:
            table = table.select(list(wanted))
        for at, (name, column) in enumerate(wanted.items()):
            assert column is not None
            array = table.column(at)
            if nulls := sum(map(count_nulls, array.chunks)):
                raise ColumnError(f"{type(self).__name__}.{name}: {nulls} null values; none is allowed")
            if not fits(column, array.type):
                table = table.set_column(at, name, cast_column(type(self).__name__, name, array, column))
        return table


def in_family(name: str, marks: Iterable[Mark]) -> pa.DataType | None:
    """The type of a column beyond the declared ones that one of the marks allows by its name, or None."""
    for mark in marks:
        if mark.prefix and name.startswith(mark.prefix[0]):
            return mark.prefix[1]
    return None


def frames_of(value: Any) -> Iterator[Frame]:
    """The frames of an input: one, several in order, or several by name."""
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else (value,)
    return (item for item in several if isinstance(item, Frame))
