"""With GENRL_GRAPH_NO_SKIPS=1, which CI sets, a skipped test fails the run: there, everything can be tested.

`ALLOWED` names the tests (or whole files) that may be skipped even there, each with the reason.
"""

import os
from typing import Any

import pytest

ALLOWED: dict[str, str] = {}


def is_allowed(nodeid: str) -> bool:
    """Return whether a test, the test that it is a case of, or its file is in `ALLOWED`."""
    return not {nodeid, nodeid.partition("[")[0], nodeid.partition("::")[0]}.isdisjoint(ALLOWED)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("GENRL_GRAPH_NO_SKIPS") == "1":
        config.pluginmanager.register(NoSkips())


class NoSkips:
    """Collects skipped tests and files, each with its reason, and fails the run if there are any."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self.pytest_collectreport(report)

    def pytest_collectreport(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.skipped and not is_allowed(report.nodeid):
            assert isinstance(report.longrepr, tuple)  # file, line, reason
            self.reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of pytest-xdist skipped: whole files it does not report otherwise."""
        self.reasons.update(getattr(node, "workeroutput", {}).get("skips", {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["skips"] = self.reasons
        elif self.reasons and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid, reason in sorted(self.reasons.items()):
            terminalreporter.line(f"{nodeid}: skipped, but GENRL_GRAPH_NO_SKIPS=1: {reason}", red=True)
