"""Only files inside a folder are data, found by us."""

import json
from pathlib import Path

import pytest

from genrl_graph.cli import main
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.source.image_folder import ImageFolder

ROW = '{"question": "q", "answer": "%s"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two splits in folders of their own, beside a secret."""
    (tmp_path / "secret.jsonl").write_text(ROW % "secret")
    folder = tmp_path / "data"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        (folder / split / "part.jsonl").write_text(ROW % split)
    return folder


def answer(folder: Path, **params: object) -> str:
    source = HfDataset(path=str(folder), num_tasks=1, **params)
    source.prepare()
    return source.resolve("source.hf_dataset/0").answer


def test_splits_and_subsets_are_found_by_their_names(folder: Path) -> None:
    assert (answer(folder), answer(folder, split="test"), answer(folder, split="eval")) == ("train", "test", "test")
    (folder / "hard").mkdir()
    (folder / "hard" / "all.jsonl").write_text(ROW % "hard")
    assert answer(folder, name="hard") == "hard"
    for params, message in [
        ({"split": "dev"}, "no file of split 'dev'; it has test, train"),
        ({"name": "easy"}, "no folder 'easy' in it"),
        ({"name": ".."}, "no folder '..' in it"),
    ]:
        with pytest.raises(DataError, match=message):
            answer(folder, **params)
    (folder / "train" / "test-cases.jsonl").write_text(ROW % "both")
    with pytest.raises(DataError, match=r"test-cases.jsonl: its name says train and test"):
        answer(folder)


@pytest.mark.parametrize(
    "card",
    [
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '../secret.jsonl'\n---\n",
        "---\nlicense: mit\nconfigs: [{config_name: default, data_files: ../secret.jsonl}]\n---\n# Data\n",
        '---\nconfigs: [{"config_name": "default", "data_files": "https://example.org/x.jsonl"}]\n---\n',
        "---\nconfigs:\n- config_name: default\n  data_dir: ..\n---\n",
    ],
)
def test_a_card_that_names_files_is_refused(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card)
    with pytest.raises(DataError, match=r"README.md:\d: the card's data_(files|dir) is not followed"):
        answer(folder)
    assert answer(folder / "train") == "train"  # as the error advises


def test_a_card_that_names_none_is_welcome(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\nLoad it with data_files: train/part.jsonl\n")
    assert answer(folder) == "train"


def test_scripts_links_and_urls_are_refused(folder: Path) -> None:
    (folder / "train" / "more.jsonl").symlink_to(folder.parent / "secret.jsonl")
    with pytest.raises(DataError, match=r"more.jsonl: a link that leads out of"):
        answer(folder)
    (folder / "train" / "more.jsonl").unlink()
    (folder / "train" / "more").symlink_to(folder.parent)
    with pytest.raises(DataError, match="more: a link that leads out of"):
        answer(folder)
    (folder / "train" / "more").unlink()
    (folder / "train" / "same.jsonl").symlink_to(folder / "train" / "part.jsonl")
    assert answer(folder) == "train"
    (folder / "data.py").write_text("raise SystemExit")
    with pytest.raises(DataError, match=r"data.py: a loading script is never run"):
        answer(folder)
    for url in ("https://example.org/data.jsonl", "hf://datasets/a/b/c.csv", "file:///etc/x.jsonl"):
        with pytest.raises(ParamError, match="is a URL, which is not followed"):
            HfDataset(path=url)


def test_a_saved_data_set_reads_its_own_files_only(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"question": "q", "answer": "007"}]).save_to_disk(str(tmp_path / "saved"))
    assert answer(tmp_path / "saved") == "007"
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    (tmp_path / "elsewhere.arrow").write_bytes((tmp_path / "saved" / "data-00000-of-00001.arrow").read_bytes())
    for name in ("../elsewhere.arrow", str(tmp_path / "elsewhere.arrow"), "state.json", 5):
        (tmp_path / "saved" / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="is no Arrow file of this folder"):
            answer(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("[]")
    with pytest.raises(DataError, match="no state of a saved data set"):
        answer(tmp_path / "saved")


def test_captions_outside_an_image_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "images" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"a.txt: a link that leads out of the folder"):
        ImageFolder(path=str(tmp_path / "images"), size=(8, 8), num_tasks=1).prepare()


GAME = """\
graph: game
version: 1
carry:
  policy: {type: policy.tiny_lm, next: update}
nodes:
  tasks: {type: source.hf_dataset, params: {path: %s, num_tasks: 1}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}, params: {num_generations: 2}}
  score: {type: reward.math, inputs: {rollouts: answer}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
"""


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("gone.jsonl", None, "gone.jsonl: no such file or folder"),
        ("head.csv", "question,anwser\n", r"head.csv: no column 'answer' (did you mean 'anwser'?)"),
        ("good.csv", "question,answer\nbad row\n", "good.csv.yaml: ok"),
        ("owner/name", None, "name.yaml: ok"),
    ],
)
def test_check_looks_at_names_and_headers_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / path).write_text(text)
    game = tmp_path / f"{path.rpartition('/')[2]}.yaml"
    game.write_text(GAME % path)
    with pytest.raises(SystemExit) as ended:
        main(["check", str(game)])
    shown = capsys.readouterr().out
    assert message in shown and (ended.value.code == 0) == ("ok" in message)
    assert "ok" in message or ":6:" in shown  # the line of the node
