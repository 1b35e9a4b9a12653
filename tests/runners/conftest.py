"""Tests of runners import the harness `crash` that stands beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
