"""A run folder from a stranger: every command refuses it by name, `store verify` first, and touches nothing outside."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import ANY

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from numcodecs.zstd import Zstd

from genrl_graph import Tasks
from genrl_graph.arrow.schema import Leaf
from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError
from genrl_graph.store.arrays import RolloutArrays, group_file, root_file
from genrl_graph.store.chunks import CHECKSUM, MAX_TEXT_BYTES, ChunkedArray
from genrl_graph.store.ipc_stream import encode_table
from genrl_graph.store.journal import Journal, Record
from genrl_graph.store.journal_format import content_hash, pack
from genrl_graph.store.manifest import write_manifest
from genrl_graph.store.pending import archived_records
from genrl_graph.store.run_path import MAX_DEPTH, RunPath
from genrl_graph.store.run_store import RunStore

GRAPH = """\
graph: toy
version: 1
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a, answer: b}]}}
run: {rounds: 2, peers: 1, trackers: []}
"""
COMMANDS = (
    "store verify run",
    "store compact run",
    "resume run -q",
    "runs run",
    "rollouts run",
    "lineage run 0",
    "rows run tasks -o out.jsonl",
    "draw --run run",
    "diff run run",
    "replay run game.yaml -o replayed -q",
    "export run policy exported",
)
Change = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds, the second one in the journal, with a checkpoint and metrics."""
    folder = tmp_path_factory.mktemp("runs")
    with RunStore.create(folder / "run", GRAPH, {"pyarrow": pa.__version__}) as store:
        for number in range(2):
            chat, ids = [[{"role": "user", "content": "a?"}]], [f"tasks/{number}", "tasks/9"]
            tasks = Tasks.from_columns({"id": ids, "messages": chat * 2, "answer": ["b"] * 2, "metadata": ["{}"] * 2})
            facts = {"metrics": {"rows": 2.0}}
            store.commit([Record(number, "tasks", "peer0000", facts, {"tasks": tasks.table})])
            if number == 0:
                store.flush()
        shutil.copytree(folder / "run", folder / "killed")
    (folder / "killed/metrics.jsonl").write_text('{"round": 0, "peer": "peer0000", "time/round": 1.0}\n')
    saved = folder / "killed/checkpoints/000001/peer0000"
    saved.mkdir(parents=True)
    (saved / "weights").write_bytes(bytes(range(200)))
    write_manifest(saved.parent)
    return folder / "killed"


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a copy of the run, a file and a folder that are precious, and ten seconds at most per command."""
    shutil.copytree(sound, tmp_path / "run", symlinks=True)
    (tmp_path / "game.yaml").write_text(GRAPH)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    signal.alarm(0)


def outside(place: Path) -> dict[str, bytes | None]:
    paths = (path for path in sorted(place.rglob("*")) if not path.is_relative_to(place / "run"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def said_by(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    signal.alarm(60)  # SIGALRM ends the test run: a command that hangs on a pipe is a failure, not a pause
    code = run_command(command.split())
    signal.alarm(0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def append(run: Path, record: Record) -> None:
    journal = Journal(run / "journal", start=archived_records(RolloutArrays(run / "rollouts.zarr").counts))
    journal.append(record)
    journal.close()


def append_table(columns: dict[str, object], *, group: str = "evil", holder: str = "peer0000") -> Change:
    """Append a record whose table has these columns beside `round` and `holder`."""

    def change(run: Path, precious: Path) -> None:
        named = {name.format(precious=precious): column for name, column in columns.items()}
        table = pa.table({**named, "round": pa.array([2], pa.int32()), "holder": ["peer0000"]})
        append(run, Record(2, "tasks", holder, {}, {group.format(precious=precious): table}))

    return change


def append_stream(stream: Callable[[pa.Table], bytes]) -> Change:
    """Append a record with one table, as `stream` writes it, under hashes that hold."""

    def change(run: Path, precious: Path) -> None:
        table = pa.table({"x": ["a" * LENGTH], "round": pa.array([2], pa.int32()), "holder": ["peer0000"]})
        header = {
            "round": 2,
            "node": "tasks",
            "holder": "peer0000",
            "facts": {},
            "tables": [["evil", len(stream(table))]],
        }
        parts = pack([json.dumps(header).encode(), stream(table)], index=0, count=1)
        (segment,) = (run / "journal").glob("*.wal")
        segment.write_bytes(segment.read_bytes() + b"".join(parts))

    return change


def append_header(**changes: object) -> Change:
    def change(run: Path, precious: Path) -> None:
        values = {"round": 2, "node": "tasks", "holder": "peer0000", "facts": {}, "tables": []} | changes
        (segment,) = (run / "journal").glob("*.wal")
        segment.write_bytes(segment.read_bytes() + b"".join(pack([json.dumps(values).encode()], index=0, count=1)))

    return change


def compressed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.RecordBatchStreamWriter(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def dictionary(table: pa.Table) -> bytes:
    return bytes(encode_table(table.set_column(0, "x", table.column("x").dictionary_encode())))


def bad_offsets(table: pa.Table) -> bytes:
    return bytes(encode_table(table)).replace(LENGTH.to_bytes(4, "little"), (2**30).to_bytes(4, "little"))


def bad_text(table: pa.Table) -> bytes:
    return bytes(encode_table(table)).replace(b"aaaa", b"\xff\xff\xff\xff", 1)


def bad_name(table: pa.Table) -> bytes:
    renamed = table.rename_columns(["name" if column == "x" else column for column in table.column_names])
    return bytes(encode_table(renamed)).replace(b"name", b"\xff\xff\xff\xff", 1)


def linked(name: str, target: str = "{precious}") -> Change:
    """Put a link in place of a file or folder of the run."""

    def change(run: Path, precious: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target.format(precious=precious))

    return change


def moved_out(name: str) -> Change:
    """Move a part of the run to the precious folder, and put a link in its place."""

    def change(run: Path, precious: Path) -> None:
        shutil.move(run / name, precious / "moved")
        (run / name).symlink_to(precious / "moved")

    return change


def piped(name: str) -> Change:
    def change(run: Path, precious: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def published(rows: dict[str, object]) -> Change:
    def change(run: Path, precious: Path) -> None:
        counts = RolloutArrays(run / "rollouts.zarr").counts | {
            name.format(precious=precious): count for name, count in rows.items()
        }
        (run / "rollouts.zarr/zarr.json").write_bytes(root_file(counts))  # type: ignore[arg-type]

    return change


def described(columns: object) -> Change:
    def change(run: Path, precious: Path) -> None:
        data = group_file({"schema_version": 1, "columns": columns})
        (run / "rollouts.zarr/tasks/zarr.json").write_bytes(data)

    return change


def deep_columns(run: Path, precious: Path) -> None:
    path = run / "rollouts.zarr/tasks/zarr.json"
    text = path.read_text()
    path.write_text(text.replace('"string"', '{"list": ' * 3000 + '"string"' + "}" * 3000, 1))


def text_chunk(raw: Callable[[bytes], bytes]) -> Change:
    """Change the unpacked bytes of a chunk of text, under a checksum that holds."""

    def change(run: Path, precious: Path) -> None:
        path = run / "rollouts.zarr/steps/rows/c/0"
        packed = raw(bytes(Zstd().decode(path.read_bytes()[: -CHECKSUM.size])))
        path.write_bytes(packed + CHECKSUM.pack(google_crc32c.value(packed)))

    return change


def zstd(data: bytes) -> bytes:
    return bytes(Zstd(level=1).encode(data))


def claims_much(raw: bytes) -> bytes:
    """A frame that says it unpacks to more than any chunk has, of which there are a few bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + (MAX_TEXT_BYTES + 1).to_bytes(8, "little") + zstd(raw)[9:]


def manifest_outside(run: Path, precious: Path) -> None:
    path = run / "checkpoints/000001/files.json"
    path.write_text(json.dumps({"../../../precious/file": [4, "0" * 32], **json.loads(path.read_text())}))


def deep_folders(run: Path, precious: Path) -> None:
    path = run / "checkpoints/000001"
    for _ in range(MAX_DEPTH + 1):
        path /= "d"
    path.mkdir(parents=True)


def hole(name: str) -> Change:
    def change(run: Path, precious: Path) -> None:
        (run / name).touch()
        os.truncate(run / name, 2**40)

    return change


LENGTH = 70_001
ONE = pa.array([1], pa.int32())
REFUSED_BY_ALL: dict[str, tuple[Change, str]] = {
    "an absolute column": (append_table({"{precious}": ONE}), "cannot name a file, group or column"),
    "a column that climbs": (append_table({"../../precious": ONE}), "cannot name"),
    "a column of dots": (append_table({"..": ONE}), "cannot name"),
    "a column with a zero": (append_table({"a\0b": ONE}), r"'a\x00b' cannot name"),
    "a column that clears the screen": (append_table({"\x1b[2J": ONE}), r"\x1b[2J' cannot name"),
    "a field that climbs": (append_table({"x": pa.array([{"../../../precious": 1}])}), "cannot name"),
    "a field in lists": (append_table({"x": pa.array([[[{"/etc": 1}]]])}), "cannot name"),
    "a column named as metadata": (append_table({"zarr.json": ONE}), "cannot name"),
    "a column named as a half-written file": (append_table({"x.partial": ONE}), "cannot name"),
    "an absolute group": (append_table({"x": ONE}, group="{precious}"), "cannot name"),
    "a group that climbs": (append_table({"x": ONE}, group="a/../../precious"), "cannot name"),
    "the group of steps": (append_table({"x": ONE}, group="steps"), "is taken by the record of all steps"),
    "a group inside a column": (append_table({"x": ONE}, group="tasks/id"), "has a column 'id'"),
    "a holder that climbs": (append_table({"x": ONE}, holder="../../precious"), "cannot name"),
    "other columns than before": (append_table({"x": ONE}, group="tasks"), "has other columns than earlier rows"),
    "a column of nulls": (append_table({"x": pa.nulls(1)}), "holds null"),
    "a compressed stream": (append_stream(compressed), "is compressed, which a run does not write"),
    "a dictionary": (append_stream(dictionary), "type dictionary"),
    "offsets outside the text": (append_stream(bad_offsets), "no Arrow stream that a run writes"),
    "text that is not UTF-8": (append_stream(bad_text), "no Arrow stream that a run writes"),
    "a name that is not UTF-8": (append_stream(bad_name), "no Arrow stream that a run writes"),
    "no stream": (append_stream(lambda table: b"\xff\xff\xff\xff\xff\xff\xff\x7f"), "no Arrow stream"),
    "a round that is text": (append_header(round="2"), "'2' is no round"),
    "a round beyond all": (append_header(round=10**30), "is no round"),
    "a round that is true": (append_header(round=True), "is no round"),
    "a node that is a number": (append_header(node=7), "'7' is no name of a node"),
    "facts that are a list": (append_header(facts=[]), "its facts are list"),
    "a table larger than the record": (
        append_header(tables=[["evil", 2**40]]),
        "its tables are not named with their sizes",
    ),
    "a table of negative size": (append_header(tables=[["evil", -8], ["more", 8]]), "its tables are not named"),
    "facts nested too deep": (append_header(facts={"x": json.loads("[" * 80 + "]" * 80)}), "nested more than 64 deep"),
    "a published group outside": (published({"../precious": 1}), "cannot name"),
    "an absolute published group": (published({"{precious}": 1}), "cannot name"),
    "fewer than no rows": (published({"tasks": -1}), "'-1' rows of 'tasks'"),
    "a number of rows that is text": (published({"tasks": "2"}), "'2' rows of 'tasks'"),
    "columns outside": (described({"../../precious": "int32"}), "cannot name"),
    "columns of no type": (described({"id": "int33"}), "is no type of a column"),
    "columns that are a list": (described(["id"]), "describes no columns"),
    "a tensor larger than memory": (described({"id": {"tensor": "int8", "shape": [2**40]}}), "at most"),
    "a tensor of negative shape": (described({"id": {"tensor": "int8", "shape": [-1]}}), "at most"),
    "columns nested too deep": (deep_columns, "nested more than"),
    "a journal elsewhere": (moved_out("journal"), "is a link"),
    "arrays elsewhere": (moved_out("rollouts.zarr"), "is a link"),
    "a group elsewhere": (moved_out("rollouts.zarr/tasks"), "is a link"),
    "checkpoints elsewhere": (moved_out("checkpoints"), "is a link"),
    "a graph elsewhere": (moved_out("graph.yaml"), "is a link"),
    "metrics elsewhere": (moved_out("metrics.jsonl"), "is a link"),
    "a lock elsewhere": (linked("writer.lock", "{precious}/file"), "is a link"),
    "events elsewhere": (linked("events"), "is a link"),
    "a trace that would be made elsewhere": (linked("profile.json", "{precious}/new"), "is a link"),
    "a journal that is a pipe": (piped("journal/00000001.wal"), "is a pipe"),
    "a graph that is a pipe": (piped("graph.yaml"), "is a pipe"),
    "metrics that are a pipe": (piped("metrics.jsonl"), "is a pipe"),
    "a graph that is a hole": (hole("graph.yaml"), "bytes, of 16777216 at most"),
    "a journal that is a hole": (hole("journal/00000001.wal"), "bytes, of 2147483648 at most"),
    "metadata that is a hole": (hole("rollouts.zarr/zarr.json"), "bytes, of 16777216 at most"),
}
"""Changes that every command trips over, by what they are; and what it says."""

REFUSED_BY_VERIFY: dict[str, tuple[Change, str]] = {
    "a chunk elsewhere": (moved_out("rollouts.zarr/tasks/id/c/0"), "is a link"),
    "a chunk that is a pipe": (piped("rollouts.zarr/tasks/id/c/0"), "is a pipe"),
    "a chunk that claims much": (text_chunk(claims_much), f"of {MAX_TEXT_BYTES} at most"),
    "a chunk of four billion texts": (text_chunk(lambda raw: zstd(b"\xff" * 4 + raw[4:])), "texts, not 4096"),
    "a chunk with text that ends too late": (
        text_chunk(lambda raw: zstd(raw[:4] + b"\xf0" + raw[5:])),
        "chunk is damaged",
    ),
    "no frame": (text_chunk(lambda raw: b"raw"), "no zstd frame of a known size"),
    "rows by group that are a list": (
        text_chunk(lambda raw: zstd(raw.replace(b'{"tasks": 2}', b'["tasks", 2]'))),
        "not a JSON",
    ),
    "fewer rows than none": (
        text_chunk(lambda raw: zstd(raw.replace(b'{"tasks": 2}', b'{"tasks":-2}'))),
        "no numbers of rows",
    ),
    "a checkpoint elsewhere": (moved_out("checkpoints/000001"), "is a link"),
    "weights elsewhere": (moved_out("checkpoints/000001/peer0000/weights"), "is a link"),
    "weights that are a pipe": (piped("checkpoints/000001/peer0000/weights"), "is a pipe"),
    "a manifest of files outside": (manifest_outside, "'..' cannot name"),
    "folders nested too deep": (deep_folders, "nested more than 64 folders deep"),
    "a header in another spelling": (append_header(), "its rows do not give the hash"),
    "facts of another type": (append_header(facts={"metrics": [1]}), "fact metrics"),
    "own rows without end": (append_header(facts={"own_rows": {"x": [[0, 0, 2**62]]}}), "fact own_rows"),
    "metrics that are no text": (
        lambda run, precious: (run / "metrics.jsonl").write_bytes(b'{"round": 0, "peer": "\xff"}\n'),
        "metrics.jsonl:1: no JSON",
    ),
    "metrics that are text": (
        lambda run, precious: (run / "metrics.jsonl").write_text('{"round": 0, "peer": "p", "time/round": "1"}\n'),
        "metrics.jsonl:1: 'time/round' is '1', not a number",
    ),
    "versions of another type": (
        lambda run, precious: (run / "graph.yaml").write_text('#\n# versions: {"imports": [1]}\n' + GRAPH),
        "line 2: imports",
    ),
}
"""Changes that `store verify` finds though some commands never read them."""


@pytest.mark.parametrize("name", REFUSED_BY_ALL)
def test_every_command_refuses_it_by_name(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, expected = REFUSED_BY_ALL[name]
    change(place / "run", place / "precious")
    before = outside(place)
    for command in COMMANDS:
        code, said = said_by(command, capsys)
        assert code == StoreError.exit_code and expected in said, f"{command}: {said}"
        assert outside(place) == before, command


@pytest.mark.parametrize("name", REFUSED_BY_VERIFY)
def test_verify_finds_what_some_commands_would_trip_over(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, expected = REFUSED_BY_VERIFY[name]
    change(place / "run", place / "precious")
    before = outside(place)
    code, said = said_by("store verify run", capsys)
    assert code == StoreError.exit_code and expected in said
    for command in COMMANDS:
        said_by(command, capsys)  # ends, and raises nothing but what it reports
        for path in ("out.jsonl", "replayed", "exported"):
            shutil.rmtree(place / path, ignore_errors=True)
            (place / path).unlink(missing_ok=True)
        assert outside(place) == before, command


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "checkpoints/000001",
        "graph.yaml",
        "journal",
        "journal/00000001.wal",
        "metrics.jsonl",
        "notes.jsonl",
        "rollouts.zarr",
        "rollouts.zarr/tasks",
        "rollouts.zarr/tasks/id",
        "rollouts.zarr/tasks/zarr.json",
        "writer.lock",
    ],
)
def test_a_file_in_place_of_a_folder_and_the_other_way_round_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = place / "run" / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    code, said = said_by("store verify run", capsys)
    assert code == StoreError.exit_code and name in said
    for command in COMMANDS:
        said_by(command, capsys)  # raises nothing but what it reports


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, '{"a": "]]]", "b": ' * 10**5, '["' + "[" * 100 + '\\"'],
    ids=["lists", "objects", "text"],
)
def test_json_is_bounded_where_a_library_has_raised_the_limit_of_recursion(text: str) -> None:
    script = "import sys; sys.setrecursionlimit(10**6)\n"
    script += "from genrl_graph.store.strict_json import StoreError, parse_json\n"
    script += "try: parse_json(sys.stdin.read(), 'x')\nexcept StoreError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(("x: is nested more than 64 deep; ", "x: no JSON "))


def test_the_sound_run_passes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said_by("store verify run", capsys) == (0, ANY)
    assert said_by("store compact run", capsys)[0] == 0
    assert said_by("store verify run", capsys) == (0, ANY)


def test_a_listing_has_a_line_for_each_run_be_it_broken(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("text", "pipe", "elsewhere", "evil"):
        shutil.copytree(place / "run", place / name)
    (place / "text/metrics.jsonl").write_bytes(b'{"round": 0, "peer": "\xff"}\n')
    piped("graph.yaml")(place / "pipe", place / "precious")
    linked("journal")(place / "elsewhere", place / "precious")
    append_table({"{precious}": ONE})(place / "evil", place / "precious")
    code, said = said_by("runs .", capsys)
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert code == 0 and "finished" in lines["run"]
    for name, reason in (("text", "no JSON"), ("pipe", "is a pipe"), ("elsewhere", "is a link"), ("evil", "record 2")):
        assert "unreadable" in lines[f"{name}:"] and reason in lines[f"{name}:"]


@pytest.mark.parametrize("name", ["writer.lock", "journal/00000001.wal", "metrics.jsonl"])
def test_a_file_with_a_second_name_is_not_written(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.link(place / "run" / name, place / "precious/second")
    before = (place / "precious/second").read_bytes()
    code, said = said_by("resume run -q", capsys)
    assert code == StoreError.exit_code and "is a hard link, 2 names of one file" in said
    assert (place / "precious/second").read_bytes() == before


def test_a_half_written_file_that_is_a_link_goes_without_its_target(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run/rollouts.zarr/zarr.json.partial").symlink_to(place / "precious/file")
    code, said = said_by("store compact run", capsys)
    assert code == StoreError.exit_code and "zarr.json.partial: is a link" in said
    assert (place / "precious/file").read_text() == "mine"


def test_removing_a_folder_stops_at_a_link_in_it(tmp_path: Path) -> None:
    (tmp_path / "run/inner/deeper").mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run/inner/deeper/x").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="x: is a link"):
        (RunPath(tmp_path / "run") / "inner").remove_folder()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_stream_takes_no_more_memory_than_it_has(tmp_path: Path) -> None:
    """Rows that claim two billion nulls, or text of two gigabytes, are refused before memory is taken."""
    before = pa.total_allocated_bytes()
    folder = tmp_path / "run"
    with RunStore.create(folder, GRAPH, {}):
        pass
    pool = pa.default_memory_pool()
    for stream in (compressed, bad_offsets):
        table = pa.table({"x": ["a" * LENGTH], "round": pa.array([0], pa.int32()), "holder": ["p"]})
        data = stream(table)
        header = {"round": 0, "node": "n", "holder": "p", "facts": {}, "tables": [["x", len(data)]]}
        parts = pack([json.dumps(header).encode(), data], index=0, count=1)
        assert content_hash([*parts[2:-1]]) == parts[-1]
        (folder / "journal/00000000.wal").write_bytes(b"".join(parts))
        with pytest.raises(StoreError):
            RunStore.open(folder).groups()
    assert pool.max_memory() - before < 64 * 2**20


def test_a_read_takes_no_memory_for_chunks_that_are_missing(tmp_path: Path) -> None:
    array = ChunkedArray(RunPath(tmp_path), Leaf("x/values", "x/values", "float64"))
    for path, data in array.files(np.zeros(10), 0):
        if path.parent.names:
            path.parent.make_folder()
        path.write(data)
    with pytest.raises(StoreError, match="c/1: chunk is missing"):
        array.read(0, 2**60)
