"""The registry: types from classes, packages and scripts, and errors for two types of one name."""

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from toys import Draw

from genrl_graph import R, Select
from genrl_graph.contract import registry
from genrl_graph.errors import GraphError, NodeError
from genrl_graph.messages import did_you_mean

NODE = """\
from genrl_graph import R, Reward, Scored, score

class Loud(Reward, name="{name}"):
    '''Pays for capitals.'''
    def run(self, rollouts: R) -> Scored[R]:
        return score(rollouts, {{"loud": [float(t.isupper()) for t in rollouts.values("completion")]}})
"""


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_the_library_and_what_was_defined_here_are_known() -> None:
    assert registry.lookup("generate.toy_draw") is Draw
    assert registry.lookup("exchange.gather") is not None
    assert registry.lookup("generate.nothing") is None
    assert list(registry.types()) == sorted(registry.types())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("critique_s", " (did you mean 'critiques'?)"), ("zzz", ""), ("", ""), ("Answer", " (did you mean 'answer'?)")],
)
def test_a_close_name_is_proposed(name: str, hint: str) -> None:
    assert did_you_mean(name, ["answer", "critiques"]) == hint


def define(module: str, qualname: str) -> None:
    class Cell(Select, name="test_cell"):
        __module__ = module
        __qualname__ = qualname

        def run(self, rows: R) -> R:
            return rows


def test_a_notebook_cell_that_runs_twice_replaces_its_class() -> None:
    define("__main__", "Cell")
    first = registry.lookup("select.test_cell")
    define("__main__", "Cell")
    assert registry.lookup("select.test_cell") not in (None, first)
    with pytest.raises(
        NodeError, match=r"select.test_cell: declared twice, by __main__.Cell and by other.Cell; rename"
    ):
        define("other", "Cell")


def test_a_script_defines_types_and_its_hash_is_known(tmp_path: Path) -> None:
    path = script(tmp_path, "loud_one.py", NODE.format(name="loud_one"))
    assert registry.import_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    first = registry.lookup("reward.loud_one")
    assert first is not None
    registry.import_file(path)
    assert registry.lookup("reward.loud_one") is first  # the same script is not run again
    path.write_text(NODE.format(name="loud_one") + "\n")
    registry.import_file(path)
    assert registry.lookup("reward.loud_one") is not first


def test_a_second_script_may_not_take_the_name_of_a_type(tmp_path: Path) -> None:
    registry.import_file(script(tmp_path, "loud_two.py", NODE.format(name="loud_two")))
    with pytest.raises(NodeError, match=r"--import .*loud_three.py: reward.loud_two: declared twice, by loud_two.Loud"):
        registry.import_file(script(tmp_path, "loud_three.py", NODE.format(name="loud_two")))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "No such file or directory; name a Python file"),
        ("notes.txt", "hello", "not a Python file; name one that ends in .py"),
        ("syntax.py", "def (:", "SyntaxError: invalid syntax"),
        ("raises.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("leaves.py", "import sys; sys.exit(0)", "SystemExit: 0"),
        ("lacks.py", "import no_such_package_at_all", "ModuleNotFoundError: No module named"),
        ("json.py", "x = 1", "there is another module named 'json'; rename the file"),
        ("torch.py", "x = 1", "there is another module named 'torch'; rename the file"),
        ("breaks.py", "from genrl_graph import Select\nclass A(Select, name='b'): pass", "select.b: has no `run`"),
    ],
)
def test_a_script_that_cannot_be_used_is_told_by_its_path(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    path = tmp_path / name if text is None else script(tmp_path, name, text)
    modules = set(sys.modules)
    with pytest.raises((GraphError, NodeError), match=message) as caught:
        registry.import_file(path)
    assert str(caught.value).startswith(f"--import {path}: ")
    assert set(sys.modules) - modules <= {"syntax"} - {"syntax"}


def test_a_folder_is_no_script(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="Is a directory"):
        registry.import_file(tmp_path)


def install(folder: Path, text: str) -> None:
    """Write the files that `pip install` leaves for a package with an entry point."""
    (folder / "party_nodes.py").write_text(text)
    info = folder / "party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[genrl_graph.nodes]\nparty = party_nodes\n")


def nodes_command(folder: Path, type_name: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "genrl_graph", "nodes", type_name]
    return subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)


def test_an_installed_package_brings_its_types(tmp_path: Path) -> None:
    install(tmp_path, NODE.format(name="party"))
    done = nodes_command(tmp_path, "reward.party")
    assert done.returncode == 0, done.stderr
    assert "Pays for capitals." in done.stdout


def test_an_installed_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    install(tmp_path, "import no_such_package_at_all")
    done = nodes_command(tmp_path, "reward.party")
    assert done.returncode == NodeError.exit_code
    assert "the nodes of party (party_nodes) cannot be imported: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr
