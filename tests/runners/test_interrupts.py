"""Runs of each runner that signals interrupt at random moments: they end, leave nothing behind, and resume."""

from pathlib import Path

import pytest
from interrupts import SHARES, SIGNALS, Bench, Interrupts, Tally

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", SHARES)
def test_an_interrupted_run_ends_in_time_and_resumes(kind: str, tmp_path: Path) -> None:
    tally = Tally()
    interrupts = Interrupts(Bench(kind, tmp_path, rounds=2), tmp_path, tally, seed=1)
    for signum in SIGNALS:
        interrupts.interrupt(signum)
    interrupts.end()
    assert tally.wrong == []
    assert tally.sent.total() == len(SIGNALS)
    assert tally.whole
