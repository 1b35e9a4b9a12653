"""Fuzzes what peers send: whatever the bytes, admission raises nothing, takes little memory and admits only what holds.

    python tests/fuzz/fuzz_admission.py --seconds 600

With atheris the fuzzer is libFuzzer, led by the branches of our code; without it, or with `--plain`, payloads of
honest peers are mutated at random. Either ends with exit code 1 and the bytes at fault in a file.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa

try:
    import atheris
except ImportError:
    atheris = None

OURS = [
    "wire",
    "wire_body",
    "frame",
    "frames",
    "rollout_flaws",
    "per_row",
    "runners.swarm.admission.rules",
    "runners.swarm.admission.verdict",
]


def instrumented() -> AbstractContextManager[object]:
    """Counts the branches of what is imported within, where there is someone to count."""
    if atheris is None or "--plain" in sys.argv:
        return nullcontext()
    counted: AbstractContextManager[object] = atheris.instrument_imports(
        include=[f"genrl_graph.{name}" for name in OURS]
    )
    return counted


with instrumented():
    from genrl_graph import Frame, Log, Rollouts, TaskBook, Tasks, score
    from genrl_graph.arrow.row_sums import most_elements, row_bytes
    from genrl_graph.contract import registry
    from genrl_graph.contract.node import Exchange
    from genrl_graph.dag.schedule import compile_graph
    from genrl_graph.runners.swarm.admission.rules import Admission, makers
    from genrl_graph.runners.swarm.admission.verdict import MOST_REFUSALS, PAYLOAD, refusal_columns
    from genrl_graph.seeds import rollout_id
    from genrl_graph.wire.packet import HEAD, MAGIC, PLAIN, VERSION, encode

registry.import_file(Path(__file__).resolve().parents[1] / "toys.py")
from toys import Moves, ToyPolicy, toy_game  # noqa: E402  # they are there from here on

SCHEDULE = compile_graph(toy_game())
NODE = SCHEDULE.nodes["answers"].model_copy(update={"max_rows": 64, "max_row_kb": 16, "max_payload_mb": 1})
TASKS = TaskBook({"tasks": SCHEDULE.nodes["tasks"]})  # type: ignore[dict-item]
SENDER = "peer0001"
MOST_MEMORY_KB = 512 * 2**10


def tasks() -> Tasks:
    made: Tasks = SCHEDULE.nodes["tasks"].run(rng=np.random.default_rng(0), round=0)  # type: ignore[attr-defined]
    return made


def rollouts(peer: str) -> Rollouts:
    made: Rollouts = SCHEDULE.nodes["answer"].run(  # type: ignore[attr-defined]
        tasks(), ToyPolicy("policy", 3), rng=np.random.default_rng(1), log=Log(), round=0, peer=peer
    )
    return made


def scored(peer: str) -> Rollouts:
    rows = rollouts(peer)
    return score(rows, {"right": np.arange(len(rows))})


def moves(rows: int) -> Moves:
    columns = {
        "id": [f"møve{at}" for at in range(rows)],
        "value": list(range(rows)),
        "path": [[at] for at in range(rows)],
    }
    return Moves.from_columns(columns | {"board": np.ones((rows, 2, 3), np.float32)})


OFFERS: list[tuple[Frame, Frame]] = [  # what we offer and what an honest peer does
    (rollouts("peer0000"), rollouts(SENDER)),
    (rollouts("peer0000").take([]), rollouts(SENDER)),
    (scored("peer0000"), scored(SENDER)),
    (tasks(), tasks()),
    (moves(2), moves(2)),
    (moves(0), moves(3)),
]


def plain(data: bytes) -> tuple[bytes, bytes]:
    """The header and the unpacked body of a payload."""
    _, _, codec, size, _, body_bytes = HEAD.unpack_from(data)
    header, body = data[HEAD.size : HEAD.size + size], data[HEAD.size + size :]
    unpacked = body if codec == PLAIN else pa.Codec("zstd").decompress(body, body_bytes, asbytes=True)
    return header, unpacked


HONEST = [encode(sent) for _, sent in OFFERS]
PARTS = [plain(data) for data in HONEST]


def seeds() -> Iterator[bytes]:
    """Inputs that are admitted: one byte says which offer it meets and what the rest is."""
    for at, (data, (header, body)) in enumerate(zip(HONEST, PARTS, strict=True)):
        yield bytes([at]) + data
        yield bytes([at + 64]) + body
        yield bytes([at + 128]) + header


def payload_of(given: bytes) -> tuple[int, bytes]:
    """The offer and the payload that an input stands for: as it is, or a body or header in an honest payload."""
    which, rest = (given[0], given[1:]) if given else (0, b"")
    at = which % 64 % len(OFFERS)
    header, body = PARTS[at]
    if which < 64:
        return at, rest
    header, body = (header, rest) if which < 128 else (rest, body)
    return at, HEAD.pack(MAGIC, VERSION, PLAIN, len(header), len(body), len(body)) + header + body


def target(given: bytes) -> None:
    """Fails where a payload does what none may."""
    at, payload = payload_of(given)
    like = OFFERS[at][0]
    assert isinstance(NODE, Exchange)
    desk = Admission(NODE, makers(SCHEDULE, "answers"))
    admitted = desk.receive(
        payload, like=like, sender=SENDER, announced=0, round=0, tasks=TASKS, vocabularies={"toy": 200}
    )
    told = refusal_columns(admitted.refusals)
    assert len(admitted.refusals) <= MOST_REFUSALS
    assert all(len(text) <= 320 for name in ("id", "rule", "value") for text in told.get(name, []))
    assert all(text.isprintable() for name in ("id", "rule", "value") for text in told.get(name, []))
    if PAYLOAD not in told.get("row", []):
        assert len(admitted.rows) + admitted.refused == admitted.offered <= NODE.max_rows
    if len(admitted.rows):
        hold(admitted.rows, like)


def hold(rows: Frame, like: Frame) -> None:
    """Fails where rows break a rule, told in other words than those of the admission."""
    rows.table.validate(full=True)
    assert rows.edge_type == like.edge_type and rows.table.column_names == like.table.column_names
    assert isinstance(NODE, Exchange)
    assert row_bytes(rows.table).max() <= NODE.limits.max_row_bytes
    assert most_elements(rows.table).max() <= NODE.limits.max_list
    assert not len(like) or rows.table.schema == like.table.schema
    for row in rows.rows() if isinstance(rows, Rollouts) else ():
        assert (row["peer"], row["round"], row["node"], row["stage"]) == (SENDER, 0, "answer", 0)
        assert len(row["completion_ids"]) == len(row["completion_mask"]) == len(row["logprobs"])
        assert np.isfinite([row["temperature"], *row["logprobs"]]).all()
        assert all(0 <= token < 200 for name in ("prompt_ids", "completion_ids") for token in row[name])
        assert TASKS[row["task_id"]].answer and row["finish_reason"] in ("stop", "length", "failed")
        named = {name: row[name] for name in ("peer", "round", "node", "task_id", "parent_ids", "sample")}
        named |= {name: np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids")}
        assert row["id"] == rollout_id(protocol=SCHEDULE.protocol, **named)
    for row in rows.rows() if isinstance(rows, Tasks) else ():
        assert TASKS[row["id"]].answer == row["answer"]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One step away from some bytes."""
    at, to = sorted(rng.choices(range(len(data) + 1), k=2))
    if (how := rng.randrange(6)) == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if how == 1:
        return data[:at] + data[to:]
    if how == 2:
        return data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
    if how == 3:
        return data[:to] + data[at : min(to, at + 4096)] + data[to:]
    if how == 4:
        value = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, rng.getrandbits(32)]).to_bytes(4, "little")
        return data[:at] + value + data[at + 4 :]
    other = rng.choice(HONEST)
    return data[:at] + other[rng.randrange(len(other)) :][: to - at] + data[to:]


def fuzz_plainly(target: Callable[[bytes], None], *, seconds: float, runs: int | None, seed: int) -> int:
    """Mutates honest payloads until the time is up; the number of inputs that were tried."""
    rng, honest, tried = random.Random(seed), list(seeds()), 0
    started = time.monotonic()
    while time.monotonic() < started + seconds and (runs is None or tried < runs):
        given = rng.choice(honest)
        for _ in range(rng.choice([0, 1, 1, 2, 4, 8])):
            given = given[:1] + mutate(rng, given[1:])
        try:
            target(given)
        except BaseException:
            kept = Path(tempfile.gettempdir()) / "fuzz_admission_failed"
            kept.write_bytes(given)
            print(f"failed on the bytes in {kept}, input {tried} of seed {seed}", file=sys.stderr)
            raise
        tried += 1
    return tried


def fuzz_with_atheris(seconds: float) -> None:
    """Hands over to libFuzzer, which ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        kept = Path(tempfile.gettempdir()) / "fuzz_admission_"
        options = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=20000", "-print_final_stats=1"]
        atheris.Setup(
            [sys.argv[0], folder, f"-max_total_time={seconds:.0f}", f"-artifact_prefix={kept}", *options], target
        )
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--plain", action="store_true", help="mutate at random, also where atheris is installed")
    parser.add_argument("--runs", type=int, help="end after so many inputs (plain)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (plain)")
    options = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for given in seeds():
        target(given)
    if atheris is not None and not options.plain:
        fuzz_with_atheris(options.seconds)
    tried = fuzz_plainly(target, seconds=options.seconds, runs=options.runs, seed=options.seed)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more < MOST_MEMORY_KB, f"memory grew by {more} kB"
    print(f"{tried} inputs, no failure, {more / 1024:.0f} MiB more memory at most")


if __name__ == "__main__":
    main()
