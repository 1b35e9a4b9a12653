"""`genrl-graph launch`: files that a launcher reads, with the ranks, the rendezvous and the needs of a job."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrl_graph.cli import run_command
from genrl_graph.store.run_store import RunStore

GAME = "tiny_multistage"
PLAYS = ["-m", "genrl_graph", "run", GAME, "run.rounds=3", "nodes.final.params.template=\"a 'b' $(c)\""]
ENDS = ["--runner", "torch", "-o", "runs/tiny_multistage", "--resume"]


READING = """
graph: reading
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: 0123456789, hidden_size: 16, layers: 1, heads: 2}, next: update}
nodes:
  tasks: {type: source.hf_dataset, params: {path: PATH, num_tasks: 1}}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 2}
  score: {type: reward.regex, inputs: {rollouts: answer}, params: {pattern: '(1)', compare: true}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
"""


def launched(target: str, out: Path, *options: str, code: int = 0) -> str:
    """Write the files of a target, and return the text of the only one."""
    arguments = ["launch", *PLAYS[3:], "--on", target, "-o", str(out), "--memory-gib", "3", *options]
    assert run_command(arguments) == code
    files = list(out.iterdir()) if code == 0 else []
    return "".join(file.read_text() for file in files)


def torchrun(script: str) -> list[str]:
    """Return the words of the torchrun command of a script, which bash can read."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    joined = script.replace("\\\n", " ")
    (line,) = [line for line in joined.splitlines() if "torchrun" in line and not line.startswith("#")]
    words = shlex.split(line)
    assert words[-len(PLAYS) - len(ENDS) :] == [*PLAYS, *ENDS]
    return words[words.index("torchrun") + 1 : -len(PLAYS) - len(ENDS)]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_slurm_gets_one_agent_a_machine_with_the_needs_of_its_ranks(tmp_path: Path) -> None:
    text = launched("slurm", tmp_path, "--ranks", "4", "--nodes", "2", "--gpus-per-rank", "1")
    lines = text.splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : 1 + len(options)] == [f"#SBATCH --{each}" for each in options], "Slurm stops at the first command"
    assert {"nodes=2", "ntasks-per-node=1", "cpus-per-task=8", "gpus-per-node=2", "mem=6G", "requeue"} <= set(options)
    words = torchrun(text)
    assert (option(words, "--nproc-per-node"), option(words, "--nnodes")) == ("2", "$SLURM_JOB_NUM_NODES")
    assert option(words, "--rdzv-endpoint") == "$head:29500"


def test_replicas_are_whole_groups_of_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ["launch", GAME, "run.peers=2", "run.replicas=3", "--on", "local", "--memory-gib", "3"]
    assert run_command([*graph, "-o", str(tmp_path / "all"), "--gpus-per-rank", "1"]) == 0
    script = (tmp_path / "all/job.sh").read_text()
    assert "--nproc-per-node 6 " in script and "--runner torch --backend nccl" in script
    assert "# tiny_multistage: 6 ranks on 1 machine; 3 ranks share the policies of a peer." in script
    assert run_command([*graph, "-o", str(tmp_path / "some"), "--ranks", "4"]) != 0
    assert "--ranks 4: are no whole groups of run.replicas: 3; give a multiple of it" in capsys.readouterr().err


def test_kubernetes_gets_an_indexed_job_and_the_service_that_names_its_pods(tmp_path: Path) -> None:
    text = launched(
        "kubernetes", tmp_path, "--ranks", "4", "--nodes", "2", "--gpus-per-rank", "1", "--image", "me/it:1"
    )
    service, job = yaml.safe_load_all(text)
    assert (service["kind"], job["kind"], job["spec"]["completionMode"]) == ("Service", "Job", "Indexed")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    pod = job["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert service["metadata"]["name"] == pod["spec"]["subdomain"] == "genrl-tiny-multistage"
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": 8, "memory": "6Gi", "nvidia.com/gpu": 2}
    assert (container["image"], container["command"]) == ("me/it:1", ["bash", "-c"])
    words = torchrun(container["args"][0])
    assert option(words, "--rdzv-endpoint") == "genrl-tiny-multistage-0.genrl-tiny-multistage:29500"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_skypilot_gets_a_task_whose_ranks_keep_their_machine(tmp_path: Path) -> None:
    text = launched("skypilot", tmp_path, "--ranks", "4", "--nodes", "2", "--gpus-per-rank", "1", "--gpu-type", "H100")
    task: dict[str, Any] = yaml.safe_load(text)
    assert (task["name"], task["num_nodes"], task["workdir"]) == ("tiny_multistage", 2, ".")
    assert task["resources"] == {"cpus": "8+", "memory": "6+", "accelerators": "H100:2"}
    words = torchrun(task["run"])
    assert option(words, "--node-rank") == "$SKYPILOT_NODE_RANK"
    assert option(words, "--master-addr") == "$head"


@pytest.mark.parametrize("target", ["local", "slurm", "skypilot", "kubernetes"])
def test_what_a_graph_file_names_stays_within_its_line(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: list[tuple[int, int]] = []
    for name in ("data", "data\ntouch it\r#\x1b[2J\u2028x"):
        folder = tmp_path / f"{len(counts)}"
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text('{"question": "1", "answer": "1"}\n')
        (folder / "game.yaml").write_text(READING.replace("PATH", json.dumps(name)))
        monkeypatch.chdir(folder)
        command = ["launch", "game.yaml", "--ranks", "2", "--on", target, "-o", "job", "--memory-gib", "1"]
        assert run_command(command) == 0
        (file,) = (folder / "job").iterdir()
        assert "# Reads on every machine: " in file.read_text()
        counts.append((len(file.read_text().splitlines()), len(capsys.readouterr().err.splitlines())))
    assert counts[0] == counts[1]


def test_the_head_names_the_servers_that_the_job_asks(tmp_path: Path) -> None:
    engine = "{type: policy.causal_lm, params: {model: some/model, engine: {kind: vllm, urls: [http://10.0.0.7:8000]}}"
    tiny = "{type: policy.tiny_lm, params: {alphabet: 0123456789, hidden_size: 16, layers: 1, heads: 2}"
    judge = "{type: reward.judge, inputs: {rollouts: answer}, params: {endpoint: http://10.0.0.8/v1, model: judge}}"
    regex = "{type: reward.regex, inputs: {rollouts: answer}, params: {pattern: '(1)', compare: true}}"
    text = READING.replace(tiny, engine).replace(regex, judge).replace("PATH", "some/data")
    (tmp_path / "game.yaml").write_text(text)
    command = ["launch", str(tmp_path / "game.yaml"), "--on", "local", "-o", str(tmp_path / "job"), "--memory-gib", "1"]
    assert run_command(command) == 0
    asked = re.findall(r"# Asks an endpoint that this does not start: (.*)", (tmp_path / "job/job.sh").read_text())
    assert sorted(asked) == ["http://10.0.0.7:8000", "http://10.0.0.8/v1"]


def test_what_cannot_be_is_refused_before_a_file_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launched("local", tmp_path / "made")
    for options, code, what in (
        (("--ranks", "3", "--nodes", "2"), 3, "--ranks 3: cannot be shared out evenly over --nodes 2"),
        (("--ranks", "4", "--nodes", "2"), 3, "--nodes 2: --on local starts ranks on one machine"),
        (("--ranks", "1"), 11, "wants 2 peers, but 1 play here"),
        (("--run", "a\nb"), 3, "has characters that no line of a script can hold"),
    ):
        capsys.readouterr()
        launched("local", tmp_path / "new", *options, code=code)
        assert what in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    launched("local", tmp_path / "made", code=3)
    assert "job.sh is there already, and may have been edited" in capsys.readouterr().err


@pytest.mark.long
def test_the_script_for_this_machine_plays_the_job_and_resumes_it(tmp_path: Path) -> None:
    small = ["nodes.tasks.params.num_tasks=2", "carry.policy.params.hidden_size=16", "run.trackers=[]"]
    for rounds in (1, 2):
        out = tmp_path / f"files{rounds}"
        arguments = ["launch", GAME, *small, f"run.rounds={rounds}", "--on", "local", "-o", str(out)]
        assert run_command([*arguments, "--cpus-per-rank", "1"]) == 0
        head = (out / "job.sh").read_text()
        assert re.search(r"Host memory of a rank: \d+ GiB \(high end of `plan --estimate`", head)  # of this machine
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3])}
        subprocess.run(["bash", out / "job.sh"], cwd=tmp_path, env=env, check=True, timeout=200)
    for peer in ("peer0000", "peer0001"):
        steps = RunStore.open(tmp_path / "runs/tiny_multistage" / peer).steps().to_pylist()
        assert {step["round"] for step in steps} == {0, 1}
