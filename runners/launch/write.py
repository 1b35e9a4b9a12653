"""Write the files of a job for one of the targets."""

from pathlib import Path

from genrl_graph.errors import ParamError
from genrl_graph.runners.launch.job import Job
from genrl_graph.runners.launch.kubernetes import kubernetes_files
from genrl_graph.runners.launch.local import local_files
from genrl_graph.runners.launch.skypilot import skypilot_files
from genrl_graph.runners.launch.slurm import slurm_files
from genrl_graph.store.durable import failed, write_out

STARTS = {"local": "bash", "slurm": "sbatch", "skypilot": "sky launch", "kubernetes": "kubectl apply -f"}


def write_job(job: Job, target: str, out: Path, *, gpu_type: str, image: str, claim: str) -> list[str]:
    """Write the files of a job into the folder `out`, and return the command that starts it.

    Raises `ParamError` where a file is there already: it may have been edited.
    """
    if target == "slurm":
        files = slurm_files(job)
    elif target == "skypilot":
        files = skypilot_files(job, gpu_type=gpu_type)
    elif target == "kubernetes":
        files = kubernetes_files(job, image=image, claim=claim)
    else:
        files = local_files(job)
    for name in files:
        if (out / name).exists():
            raise ParamError(f"-o {out}: {name} is there already, and may have been edited; name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ParamError(f"-o {out}: is a file; name a folder") from error
    except OSError as error:
        raise failed(out, "make the folder", error) from error
    for name, text in files.items():
        write_out(out / name, text.encode())
    return [*STARTS[target].split(), str(out / next(iter(files)))]
