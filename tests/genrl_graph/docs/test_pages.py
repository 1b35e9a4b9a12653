"""Pages show only what runs: those at the top, and that no folder of pages is forgotten."""

from pathlib import Path

import pytest
from code_blocks import PAGES, Block, blocks_of, check_yaml, is_played, pages_in, play, play_page, sections_of

from genrl_graph.errors import GraphError


@pytest.mark.docs
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages_in("."))
def test_the_code_blocks_run(page: str, tmp_path: Path) -> None:
    play_page(page, tmp_path)


def test_every_folder_with_code_has_its_tests() -> None:
    pages = [page.relative_to(PAGES) for page in PAGES.rglob("*.md") if is_played(blocks_of(page.read_text()))]
    tested = {file.stem.removeprefix("test_") for file in Path(__file__).parent.glob("test_*.py")}
    assert {page.parts[0] for page in pages if len(page.parts) > 1} <= tested


def test_blocks_are_read_without_their_margin_and_not_inside_others() -> None:
    page = "````text\n```bash\nexit 1\n```\n````\n\n1. First\n\n    ```python\n    # a.py\n    x = 1\n    ```\n"
    shown, script = blocks_of(page)
    assert shown == Block("text", "```bash\nexit 1\n```\n")
    assert shown.command is None
    assert (script.file_name, script.text) == ("a.py", "# a.py\nx = 1\n")


def test_sections_begin_at_headings_but_not_in_comments() -> None:
    page = "```bash\n## no heading\ntrue\n```\n## One\n```bash\ntrue\n```\n"
    assert {heading: len(blocks) for heading, blocks in sections_of(page).items()} == {"": 1, "One": 1}


def test_a_block_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="said\n\nwrong"):
        play([Block("bash", "echo said; echo wrong >&2; false\n")], tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        play([Block("python", "# bad.py\n1 / 0\n")], tmp_path)


def test_a_whole_game_must_pass_the_check(tmp_path: Path) -> None:
    check_yaml("inputs: {scored: [credit]}", tmp_path)
    with pytest.raises(GraphError, match=r"reward\.maths"):
        check_yaml("graph: x\nversion: 1\nnodes: {a: {type: reward.maths}}", tmp_path)
