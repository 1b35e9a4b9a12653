"""A job of Kubernetes, with the service by which its pods find each other."""

import json
import re

from genrl_graph.runners.launch.job import PORT, RESTARTS, Job

FILE = "job.yaml"
LONGEST_NAME = 40  # pods add an index, and a name of DNS has 63 characters at most


def kubernetes_files(job: Job, *, image: str, claim: str) -> dict[str, str]:
    """Return an indexed job with one pod a machine, whose container runs a torchrun agent and is restarted.

    All pods mount the volume claim `claim`, which holds graph, data and runs.
    """
    limits = [f"nvidia.com/gpu: {job.ranks * job.gpus}"] if job.gpus else []
    requests = [f"cpu: {job.ranks * job.cpus}"]
    if job.machine_memory_gib:
        requests.append(f"memory: {job.machine_memory_gib}Gi")
    return {
        FILE: _JOB.format(
            comments=job.head,
            name=f"genrl-{re.sub(r'[^a-z0-9]+', '-', job.name.lower())}"[:LONGEST_NAME].strip("-"),
            nodes=job.nodes,
            seconds=3600 * job.hours,
            image=json.dumps(image),
            claim=json.dumps(claim),
            requests="\n".join(f"              {line}" for line in (*requests, *limits)),
            limits="".join(f"            limits:\n              {line}\n" for line in limits),
            cpus=job.cpus,
            ranks=job.ranks,
            port=PORT,
            restarts=RESTARTS,
            plays=job.plays,
        )
    }


_JOB = """{comments}
#
# Start it with `kubectl apply -f job.yaml`. The image has genrl-graph installed. The claim is a volume that all pods
# can write (ReadWriteMany), with the graph and its data: paths are relative to it. A pod that dies is started again,
# and the run resumes.
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    app: {name}
  ports:
    - name: rendezvous
      port: {port}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completions: {nodes}
  parallelism: {nodes}
  completionMode: Indexed
  backoffLimit: 20
  activeDeadlineSeconds: {seconds}
  template:
    metadata:
      labels:
        app: {name}
    spec:
      subdomain: {name}
      restartPolicy: OnFailure
      containers:
        - name: ranks
          image: {image}
          workingDir: /work
          env:
            - name: OMP_NUM_THREADS
              value: "{cpus}"
          command: [bash, -c]
          args:
            - |
              exec torchrun \\
                --nnodes {nodes} --nproc-per-node {ranks} --max-restarts {restarts} \\
                --rdzv-backend c10d --rdzv-endpoint {name}-0.{name}:{port} --rdzv-id {name} \\
                {plays}
          resources:
            requests:
{requests}
{limits}          volumeMounts:
            - name: work
              mountPath: /work
            - name: shared-memory
              mountPath: /dev/shm
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: {claim}
        - name: shared-memory
          emptyDir:
            medium: Memory
"""
