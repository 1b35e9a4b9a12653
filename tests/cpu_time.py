"""`pytest --cpu-time`: processor seconds by test file, child processes included.

Unlike the wall-clock seconds of `--durations`, they are nearly the same on a busy machine.
A child counts once it has been waited for.
"""

import resource
from collections.abc import Iterator
from typing import Any

import pytest

SECONDS = pytest.StashKey[dict[str, float]]()
ELSEWHERE = "imports, collection, ends of processes"


def cpu_seconds() -> float:
    """Return user and system seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-time", type=int, default=0, metavar="N", help="show the N test files that cost most CPU time"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SECONDS] = {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add what a test and its fixtures cost to its file."""
    before = cpu_seconds()
    result = yield
    _add(item.config, {item.nodeid.partition("::")[0]: cpu_seconds() - before})
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    seconds = session.config.stash[SECONDS]
    if not session.config.pluginmanager.has_plugin("dsession"):  # the controller of pytest-xdist runs no test
        _add(session.config, {ELSEWHERE: cpu_seconds() - sum(seconds.values())})
    if hasattr(session.config, "workeroutput"):  # a worker hands its figures to the controller
        session.config.workeroutput["cpu_seconds"] = dict(seconds)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _add(node.config, getattr(node, "workeroutput", {}).get("cpu_seconds", {}))


def _add(config: pytest.Config, seconds: dict[str, float]) -> None:
    total = config.stash[SECONDS]
    for file, spent in seconds.items():
        total[file] = total.get(file, 0.0) + spent


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seconds, shown = config.stash[SECONDS], config.option.cpu_time
    if shown:
        terminalreporter.section(f"CPU seconds by file: {sum(seconds.values()):.0f} in all")
        for file, spent in sorted(seconds.items(), key=lambda entry: -entry[1])[:shown]:
            terminalreporter.line(f"{spent:8.1f}  {file}")
