"""The table of architectures is that of the survey, whose tests hold each verdict."""

import re
from pathlib import Path

from causal_architectures import ARCHITECTURES, REFUSED

PAGE = Path(__file__).parents[3] / "genrl_graph" / "docs" / "pages" / "reference" / "architectures.md"


def test_the_table_has_the_verdict_of_each_architecture_of_the_survey() -> None:
    text = PAGE.read_text()
    verdicts = dict(re.findall(r"^\| `([^`]+)` \| (plays|refused) \|", text, re.MULTILINE))
    kinds = {kind for kind, _ in ARCHITECTURES.values()}
    surveyed = dict.fromkeys(kinds, "plays") | dict.fromkeys(REFUSED, "refused")
    assert verdicts == surveyed
    assert list(verdicts) == sorted(surveyed)
    assert f"{len(kinds)} architectures play, {len(REFUSED)} are refused." in text
