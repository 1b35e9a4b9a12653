"""A run ends with what it skipped, and with GENRL_GRAPH_NO_SKIPS=1 fails; in one process and over workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("case", [0, 1])
def test_of_a_page(case):
    pytest.skip("no browser: install one")

@pytest.mark.xfail
def test_that_is_expected_to_fail():
    raise AssertionError

def test_that_passes():
    pass
"""
FILE = 'import pytest\npytest.importorskip("nothing_of_this_name")\n'
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those of libraries take seconds to import
# A temporary folder of its own: pytest ends by removing those of earlier runs from the shared one, which takes minutes.
PLAIN = ("-p", "no:cacheprovider", "-p", "xdist", "--basetemp=temporary")
PAGE = "test_some.py::test_of_a_page"


def run_pytest(folder: Path, *arguments: str, no_skips: str, allowed: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Run the tests above; return the exit code and the lines below pytest's own last one."""
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_file.py").write_text(FILE)
    lines = [f"no_skips.ALLOWED[{name!r}] = 'only here'" for name in allowed]
    (folder / "conftest.py").write_text("\n".join(["import no_skips", 'pytest_plugins = ["no_skips"]', *lines]))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "GENRL_GRAPH_NO_SKIPS": no_skips, **ALONE}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *PLAIN, *arguments, "."],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    *_, counts, below = re.split(r"^(.*1 passed.*)\n", ran.stdout, flags=re.MULTILINE)
    assert "1 xfailed" in counts, ran.stdout + ran.stderr
    return ran.returncode, below.splitlines()


@pytest.mark.parametrize("workers", [(), ("--numprocesses", "2")], ids=["one process", "workers"])
def test_each_skip_is_named_with_its_reason(tmp_path: Path, workers: tuple[str, ...]) -> None:
    code, (file, first, second) = run_pytest(tmp_path, *workers, no_skips="1")
    assert code == 1
    assert file.startswith("test_file.py: ") and "nothing_of_this_name" in file
    assert first == f"{PAGE}[0]: skipped, but GENRL_GRAPH_NO_SKIPS=1: no browser: install one"
    assert second.startswith(f"{PAGE}[1]: ")


def test_named_ones_are_allowed(tmp_path: Path) -> None:
    code, (line,) = run_pytest(tmp_path, no_skips="1", allowed=("test_file.py", f"{PAGE}[0]"))
    assert code == 1 and line.startswith(f"{PAGE}[1]: ")
    assert run_pytest(tmp_path, no_skips="1", allowed=("test_file.py", PAGE)) == (0, [])


def test_elsewhere_a_run_ends_well_with_a_line_for_each_file_and_reason(tmp_path: Path) -> None:
    code, (file, cases) = run_pytest(tmp_path, no_skips="0")
    assert code == 0
    assert file.startswith("left out: 1 of test_file.py: ") and "nothing_of_this_name" in file
    assert cases == "left out: 2 of test_some.py: no browser: install one"
