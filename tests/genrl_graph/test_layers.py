"""Imports run one way, genrl_graph <- nodes <- runners <- CLI, and what is heavy is imported where it is used."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import TOY_GAME

import genrl_graph

PACKAGE = Path(genrl_graph.__file__).parent
HEAVY = {"torch", "transformers", "trl", "datasets", "hivemind", "zarr", "hydra", "tensorboardX", "reasoning_gym"}
HEAVY |= {"peft", "PIL", "httpx2", "wandb", "mlflow", "accelerate", "huggingface_hub", "matplotlib", "pygraphviz"}
LAYERS = ("nodes", "runners")


def modules() -> dict[str, Path]:
    """All our modules by the name that they are imported under."""
    found = {}
    folders = [PACKAGE / "drawing", *(PACKAGE / layer for layer in LAYERS)]
    for path in [*PACKAGE.glob("*.py"), *(p for folder in folders for p in folder.rglob("*.py"))]:
        parts = ("genrl_graph", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def layer(name: str) -> str:
    part = name.split(".")[1] if "." in name else ""
    return part if part in LAYERS else "cli" if part in ("cli", "__main__") else "core"


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """The modules that a file imports, at its top or (`lazy`) inside functions; not those for type checkers."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), False)]
    while todo:
        node, inside = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import) and inside == lazy:
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and inside == lazy:
            assert node.module is not None
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        inner = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        todo.extend((child, inner) for child in ast.iter_child_nodes(node))


def ours(path: Path, *, lazy: bool) -> set[str]:
    return {name for name in imports(path, lazy=lazy) if name.split(".")[0] == "genrl_graph"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    order = ["core", "nodes", "runners", "cli"]
    rank = order.index(layer(name))
    for imported in ours(MODULES[name], lazy=False):
        assert order.index(layer(imported)) <= rank, f"{name} imports {imported}"
    for imported in ours(MODULES[name], lazy=True):
        allowed = name in ("genrl_graph", "genrl_graph.cli") or order.index(layer(imported)) <= rank
        assert allowed, f"{name} imports {imported} inside a function"


@pytest.mark.parametrize("name", MODULES)
def test_the_short_names_of_the_folders_are_never_imported(name: str) -> None:
    every = {*imports(MODULES[name], lazy=False), *imports(MODULES[name], lazy=True)}
    assert not {imported.split(".")[0] for imported in every} & {"nodes", "runners", "graphs", "pickle"}


def loaded_with(*names: str) -> set[str]:
    """Our modules that are imported together with these."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in found or name not in MODULES:
            continue
        found.add(name)
        parents = [name.rsplit(".", at)[0] for at in range(1, name.count(".") + 1)]
        todo += [*ours(MODULES[name], lazy=False), *parents]
    return found


def test_what_a_check_imports_imports_nothing_heavy() -> None:
    started = loaded_with("genrl_graph", "genrl_graph.cli", "genrl_graph.spec", "genrl_graph.nodes.library")
    assert {"genrl_graph.check", "genrl_graph.node", "genrl_graph.nodes.exchange.gather"} <= started | {
        "genrl_graph.check"
    }
    for name in sorted(started):
        heavy = {imported.split(".")[0] for imported in imports(MODULES[name], lazy=False)} & HEAVY
        assert not heavy, f"{name} imports {', '.join(heavy)} at its top"


def test_the_core_never_imports_a_framework_at_its_top() -> None:
    for name, path in MODULES.items():
        if layer(name) == "core":
            heavy = {imported.split(".")[0] for imported in imports(path, lazy=False)} & {
                "torch",
                "transformers",
                "trl",
            }
            assert not heavy, f"{name} imports {', '.join(heavy)}"


def loaded_by(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    code += "\nimport sys; print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import genrl_graph") & (HEAVY | {"networkx", "rich"})


def test_a_check_loads_the_nodes_but_no_framework(tmp_path: Path, toys_file: Path) -> None:
    game = tmp_path / "game.yaml"
    game.write_text(TOY_GAME)
    code = "import sys; from genrl_graph.cli import run_command; assert run_command(sys.argv[1:]) == 0"
    for command in ("check", "plan"):
        loaded = loaded_by(code, command, str(game), "--import", str(toys_file))
        assert {"genrl_graph", "toys"} <= loaded
        assert not loaded & (HEAVY - {"hydra"})


CHECKS = """
import json, sys
from contextlib import redirect_stdout
from genrl_graph.cli import run_command

loaded = {}
for game in sys.argv[1:]:
    with redirect_stdout(sys.stderr):
        run_command(["check", game])
    loaded[game] = sorted({"torch", "transformers", "trl"} & set(sys.modules))
print(json.dumps(loaded))
"""
GAMES = sorted(map(str, (PACKAGE / "graphs").rglob("*.yaml")))


@pytest.fixture(scope="module")
def frameworks() -> dict[str, list[str]]:
    """The frameworks that are loaded once a shipped game was checked; one fresh process checks all, in order."""
    done = subprocess.run([sys.executable, "-c", CHECKS, *GAMES], capture_output=True, text=True, check=True)
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize("game", GAMES, ids=lambda path: Path(path).name)
def test_a_check_of_a_shipped_game_loads_no_framework(game: str, frameworks: dict[str, list[str]]) -> None:
    assert frameworks[game] == []


def test_the_help_lists_every_command_and_loads_no_node() -> None:
    code = "from genrl_graph.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & HEAVY
