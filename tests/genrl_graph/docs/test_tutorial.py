"""The code blocks of the pages in `tutorial/` run, each page in a folder of its own."""

from pathlib import Path

import pytest
from code_blocks import pages_in, play_page


@pytest.mark.docs
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages_in("tutorial"))
def test_the_code_blocks_run(page: str, tmp_path: Path) -> None:
    play_page(page, tmp_path)
