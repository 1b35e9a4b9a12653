"""A run ends with what it skipped, in a line for each file and reason; with GENRL_GRAPH_NO_SKIPS=1 it fails.

CI sets that: there, everything can be tested.

`ALLOWED` names the tests (or whole files) that may be skipped even there, each with the reason.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ALLOWED: dict[str, str] = {}

CPUINFO = Path("/proc/cpuinfo")
if CPUINFO.exists() and "avx512bw" not in CPUINFO.read_text().split():
    ALLOWED |= dict.fromkeys(
        [
            "tests/nodes/policy/compute/test_onednn_linear.py",
            "tests/runners/tracking/test_memory.py::test_code_for_matrix_products_is_kept_for_so_many_shapes",
            "tests/runners/tracking/test_memory.py::test_what_the_variables_say_of_code_stays",
        ],
        "oneDNN has no products in bfloat16 without AVX-512",
    )


def is_allowed(nodeid: str) -> bool:
    """Return whether a test, the test that it is a case of, or its file is in `ALLOWED`."""
    return not {nodeid, nodeid.partition("[")[0], nodeid.partition("::")[0]}.isdisjoint(ALLOWED)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(refused=os.environ.get("GENRL_GRAPH_NO_SKIPS") == "1"))


class Skips:
    """Collects skipped tests and files, each with its reason; the run ends with them, and fails if they are refused."""

    def __init__(self, *, refused: bool) -> None:
        self.refused = refused
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

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["skips"] = self.reasons
            return (yield)
        if self.reasons and self.refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        result = yield
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            for line in self._lines():  # below pytest's own last line
                reporter.write_line(line, red=self.refused)
        return result

    def _lines(self) -> list[str]:
        """Return a line for each refused test, else one for all that a file leaves out for one reason."""
        if self.refused:
            skips = sorted(self.reasons.items())
            return [f"{nodeid}: skipped, but GENRL_GRAPH_NO_SKIPS=1: {reason}" for nodeid, reason in skips]
        counts = Counter((nodeid.partition("::")[0], reason) for nodeid, reason in self.reasons.items())
        return [f"left out: {count} of {file}: {reason}" for (file, reason), count in sorted(counts.items())]
