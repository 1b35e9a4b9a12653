"""Tables in the journal: Arrow IPC streams, of which nothing is believed before it is checked.

Arrow bounds every buffer of a stream by the stream itself, except those that are compressed: they claim the size that
memory is taken for. A stream of ours has none, no dictionaries and no types that the store cannot hold.
"""

import struct

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.canonical import conform
from genrl_graph.store.strict_json import RESTORE

IPC_OPTIONS = pa.ipc.IpcWriteOptions()
BODY_COMPRESSION = 3  # slot of this field in Arrow's RecordBatch
HEADER = 2  # slot of the union of headers in Arrow's Message


def encode_table(table: pa.Table) -> memoryview:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.RecordBatchStreamWriter(sink, table.schema, options=IPC_OPTIONS) as writer:
        writer.write_table(table.combine_chunks())
    return memoryview(sink.getvalue())


def decode_table(stream: memoryview, where: str) -> pa.Table:
    """Return the table of a stream, which takes no memory beyond the stream's own.

    Raises `StoreError` where the stream is not what `encode_table` gives: compressed, with dictionaries, types or
    names that the store cannot hold, nulls, offsets outside their values, or names or text that are not UTF-8.
    """
    try:
        reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(stream))
        schema = pa.ipc.read_schema(reader.read_next_message())
        conform(schema.empty_table(), None, fixed=False, where=where)  # refuses types before rows are read by them
        batches = [_read_batch(message, schema, where) for message in reader]
        table = pa.Table.from_batches(batches, schema)
        table.validate(full=True)
    except (pa.ArrowException, StopIteration, struct.error, OSError, UnicodeDecodeError, NotImplementedError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"{where}: is no Arrow stream that a run writes ({what}); {RESTORE}") from error
    return conform(table, None, fixed=False, where=where)


def _read_batch(message: pa.ipc.Message, schema: pa.Schema, where: str) -> pa.RecordBatch:
    if message.type != "record batch":
        raise StoreError(f"{where}: has a {message.type}, which a run does not write; {RESTORE}")
    if _is_compressed(memoryview(message.metadata)):
        raise StoreError(f"{where}: is compressed, which a run does not write; {RESTORE}")
    return pa.ipc.read_record_batch(message, schema)


def _is_compressed(metadata: memoryview) -> bool:
    """Return whether the flatbuffer of a message with a record batch says that its buffers are compressed."""
    root = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, root, HEADER)
    if header is None:
        raise struct.error("a record batch without a header")
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, BODY_COMPRESSION) is not None


def _field(metadata: memoryview, table: int, slot: int) -> int | None:
    """Return where the field of a flatbuffer table begins, None where the table leaves it out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise struct.error("a flatbuffer that begins before its start")
    entry = 4 + 2 * slot
    if entry + 2 > struct.unpack_from("<H", metadata, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", metadata, vtable + entry)[0]
    return table + offset if offset else None
