"""Long work: a bar and then a line on a terminal, a line elsewhere, and nothing for short work."""

import io
import time
from typing import Any

import pytest
from rich.console import Console
from screens import screen

from genrl_graph.long_work import displaying, long_work
from genrl_graph.runners.tracking.waiting_bar import WaitingBar


def terminal(written: io.StringIO, **options: Any) -> Console:
    """A console that believes it is a terminal, 60 columns wide."""
    return Console(file=written, width=60, force_terminal=True, force_interactive=True, **options)


def test_what_takes_long_is_shown_under_one_bar_and_leaves_a_line_with_its_seconds() -> None:
    written = io.StringIO()
    with displaying(WaitingBar(terminal(written), after_s=0.1).show):
        with long_work("loading [policy]"):
            time.sleep(0.3)
            with long_work("unpacking a model with a name too long for its line"):
                time.sleep(0.3)
        with long_work("checking"):
            pass
    text = written.getvalue()
    assert "unpacking a model" in text and "…" in text
    assert all(len(line) <= 60 for line in text.replace("\r", "\n").splitlines() if "\x1b" not in line)
    assert screen(text) == ["unpacking a model with a name too long for its line: 0 s", "loading [policy]: 1 s"]


def test_a_pipe_gets_a_plain_line_of_what_takes_long_and_nothing_else() -> None:
    written = io.StringIO()
    bar = WaitingBar(Console(file=written, width=60), after_s=0.1)
    with bar.show("loading [policy]"), bar.show("unpacking"):
        time.sleep(0.3)
    with bar.show("checking"):
        pass
    assert sorted(written.getvalue().splitlines()) == ["loading [policy]", "unpacking"]


def test_a_quiet_console_shows_nothing() -> None:
    written = io.StringIO()
    with WaitingBar(terminal(written, quiet=True), after_s=0.05).show("loading"):
        time.sleep(0.2)
    assert written.getvalue() == ""


def test_work_that_fails_takes_its_bar_along_and_the_error_is_the_work_s() -> None:
    written = io.StringIO()
    bar = WaitingBar(terminal(written), after_s=0.05)
    with pytest.raises(ValueError, match="torn"), displaying(bar.show), long_work("loading"):
        time.sleep(0.2)
        raise ValueError("torn")
    assert screen(written.getvalue()) == []
    with bar.show("again"):
        time.sleep(0.2)
    assert screen(written.getvalue()) == ["again: 0 s"]


def test_work_without_anybody_who_shows_it_is_done_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with long_work("loading"):
        pass
    assert capfd.readouterr() == ("", "")
