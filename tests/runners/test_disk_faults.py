"""Every writer on a disk that refuses: one line and a documented code, and nothing is lost; readers need no writing."""

import errno

import pytest
from disk_faults import ERRORS, READERS, WRITERS, Bench, Fault, warm_up

pytestmark = pytest.mark.xdist_group("disk_faults")  # one process makes the run that its tests share

TRIED = {"run": 24, "rows.jsonl": 2, "draw.svg": 1, "profile": 40}
"""Writers of which one operation of so many is tried; `make faults` tries them all, of every writer."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("disk").resolve()
    (folder / "warm").mkdir()
    warm_up(folder / "warm")
    return Bench(folder)


def faults(bench: Bench, writer: str, every: int) -> list[Fault]:
    """Refuse each n-th operation, in turns with one of the errors."""
    places = bench.places(writer)[::every]
    errors = [ERRORS[number % len(ERRORS)] for number in range(len(places))]
    return [Fault(writer, at, error, lasting=error == errno.ENOSPC) for at, error in zip(places, errors, strict=True)]


@pytest.mark.parametrize(
    "writer", ["rows.jsonl", "draw.svg", *(pytest.param(name, marks=pytest.mark.long) for name in ("run", "profile"))]
)
def test_a_refused_operation_is_one_line_and_loses_nothing(bench: Bench, writer: str) -> None:
    tried = faults(bench, writer, TRIED[writer])
    assert tried
    assert [line for fault in tried for line in bench.fault(fault)] == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("writer", sorted(WRITERS.keys() - TRIED.keys()))
def test_the_first_and_a_middle_operation_of_every_other_writer(bench: Bench, writer: str) -> None:
    tried = faults(bench, writer, -(-len(bench.places(writer)) // 2))
    assert tried
    assert [line for fault in tried for line in bench.fault(fault)] == []


@pytest.mark.parametrize("command", READERS)
def test_reading_needs_no_writing(bench: Bench, command: str) -> None:
    assert bench.read_only(command) == []


@pytest.mark.parametrize("more", [2, 4, 7])
def test_too_few_open_files_are_one_line_that_says_what_to_do(bench: Bench, more: int) -> None:
    assert bench.few_files("run text.yaml -o run -q run.trackers=[]", more) == []
