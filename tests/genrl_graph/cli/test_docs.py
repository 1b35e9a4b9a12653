"""The command that opens the documentation."""

from pathlib import Path

import pytest

from genrl_graph.cli import docs, run_command
from genrl_graph.errors import ParamError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(docs, "FOLDER", tmp_path)
    return tmp_path


def test_it_prints_where_the_built_site_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    types = folder / "site" / "reference" / "types"
    types.mkdir(parents=True)
    (folder / "site" / "index.html").touch()
    (types / "reward.html").write_text('<h2 id="reward.math">')
    assert run_command(["docs"]) == 0
    assert run_command(["docs", "reward.math"]) == 0
    start, page = capsys.readouterr().out.splitlines()
    assert start == (folder / "site" / "index.html").as_uri()
    assert page == f"{(types / 'reward.html').as_uri()}#reward.math"
    assert run_command(["docs", "reward.maths"]) == ParamError.exit_code
    assert "docs reward.maths: no type of this name is documented" in capsys.readouterr().err


def test_without_a_site_it_says_how_to_build_it_and_where_the_pages_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["docs"]) == 1
    error = capsys.readouterr().err
    assert "the documentation is not built; `make docs`" in error
    assert str(folder / "pages") in error
