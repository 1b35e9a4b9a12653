"""Types of rows that the commands show."""

import subprocess
import sys
from pathlib import Path

from genrl_graph import edge_types


def test_every_type_with_transcripts_is_known_to_the_commands() -> None:
    folder = Path(edge_types.__file__).parent
    shown = {
        f"genrl_graph.edge_types.{file.stem}" for file in folder.glob("*.py") if "def transcripts" in file.read_text()
    }
    code = "import sys, genrl_graph.inspection.judged; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown and shown <= set(loaded)
