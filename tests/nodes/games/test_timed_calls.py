"""Calls with a limit of time go on after a fork, in which threads are gone."""

import multiprocessing

from genrl_graph.nodes.games.timed_calls import TimedCalls


def test_a_fork_calls_in_a_thread_of_its_own() -> None:
    calls = TimedCalls()
    assert calls.call(lambda: 1, limit_s=10.0) == 1

    def in_child() -> None:
        assert calls.call(lambda: 2, limit_s=10.0) == 2

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(30)
    assert child.exitcode == 0
