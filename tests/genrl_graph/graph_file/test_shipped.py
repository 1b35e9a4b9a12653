"""Every command that takes a graph finds shipped graphs by name, and nothing else by name."""

from pathlib import Path

import pytest

from genrl_graph import GraphError, load
from genrl_graph.cli import run_command
from genrl_graph.graph_file import shipped
from genrl_graph.graph_file.read import read

TINY = "graph: mine\nversion: 1\nnodes:\n  tasks: {type: source.list, params: {tasks: [{question: a, answer: b}]}}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize(
    "name", ["tiny", "tiny.yaml", "./tiny", "multistage_math/gsm8k", "multistage_math//gsm8k.yaml"]
)
def test_a_name_gives_the_shipped_graph(name: str) -> None:
    file = (shipped.FOLDER / name).with_suffix(".yaml")
    assert load(name) == load(file)
    assert load(name, ["run.rounds=7"]).run.rounds == 7


def test_every_shipped_graph_has_a_name_and_every_name_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    names = list(shipped.shipped_graphs())
    assert len(names) == len(list(shipped.FOLDER.rglob("*.yaml"))) > 20
    assert run_command(["graphs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(line.endswith((".", ":")) and len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["check", "tiny"], "tiny: ok (5 nodes"),
        (["plan", "tiny", "run.rounds=3"], "tiny: 5 nodes, 1 stage, 0 exchanges, 3 rounds"),
        (["draw", "games/chess"], "chess · 4 nodes"),
        (["diff", "tiny", "tiny.yaml"], ""),
        (["run", "tiny", "--dry", "-q"], ""),
    ],
)
def test_every_command_takes_a_name(arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 0
    assert capsys.readouterr().out.startswith(shown)


def test_a_run_and_its_replay_take_a_name(elsewhere: Path) -> None:
    options = ["run.rounds=1", "nodes.tasks.params.num_tasks=2", "nodes.answer.params.num_generations=2", "-q"]
    assert run_command(["run", "tiny", *options]) == 0
    same = [option for option in options if not option.startswith("run.")]
    assert run_command(["replay", "runs/tiny-1", "tiny", "-o", "again", *same]) == 0
    assert (elsewhere / "again" / "graph.yaml").is_file()


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml", "games/chess"])
def test_a_file_of_that_name_wins(name: str, elsewhere: Path) -> None:
    (elsewhere / name).parent.mkdir(exist_ok=True)
    (elsewhere / name).write_text(TINY)
    assert load(name).name == "mine"
    assert load("tiny_multistage").name == "tiny_multistage"


def test_a_folder_or_a_broken_link_of_that_name_wins(elsewhere: Path) -> None:
    (elsewhere / "tiny").mkdir()
    with pytest.raises(GraphError, match=r"^tiny:1:1: cannot be read: Is a directory"):
        load("tiny")
    (elsewhere / "quickstart").symlink_to("gone")
    with pytest.raises(GraphError, match=r"^quickstart:1:1: no such file"):
        load("quickstart")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tinny", "(did you mean 'tiny'?)"),
        ("gsm8k", "(did you mean 'multistage_math/gsm8k'?)"),
        ("graphs/games/chess.yaml", "(did you mean 'games/chess'?)"),
        ("my_gane", "(did you mean 'my_game.yaml'?)"),
        ("zzz", "of this name; looked"),
        ("README.md", "of this name; looked"),
        ("graph.schema.json", "of this name; looked"),
    ],
)
def test_a_name_of_nothing_says_where_it_was_looked_for(name: str, hint: str, elsewhere: Path) -> None:
    (elsewhere / "my_game.yaml").write_text(TINY)
    with pytest.raises(GraphError) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: no such file and no shipped graph of this name")
    assert hint in message
    assert f"looked in {(elsewhere / name).parent} and {shipped.FOLDER}; `genrl-graph graphs` lists" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["secret", "up/secret", "copy", "../secret", "games/../../secret", "{outside}/secret"])
def test_no_name_leads_out_of_the_shipped_folder(
    name: str, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "package" / "graphs", tmp_path / "package"
    (folder / "games").mkdir(parents=True)
    for file in (outside / "secret.yaml", folder / "open.yaml"):
        file.write_text(TINY)
    (folder / "up").symlink_to(outside)
    (folder / "copy.yaml").symlink_to(outside / "secret.yaml")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    assert list(shipped.shipped_graphs()) == ["open"]
    with pytest.raises(GraphError, match="no such file"):
        load(name.format(outside=outside))


def test_relative_data_is_read_beside_the_shipped_file() -> None:
    assert read(Path("tiny")).graph.dump().count(f"{shipped.FOLDER}/data/digit_sums.jsonl") == 1
