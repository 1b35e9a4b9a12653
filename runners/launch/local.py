"""A shell script that starts the ranks on this machine."""

from genrl_graph.errors import ParamError
from genrl_graph.runners.launch.job import RESTARTS, Job

FILE = "job.sh"


def local_files(job: Job) -> dict[str, str]:
    """Return a script that starts all ranks here; raises `ParamError` for several machines."""
    if job.nodes > 1:
        raise ParamError(f"--nodes {job.nodes}: --on local starts ranks on one machine; leave it out")
    return {
        FILE: _SCRIPT.format(
            comments=job.head,
            cpus=job.cpus,
            ranks=job.ranks,
            restarts=RESTARTS,
            plays=job.plays,
        )
    }


_SCRIPT = """#!/bin/bash
{comments}
#
# Start it with `bash job.sh` from the folder to which paths are relative; started again, it resumes its run.
set -euo pipefail

export OMP_NUM_THREADS={cpus}
exec torchrun --standalone --nproc-per-node {ranks} --max-restarts {restarts} \\
  {plays}
"""
