"""The torch runner: ranks are the peers of a local run, exchange rows, and resume together."""

import json
import signal
from pathlib import Path

import pytest
from ranks import CUT, ROOT, Ended, digests_of, free_port, play_ranks, rows_of, start, wait
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from genrl_graph.cli import run_command
from genrl_graph.errors import ExchangeTimeout, ParamError
from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play
from genrl_graph.runners.torchrun import TorchRunner
from genrl_graph.store.run_folder import read_graph

pytestmark = pytest.mark.xdist_group("torchrun")  # one process makes what its tests share

TINY = ROOT / "graphs/tiny_multistage.yaml"
ROUNDS = 4
PEERS = ("peer0000", "peer0001")


def all_well(ended: list[Ended]) -> None:
    for process in ended:
        assert process.code == 0, process.text


def same_as_local(local: Path, run: Path) -> None:
    """Every row of every group and every digest, of both peers."""
    for peer in PEERS:
        here, there = rows_of(local, peer), rows_of(run / peer, peer)
        assert here.keys() == there.keys()
        for group, rows in here.items():
            assert rows.equals(there[group]), (peer, group)
        assert digests_of(local, peer) == digests_of(run / peer, peer)
        assert len(digests_of(local, peer)) == ROUNDS


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "run"
    play(read(TINY).graph, out=folder, rounds=ROUNDS, quiet=True, threads=1)
    return folder


def test_ranks_play_what_the_peers_of_one_process_play(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = play_ranks(["run", str(TINY), "-o", str(tmp_path / "run"), f"run.rounds={ROUNDS}"], own=[[], []])
    all_well(ended)
    same_as_local(local, tmp_path / "run")
    assert "round 4/4" in ended[0].text
    assert ended[1].text == "", "only the first rank speaks"
    assert (tmp_path / "run/peer0001/metrics.jsonl").read_text().count('"peer": "peer0001"') == ROUNDS
    before = sorted((tmp_path / "run").iterdir())
    swarm = ["--runner", "swarm", "--peer-name", PEERS[0]]
    assert run_command(["resume", str(tmp_path / "run"), "run.rounds=9", *swarm]) == 3
    assert "was played by torchrun; resume it with `torchrun --nproc-per-node 2" in capsys.readouterr().err
    assert sorted((tmp_path / "run").iterdir()) == before, "not even a key is left"


@pytest.mark.long
def test_a_rank_that_dies_ends_the_job_and_all_go_on_to_the_same_bits(local: Path, tmp_path: Path) -> None:
    peer, commit = 1, 22
    (tmp_path / "cut.py").write_text(CUT)
    arguments = ["run", str(TINY), "-o", str(tmp_path / "run"), f"run.rounds={ROUNDS}", "run.checkpoint_every=1"]
    arguments += ["--import", str(tmp_path / "cut.py"), "--resume"]
    env = [{"CUT_AT": str(commit if rank == peer else 0)} for rank in range(2)]
    cut = play_ranks(arguments, own=[[], []], env=env)
    assert cut[peer].code == -signal.SIGKILL
    assert cut[1 - peer].code == 11
    assert "a rank is gone" in cut[1 - peer].text
    all_well(play_ranks(arguments, own=[[], []]))
    same_as_local(local, tmp_path / "run")


@pytest.mark.long
def test_ranks_that_sample_ahead_play_what_one_process_plays_and_go_on_after_a_death(tmp_path: Path) -> None:
    options = [f"run.rounds={ROUNDS}", "run.pipeline_depth=1", "run.checkpoint_every=1"]
    folder = tmp_path / "local"
    assert run_command(["run", str(TINY), "-o", str(folder), *options, "run.threads=1", "--quiet"]) == 0
    (tmp_path / "cut.py").write_text(CUT)
    arguments = [
        "run",
        str(TINY),
        "-o",
        str(tmp_path / "run"),
        *options,
        "--import",
        str(tmp_path / "cut.py"),
        "--resume",
    ]
    cut = play_ranks(arguments, own=[[], []], env=[{"CUT_AT": "0"}, {"CUT_AT": "31"}])
    assert cut[1].code == -signal.SIGKILL
    all_well(play_ranks(arguments, own=[[], []]))
    same_as_local(folder, tmp_path / "run")


@pytest.mark.long
def test_torchrun_starts_a_job_again_that_lost_a_rank(local: Path, tmp_path: Path) -> None:
    """Its restart is `run --resume`: the second try finds the folders of the first."""
    once = CUT.replace(
        'os.environ.get("CUT_AT", "0")',
        'os.environ["RANK"] == "1" and 13 * (os.environ["TORCHELASTIC_RESTART_COUNT"] == "0")',
    )
    (tmp_path / "cut.py").write_text(once)
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
        "--monitor-interval",
        "0.2",
    ]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    play_it = ["-m", "genrl_graph", "run", str(TINY), "-o", str(tmp_path / "run"), "--runner", "torch", "--resume"]
    (ended,) = wait([start([*launch, *play_it, "--import", str(tmp_path / "cut.py"), f"run.rounds={ROUNDS}"])])
    assert ended.code == 0, ended.text
    assert "goes on from" in ended.text, ended.text  # the start, or round 1 where the agent's signal met rank 0 there
    same_as_local(local, tmp_path / "run")


@pytest.mark.long
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """The output of all, which the ranks hold, ends with the last of them."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", f"--master-port={free_port()}"]
    play_it = ["-m", "genrl_graph", "run", str(TINY), "-o", str(tmp_path / "run"), "--runner", "torch"]
    launcher = start([*launch, *play_it, "run.rounds=100000"])
    assert launcher.stdout is not None
    next(line for line in launcher.stdout if line.startswith("round 1/"))
    launcher.kill()
    (ended,) = wait([launcher])
    assert ended.code == -signal.SIGKILL
    assert ended.text.count("genrl-graph: ended by SIGTERM") == 2, ended.text


@pytest.mark.long
def test_a_rank_whose_launcher_has_gone_before_it_began_does_not_wait(tmp_path: Path) -> None:
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none"}
    for ended in play_ranks(["run", str(TINY), "-o", str(tmp_path / "run")], own=[[], []], env=[agent, agent]):
        assert ended.code == ExchangeTimeout.exit_code
        assert "cannot join the job: [Errno 111] Connection refused" in ended.text


@pytest.mark.long
def test_unequal_ranks_end_every_round(tmp_path: Path) -> None:
    """Other group sizes, more micro-batches, and one that has nothing to train; nobody waits for an update."""
    own = [
        ["nodes.answer.params.num_generations=2", "nodes.update.params.max_batch_tokens=64"],
        [],
        [
            "nodes.score_answer.params.pattern='^(x)$'",
            "nodes.score_final.params.pattern='^(x)$'",
            "nodes.score_critique.params.exists=0",
        ],
    ]
    arguments = ["run", str(TINY), "-o", str(tmp_path / "run"), "run.rounds=3"]
    all_well(play_ranks(arguments, own=own))
    rows = rows_of(tmp_path / "run/peer0002", "peer0002")
    assert set(rows["answers"]["peer"].to_pylist()) == {"peer0000", "peer0001"}
    assert rows["answers"]["peer"].to_pylist().count("peer0000") == 3 * 16 * 2
    assert rows["answers"]["peer"].to_pylist().count("peer0001") == 3 * 16 * 8


@pytest.mark.long
def test_ranks_share_the_boards_that_they_played(tmp_path: Path) -> None:
    """Trajectories of two ranks, tensors and all, come through the exchange as between two peers of one process."""
    file = ROOT / "graphs/games/tic_tac_toe_swarm.yaml"
    small = ["nodes.tasks.params.num_episodes=16", "nodes.games.params.min_peers=2", "run.mode=train"]
    small += ["run.eval_every=0", "run.trackers=[]", f"run.rounds={ROUNDS}"]
    play(read(file, small).graph, out=tmp_path / "local", quiet=True, threads=1)
    all_well(play_ranks(["run", str(file), "-o", str(tmp_path / "run"), *small], own=[[], []]))
    for peer in PEERS:
        here, there = rows_of(tmp_path / "local", peer), rows_of(tmp_path / "run" / peer, peer)
        assert here.keys() == there.keys()
        for group, rows in here.items():
            assert rows.equals(there[group]), (peer, group)
        assert set(there["games"]["peer"].to_pylist()) == set(PEERS) - {peer}
        digests = digests_of(tmp_path / "run" / peer, peer)
        assert digests == digests_of(tmp_path / "local", peer) and len(digests) == 3 * ROUNDS  # of three updates


def test_ranks_with_another_game_are_told(tmp_path: Path) -> None:
    ended = play_ranks(["run", str(TINY), "-o", str(tmp_path / "run")], own=[[], ["nodes.tasks.params.num_tasks=8"]])
    assert [process.code for process in ended] == [3, 3]
    assert "give all ranks one graph" in ended[0].text
    assert not (tmp_path / "run").exists()


def test_outside_a_job_the_launch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ParamError, match="RANK is not set; start it with `torchrun"):
        TorchRunner()


@pytest.fixture
def offline_maths(tmp_path: Path) -> list[str]:
    """The recipe dapo.yaml with a model and a data set of this disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    fast.save_pretrained(tmp_path / "model")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), eos_token_id=1, pad_token_id=0, **size)).save_pretrained(
        tmp_path / "model"
    )
    lines = [json.dumps({"prompt": f"What is {n} + 1?", "solution": str(n + 1)}) for n in range(32)]
    (tmp_path / "maths.jsonl").write_text("\n".join(lines))
    return [
        f"nodes.tasks.params.path={tmp_path / 'maths.jsonl'}",
        "nodes.tasks.params.columns={question: prompt, answer: solution}",
        f"carry.policy.params.model={tmp_path / 'model'}",
        *(f"nodes.{node}.params.max_new_tokens=8" for node in ("answer", "critique", "final")),
        "run.rounds=2",
    ]


@pytest.mark.long
def test_two_agents_play_the_maths_recipe(offline_maths: list[str], tmp_path: Path) -> None:
    port = free_port()
    recipe = str(ROOT / "graphs/multistage_math/dapo.yaml")
    agents = [
        start(
            [
                *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)),
                *("--master-addr", "127.0.0.1", "--master-port", str(port)),
                *("-m", "genrl_graph", "run", recipe, "--runner", "torch", "-o", str(tmp_path / "run"), *offline_maths),
            ]
        )
        for rank in range(2)
    ]
    all_well(wait(agents))
    for peer in PEERS:
        rows = rows_of(tmp_path / "run" / peer, peer)
        assert set(rows["critiques"]["peer"].to_pylist()) == set(PEERS) - {peer}
        assert set(rows["final"]["round"].to_pylist()) == {0, 1}
        assert read_graph(tmp_path / "run" / peer)[0].count("peers: 2") == 1
