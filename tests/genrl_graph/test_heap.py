"""What is freed goes back to the system, not too often."""

import pytest

from genrl_graph import heap


def test_memory_goes_back_at_most_once_a_second_where_seldom_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trimmed = [100.0], []
    monkeypatch.setattr(heap, "_TRIM", lambda kept: trimmed.append(now[0]))
    monkeypatch.setattr(heap, "_last", 0.0)
    monkeypatch.setattr(heap.time, "monotonic", lambda: now[0])
    for moment in (100.0, 100.5, 100.9, 101.1):
        now[0] = moment
        heap.release_memory(seldom=True)
    assert trimmed == [100.0, 101.1]
    heap.release_memory()
    assert trimmed == [100.0, 101.1, 101.1]


def test_another_c_library_keeps_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_TRIM", None)
    heap.release_memory()
    assert heap.of_libc("no_such_function") is None
