"""Freed memory is returned to the operating system, at most once a second with `seldom`."""

import pytest

from genrl_graph import allocator


def test_memory_goes_back_at_most_once_a_second_where_seldom_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trimmed = [100.0], []
    monkeypatch.setattr(allocator, "_TRIM", lambda pad: trimmed.append(now[0]))
    monkeypatch.setattr(allocator, "_last", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for moment in (100.0, 100.5, 100.9, 101.1):
        now[0] = moment
        allocator.release_memory(seldom=True)
    assert trimmed == [100.0, 101.1]
    allocator.release_memory()
    assert trimmed == [100.0, 101.1, 101.1]


def test_another_c_library_keeps_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_TRIM", None)
    allocator.release_memory()
    assert allocator.of_libc("no_such_function") is None
