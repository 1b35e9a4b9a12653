"""A task of SkyPilot."""

import json

from genrl_graph.runners.launch.job import PORT, RESTARTS, Job
from genrl_graph.version import VERSION

FILE = "task.yaml"


def skypilot_files(job: Job, *, gpu_type: str) -> dict[str, str]:
    """Return the task: the working folder is copied to the machines, and each runs a torchrun agent.

    Machines share no disk there, so ranks keep their machine: the rendezvous is static.
    """
    resources = [f"cpus: {job.ranks * job.cpus}+"]
    if job.machine_memory_gib:
        resources.append(f"memory: {job.machine_memory_gib}+")
    if job.gpus:
        resources.append("accelerators: " + json.dumps(f"{gpu_type}:{job.ranks * job.gpus}"))
    return {
        FILE: _TASK.format(
            comments=job.head,
            name=json.dumps(job.name),
            nodes=job.nodes,
            resources="\n".join(f"  {line}" for line in resources),
            version=VERSION,
            cpus=job.cpus,
            ranks=job.ranks,
            port=PORT,
            restarts=RESTARTS,
            plays=job.plays,
        )
    }


_TASK = """{comments}
#
# Start it with `sky launch -c NAME task.yaml` from the folder to which paths are relative: it is copied to all
# machines. `sky exec NAME task.yaml` starts it again on them, and it resumes its run. The run folder is on their disks:
# copy it from there with rsync.
name: {name}
num_nodes: {nodes}
workdir: .
resources:
{resources}
setup: |
  pip install 'genrl-graph=={version}'
run: |
  set -euo pipefail
  export OMP_NUM_THREADS={cpus}
  head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  torchrun \\
    --nnodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK" --nproc-per-node {ranks} \\
    --master-addr "$head" --master-port {port} --max-restarts {restarts} \\
    {plays}
"""
