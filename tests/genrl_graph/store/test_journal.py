"""The journal: appended records are there, a torn commit is removed, errors name the damage."""

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph.errors import StoreError
from genrl_graph.store.journal import Journal, Record, entries
from genrl_graph.store.journal_format import MAGIC

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.tuples(st.integers(0, 9), st.text(max_size=4), st.lists(st.integers(0, 9), max_size=3)), max_size=4)
TABLES = ROWS.map(
    lambda rows: pa.table(
        [
            pa.array([row[at] for row in rows], kind)
            for at, kind in enumerate([pa.int32(), pa.string(), pa.list_(pa.int8())])
        ],
        names=["n", "text", "ids"],
    )
)
NAMES = st.text("aé𝄞 _.-0", min_size=1, max_size=5).filter(lambda name: name.strip("."))
RECORDS = st.builds(
    Record,
    round=st.integers(0, 2**31 - 1),
    node=NAMES,
    holder=NAMES,
    facts=st.dictionaries(st.text(max_size=3), JSON, max_size=3),
    tables=st.dictionaries(st.sampled_from(["answer", "eval/answer", "update/trained"]), TABLES, max_size=2),
)


def record(number: int) -> Record:
    rows = pa.table({"n": list(range(number)), "text": [f"row {i}" for i in range(number)]})
    return Record(number, "answer", "peer0000", {"late": []}, {"answer": rows})


def segment(folder: Path) -> Path:
    (path,) = folder.glob("*.wal")
    return path


@contextmanager
def disk_full(at_bytes: int) -> Iterator[None]:
    """Limit the size of files: the system then refuses writes as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(deadline=None, max_examples=25)
@given(st.lists(RECORDS, max_size=5), st.data())
def test_records_come_back_in_order_over_batches_segments_and_reopening(
    records: list[Record], data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        journal = Journal(Path(name))
        digests, done = [], 0
        while done < len(records):
            size = data.draw(st.integers(1, len(records) - done))
            digests += journal.append_many(records[done : done + size])
            done += size
            after = data.draw(st.sampled_from(["roll", "reopen", "go on"]))
            if after == "roll":
                assert journal.roll() == done
            elif after == "reopen":
                journal.close()
                journal = Journal(Path(name))
        assert list(journal) == records
        found = list(entries(Path(name)))
        assert [entry.position for entry in found] == list(range(len(records)))
        assert [entry.digest for entry in found] == digests
        journal.close()


@settings(deadline=None, max_examples=8)
@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_a_record_torn_at_any_byte_leaves_all_earlier_ones(records: list[Record]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal(folder)
        journal.append_many(records[:-1])
        path = folder / "00000000.wal"
        begin = path.stat().st_size if path.exists() else 0
        journal.append(records[-1])
        journal.close()
        whole = path.read_bytes()
        for end in reversed(range(begin, len(whole))):
            os.truncate(path, end)
            assert [entry.record for entry in entries(folder)] == records[:-1]
            assert path.stat().st_size == end  # readers cut nothing
        with path.open("ab") as file:
            file.write(bytes(300))  # a file system that had grown the file, but not written it
        assert [entry.record for entry in entries(folder)] == records[:-1]
        journal = Journal(folder)
        assert path.stat().st_size == begin
        journal.append(records[-1])
        journal.close()
        assert path.read_bytes() == whole


def test_damage_before_whole_records_names_file_and_byte_wherever_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(1))
    begin = segment(tmp_path).stat().st_size
    journal.append(record(2))
    end = segment(tmp_path).stat().st_size
    journal.append(record(3))
    journal.close()
    whole = segment(tmp_path).read_bytes()
    version = range(begin + 4, begin + 6)
    for at in sorted({*range(begin, begin + 40), *range(begin, end, 7)} - set(version)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        segment(tmp_path).write_bytes(damaged)
        with pytest.raises(StoreError, match=rf"00000000\.wal: record at byte {begin} is damaged"):
            list(entries(tmp_path))
        with pytest.raises(StoreError, match="damaged"):
            Journal(tmp_path)
        assert segment(tmp_path).read_bytes() == damaged


def test_text_that_looks_like_a_record_in_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(2))
    journal.close()
    with segment(tmp_path).open("ab") as file:
        file.write(MAGIC + bytes(8) + MAGIC + b"\xff" * 40)
    assert list(Journal(tmp_path)) == [record(2)]


def test_a_newer_version_is_refused_with_advice(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(1))
    journal.close()
    data = bytearray(segment(tmp_path).read_bytes())
    struct.pack_into("<H", data, len(MAGIC), 3)
    segment(tmp_path).write_bytes(data)
    with pytest.raises(StoreError, match=r"journal version 3 is newer than 2; upgrade genrl-graph"):
        list(entries(tmp_path))


def test_the_hash_is_of_the_content_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, second, third = journal.append_many([record(2), record(3), record(2)])
    assert first == third != second
    assert first != journal.append(Record(2, "answer", "peer0001", {"late": []}, record(2).tables))
    journal.close()


def test_segments_that_end_before_a_position_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append_many([record(0), record(1)])
    second = journal.roll()
    journal.append(record(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.wal", "00000002.wal"]
    journal.drop_before(second)
    assert [entry.position for entry in entries(tmp_path, since=2)] == [2]
    journal.drop_before(journal.end)  # the segment being written stays
    assert list(journal) == [record(2)]
    journal.drop_before(journal.roll())
    assert not list(tmp_path.iterdir())
    journal.append(record(3))
    journal.close()
    assert segment(tmp_path).name == "00000003.wal"


def test_missing_records_are_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.append(record(number))
        journal.roll()
    (tmp_path / "00000001.wal").unlink()
    with pytest.raises(StoreError, match=r"00000000\.wal: ends at record 1, but 2 comes next"):
        list(entries(tmp_path))
    (tmp_path / "00000000.wal").unlink()
    with pytest.raises(StoreError, match="records 0 to 1 are missing"):
        list(entries(tmp_path, since=0))
    assert len(list(entries(tmp_path, since=2))) == 1


def test_a_start_behind_all_records_begins_a_segment_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(1))
    journal.close()
    journal = Journal(tmp_path, start=5)
    journal.append(record(2))
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.wal", "00000005.wal"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(1))
    size = segment(tmp_path).stat().st_size
    with disk_full(size + 100), pytest.raises(StoreError) as caught:
        journal.append_many([record(2), record(3)])
    assert "00000000.wal: cannot append to the journal: File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert segment(tmp_path).stat().st_size == size
    journal.append(record(4))
    journal.close()
    assert list(journal) == [record(1), record(4)]


def test_facts_that_are_no_json_name_the_node(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(StoreError, match=r"^update: round 7: facts must be plain JSON values"):
        journal.append(Record(7, "update", "peer0000", {"when": object()}))
    assert list(journal) == []
