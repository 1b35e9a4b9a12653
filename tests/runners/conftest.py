"""Let tests of runners import the modules beside them (`crash`, `ranks`, `screens`) and the fuzzer of run folders."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "fuzz")]
