"""Let tests of runners import the modules beside them: `crash`, `ranks`, `screens`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
