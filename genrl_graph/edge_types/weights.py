"""The edge type of weights that peers average."""

import pyarrow as pa

from genrl_graph.arrow.cast import TEXT
from genrl_graph.edge_types.frame import Frame

ROW_VALUES = 2**16
"""Most numbers of a row, below the limits of exchanges on one row."""


class Weights(Frame):
    """Weights of a policy as one flat vector, or how far they have moved, in rows of at most `ROW_VALUES` numbers.

    `layout` is the digest of the names and shapes of the parameters, `first` the position of a row's first number.
    `start` is the digest of the weights from which the numbers are the way to the present ones, as (start - present);
    "" where the numbers are the weights themselves.
    """

    columns = {"layout": TEXT, "start": TEXT, "first": pa.int64(), "values": pa.list_(pa.float32())}
    __slots__ = ()
