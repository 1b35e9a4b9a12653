"""A batch script of Slurm."""

from genrl_graph.runners.launch.job import PORT, RESTARTS, Job

FILE = "job.sbatch"


def slurm_files(job: Job) -> dict[str, str]:
    """Return the batch script: one torchrun agent a machine, requeued where a machine is lost."""
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.ranks * job.cpus}",
        *([f"--gpus-per-node={job.ranks * job.gpus}"] if job.gpus else []),
        *([f"--mem={job.machine_memory_gib}G"] if job.machine_memory_gib else []),
        f"--time={job.hours}:00:00",
        "--requeue",
        "--open-mode=append",
        f"--output={job.name}-%j.log",
    ]
    return {
        FILE: _SCRIPT.format(
            options="\n".join(f"#SBATCH {option}" for option in options),
            comments=job.head,
            cpus=job.cpus,
            ranks=job.ranks,
            port=PORT,
            restarts=RESTARTS,
            plays=job.plays,
        )
    }


_SCRIPT = """#!/bin/bash
{options}
{comments}
#
# Submit it with `sbatch job.sbatch` from a folder that all machines share: paths are relative to it. A job that is
# requeued, or submitted again, resumes its run. Add --partition, --account and the modules of your cluster here.
set -euo pipefail

export OMP_NUM_THREADS={cpus}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \\
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {ranks} --max-restarts {restarts} \\
  --rdzv-backend c10d --rdzv-endpoint "$head:{port}" --rdzv-id "$SLURM_JOB_ID" \\
  {plays}
"""
