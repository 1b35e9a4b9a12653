"""Data sets of the hub give the text of their files, loaded whole or as streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_a_hub_s_files_give_their_text(tmp_path: Path) -> None:
    program = Path(__file__).parent / "hub_server.py"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "_offline"))}
    run = [sys.executable, str(program), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, env=env | {"HF_HUB_DISABLE_XET": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    expected = ["0012", "2024-01-05", "007"]
    assert answers == {f"own/{name} {streaming}": expected for name in ("sums", "typed") for streaming in (False, True)}
