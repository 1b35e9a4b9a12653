"""A sweep folder from somebody else: nothing outside it is written, and what makes no sense is one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError
from genrl_graph.runners.sweep.search import Halving
from genrl_graph.runners.sweep.study import STUDY, Study
from genrl_graph.store.sweep_folder import Goal

PRECIOUS = "precious"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Make a folder of the user's, outside the sweep."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text(PRECIOUS)
    return folder


def logs_lead_out(sweep: Path, victim: Path) -> None:
    for log in (sweep / "logs").iterdir():
        log.unlink()
    (sweep / "logs").rmdir()
    (sweep / "logs").symlink_to(victim)


def log_leads_out(sweep: Path, victim: Path) -> None:
    (sweep / "logs" / "numbers-seed_1.log").symlink_to(victim / "file")


def log_is_a_second_name(sweep: Path, victim: Path) -> None:
    (sweep / "logs" / "numbers-seed_1.log").hardlink_to(victim / "file")


def cell_leads_out(sweep: Path, victim: Path) -> None:
    (sweep / "numbers-seed_1").symlink_to(victim)


@pytest.mark.parametrize("attack", [logs_lead_out, log_leads_out, log_is_a_second_name, cell_leads_out])
def test_links_in_place_of_what_a_sweep_writes_are_refused(
    game: Path,
    toys_file: Path,
    tmp_path: Path,
    victim: Path,
    capsys: pytest.CaptureFixture[str],
    attack: Callable[[Path, Path], None],
) -> None:
    command = ["sweep", str(game), "run.rounds=1", "--import", str(toys_file), "--jobs", "1", "-o", "s"]
    assert run_command([*command, "--seeds", "0:1"]) == 0
    attack(tmp_path / "s", victim)
    capsys.readouterr()
    assert run_command([*command, "--seeds", "0:2", "--resume"]) == 12
    assert "link" in capsys.readouterr().err.splitlines()[-1]
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("file", PRECIOUS)]


@pytest.mark.parametrize(
    "content",
    [b"\xff\n", b"[]\n", b"{}\n", b'{"op_code": 99, "worker_id": "a"}\n', b"[" * 100_000 + b"\n", b"{" * 2**26],
    ids=["not UTF-8", "a list", "no operation", "an unknown operation", "too deep", "too large"],
)
def test_a_search_that_no_sweep_wrote_is_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("optuna")
    (tmp_path / STUDY).write_bytes(content + b" ")
    with pytest.raises(StoreError, match=rf"{STUDY}: .*restore it from a copy") as error:
        Study(tmp_path, Goal(metric="x"), seed=0, keep=2)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_search_in_a_link_is_refused(tmp_path: Path, victim: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / STUDY).symlink_to(victim / "file")
    with pytest.raises(StoreError, match="is a link"):
        Study(tmp_path, Goal(metric="x"), seed=0, keep=2)
    assert (victim / "file").read_text() == PRECIOUS


def test_a_search_of_other_settings_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from genrl_graph.runners.sweep.cells import Axes

    study = Study(tmp_path, Goal(metric="x"), seed=0, keep=2)
    study.add("rate=1", {}, Axes((), ()))
    with pytest.raises(StoreError, match=r"'rate=1' is no setting of this sweep"):
        Halving(study, {}, (1, 2), {}, lambda cells, rounds: 0.0, lambda cells, rounds: None)
