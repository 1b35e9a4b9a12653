"""Let tests of launched jobs import the module beside them (`slurm_cluster`)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
