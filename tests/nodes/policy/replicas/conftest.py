"""Let tests of replicas import the module of the runners' tests that starts processes (`ranks`)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "runners"))
