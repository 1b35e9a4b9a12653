"""Heavy imports stay where they are used, imports form no circle, and no docstring opens with a question word.

The one-way imports between folders are contracts of import-linter, in pyproject.toml.
"""

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import grimp
import networkx as nx
from toys import TOY_GAME

import genrl_graph

PACKAGE = Path(genrl_graph.__file__).parent
HEAVY = {"torch", "transformers", "trl", "datasets", "hivemind", "zarr", "hydra", "tensorboardX", "reasoning_gym"}
HEAVY |= {"peft", "PIL", "httpx2", "wandb", "mlflow", "accelerate", "huggingface_hub", "matplotlib", "pygraphviz"}
FOLDERS = ("genrl_graph", "nodes", "runners", "tests")
QUESTION = re.compile(r"(What|Which|Where|Who|How|Whether)\b")
"""Openings of a docstring that name neither an action nor a thing."""


def exceptions() -> list[tuple[str, str]]:
    """Return the imports that the contract against circles ignores, as patterns of importer and imported module."""
    contracts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (lines,) = [contract["ignore_imports"] for contract in contracts if contract["type"] == "acyclic_siblings"]
    return [(importer, imported) for importer, _, imported in (line.partition(" -> ") for line in lines)]


def test_no_import_leads_back_also_inside_functions_and_across_kinds_of_nodes() -> None:
    modules = grimp.build_graph("genrl_graph", exclude_type_checking_imports=True, cache_dir=None)
    links = nx.DiGraph(
        (one, other) for one in modules.modules for other in modules.find_modules_directly_imported_by(one)
    )
    assert {"genrl_graph.nodes.library", "genrl_graph.runners.play"} <= set(links)  # the links are followed
    ignored = exceptions()
    assert len(ignored) <= 5
    assert {importer for importer, _ in ignored} == {"genrl_graph.dag.graph"}
    links.remove_edges_from(
        [(one, other) for one, other in links.edges if any(one == a and fnmatch(other, b) for a, b in ignored)]
    )
    assert [sorted(circle) for circle in nx.strongly_connected_components(links) if len(circle) > 1] == []


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after running some code."""
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


def test_a_check_of_a_shipped_game_loads_no_framework() -> None:
    games = sorted(map(str, (PACKAGE / "graphs").rglob("*.yaml")))
    code = (
        "import sys; from genrl_graph.cli import run_command; [run_command(['check', game]) for game in sys.argv[1:]]"
    )
    assert games
    assert not loaded_by(code, *games) & {"torch", "transformers", "trl"}


def test_the_help_lists_every_command_and_loads_no_node() -> None:
    code = "from genrl_graph.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & HEAVY


def questions(source: str) -> list[str]:
    """Return the docstrings of a module, those below a name included, that open with a question word."""
    alone = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    texts = [node.value.strip() for node in alone if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if QUESTION.match(text)]


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    root = PACKAGE.parent
    sources = {
        file.relative_to(root).as_posix(): file.read_text("utf-8")
        for folder in FOLDERS
        for file in sorted((root / folder).rglob("*.py"))
    }
    assert {name.partition("/")[0] for name in sources} == set(FOLDERS)  # each one is read
    assert questions('"""Whatever."""\ndef f():\n    """\n    How it ends."""') == ["How it ends."]
    assert questions('LIMIT = 1\n"""What it costs."""') == ["What it costs."]
    assert [(name, text) for name, source in sources.items() for text in questions(source)] == []


def test_defaults_of_params_are_named_so_that_type_checkers_see_them() -> None:
    """A type checker takes a param for required if its default is the first argument of `Field`."""
    positional = [
        f"{file.relative_to(PACKAGE.parent)}:{call.lineno}"
        for folder in ("genrl_graph", "nodes", "runners")
        for file in sorted((PACKAGE.parent / folder).rglob("*.py"))
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Field" and call.args
    ]
    assert positional == []
