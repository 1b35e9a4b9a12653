"""`policy.endpoint`: a model behind an API speaks in any seat, fails without ending the run, and is never trained."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import DROP, HANG, ChatServer, Seen, Step, says, status

from genrl_graph import GraphError, Log, ParamError, Sampling, Tasks, TextPolicy, load
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.contract.policy import Completion, TokenSequence
from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.endpoint.policy import MOST_BYTES
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.endpoint import EndpointCarry
from genrl_graph.runners.play import play
from genrl_graph.seeds import stream
from genrl_graph.store.run_store import RunStore

registry.import_file(Path(__file__).parents[2] / "text_games.py")
USER = {"role": "user", "content": '2 + 2?\n"é" \ud7ff'}

GAME = """
graph: remote
version: 1
carry:
  policy: {{type: policy.tiny_lm, params: {{alphabet: 012pb, hidden_size: 8, heads: 1, max_context: 64}}, next: update}}
  remote:
    type: policy.endpoint
    params: {{endpoint: "{url}", model: m, retries: 1, retry_wait_s: 0.01, timeout_s: 60}}
nodes:
  tasks:
    type: source.environment
    params: {{environment: {{kind: open_spiel, id: kuhn_poker, params: {{actions: numbers}}}}, num_episodes: 6}}
  play:
    type: generate.dialogue
    inputs: {{tasks: tasks, policy: policy, opponent: remote}}
    params: {{max_new_tokens: 1, opponents: {{policy: 1}}, illegal: random, history: none, num_generations: 2}}
  credit: {{type: advantage.turns, inputs: {{scored: play}}}}
  update: {{type: update.grpo, inputs: {{policy: policy, credited: [credit]}}, params: {{learning_rate: 1e-3}}}}
run: {{rounds: 2, mode: train, trackers: []}}
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


def remote(server: ChatServer, **params: Any) -> TextPolicy:
    quick = {"retries": 1, "retry_wait_s": 0.01, "timeout_s": 60.0}
    return EndpointCarry(**{"endpoint": server.url, "model": "m"} | quick | params).init("remote", seed=0)


def complete(policy: TextPolicy, count: int = 1, chat: Any = None, **sampling: Any) -> list[Completion]:
    prompt = policy.render(chat or [USER])
    options = Sampling(**{"max_new_tokens": 7} | sampling)
    return policy.generate([prompt], num_generations=count, sampling=options, rng=stream(0), max_batch_tokens=1)[0]


def test_it_sends_the_chat_and_the_sampling_params_of_the_node(server: ChatServer) -> None:
    server.script = lambda seen, before: says("4", "length")
    (completion,) = complete(remote(server, request={"user": "me"}), temperature=0.5, top_k=3, stop=("x",))
    assert (completion.text, completion.finish_reason, completion.error) == ("4", "length", "")
    assert len(completion.ids) == len(completion.logprobs) == 0
    (seen,) = server.seen
    seed = seen.body.pop("seed")
    assert seen.body == {
        "model": "m",
        "messages": [USER],
        "temperature": 0.5,
        "max_tokens": 7,
        "top_k": 3,
        "stop": ["x"],
        "user": "me",
    }
    complete(remote(server, request={"seed": None}))
    assert 0 <= seed < 2**31 and "seed" not in server.seen[1].body


def test_a_chat_goes_on_from_the_ids_before(server: ChatServer) -> None:
    policy = remote(server)
    ids, chat = policy.render([USER]), [USER, {"role": "assistant", "content": "4"}]
    longer = policy.extend(ids, chat, [USER])
    assert longer[: len(ids)].tolist() == ids.tolist()
    complete(policy, chat=[*chat, USER])
    assert server.seen[0].body["messages"] == [*chat, USER]
    assert longer.tolist() == policy.render([*chat, USER]).tolist() and longer.max() < policy.vocab_size


def test_the_key_comes_from_the_environment_and_is_in_no_error(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "sesame-7")
    server.script = lambda seen, before: status(401, "sesame-7 is no key")
    (completion,) = complete(remote(server, api_key_env="ENDPOINT_KEY"))
    assert server.seen[0].headers["Authorization"] == "Bearer sesame-7"
    assert "401" in completion.error and "*** is no key" in completion.error and "sesame" not in completion.error
    with pytest.raises(ParamError, match="api_key_env: the environment variable ENDPOINT_OTHER is not set"):
        remote(server, api_key_env="ENDPOINT_OTHER")
    with pytest.raises(ParamError, match="'PATH' does not begin with ENDPOINT_"):
        remote(server, api_key_env="PATH")


@pytest.mark.parametrize(
    ("step", "params", "reason"),
    [
        (DROP, {}, r"did not answer: .*\(2 tries\)"),
        (status(500, "busy"), {}, r"500 .*busy.*\(2 tries\)"),
        (status(404, "no model"), {}, "404 .*no model"),
        (says(None), {}, r"no chat completion: .*\(2 tries\)"),
        (Step(body=b"x" * (2**20 + 1)), {}, "an answer of more than 1048576 bytes"),
        (HANG, {"timeout_s": 0.1}, r"no answer within 0\.1 s \(2 tries\)"),
        (HANG, {"call_timeout_s": 0.2}, r"the endpoint had no time left \(call_timeout_s 0\.2\)"),
    ],
)
def test_what_it_does_not_give_is_a_failed_completion(
    server: ChatServer, step: Step, params: dict[str, Any], reason: str
) -> None:
    server.script = lambda seen, before: step
    (completion,) = complete(remote(server, **params))
    assert completion.finish_reason == "failed" and re.search(reason, completion.error), completion.error


def test_a_try_that_fails_for_a_while_is_repeated_and_a_chat_that_is_too_long_is_not_sent(server: ChatServer) -> None:
    server.script = lambda seen, before: says("4") if before else status(503)
    assert [c.text for c in complete(remote(server))] == ["4"]
    (long,) = complete(remote(server), chat=[{"role": "user", "content": "x" * MOST_BYTES}])
    assert long.error == f"the chat has more than {MOST_BYTES} bytes" and len(server.seen) == 2


def test_requests_run_side_by_side_within_the_limit(server: ChatServer) -> None:
    completions = complete(remote(server, concurrency=3), count=9)
    assert [c.text for c in completions] == ["Score: 10"] * 9 and server.most_in_flight <= 3
    assert len({seen.body["seed"] for seen in server.seen}) == 9


def kuhn(seen: Seen, before: int) -> Step:
    return says("1" if seen.prompt.startswith("2") else "0")


def test_it_plays_the_other_seat_and_a_resume_asks_nothing_again(server: ChatServer, tmp_path: Path) -> None:
    server.script = kuhn
    (tmp_path / "game.yaml").write_text(GAME.format(url=server.url))
    folder = play(load(tmp_path / "game.yaml"), out=tmp_path / "run", quiet=True, threads=1).folder
    rows = RunStore.open(folder).table("play").to_pylist()
    assert {row["policy"] for row in rows} == {"policy"} and {row["ending"] for row in rows} <= {"", "terminated"}
    asked = len(server.seen)
    assert asked >= 12
    play(load(tmp_path / "game.yaml"), out=folder, rounds=2, resume=True, quiet=True, threads=1)
    assert len(server.seen) == asked
    assert run_command(["store", "verify", str(folder)]) == 0
    assert run_command(["plan", str(tmp_path / "game.yaml")]) == 0


def test_an_endpoint_that_goes_away_costs_episodes_and_not_the_run(server: ChatServer, tmp_path: Path) -> None:
    server.script = lambda seen, before: kuhn(seen, before) if len(server.seen) < 9 else DROP
    (tmp_path / "game.yaml").write_text(GAME.format(url=server.url))
    overrides = ["run.max_failed_share=1", "carry.remote.params.concurrency=1"]
    folder = play(load(tmp_path / "game.yaml", overrides), out=tmp_path / "run", quiet=True, threads=1).folder
    rows = RunStore.open(folder).table("play").to_pylist()
    failed = [row for row in rows if row["finish_reason"] == "failed"]
    assert failed and len(failed) < len(rows)
    assert all(f"the endpoint at {server.url} did not answer: " in row["error"] for row in failed)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "play/failed" in line] == [0, 1] and lines[-1]["play/failed"] == 1.0


def test_as_the_critic_it_gives_rows_of_text_without_ids(server: ChatServer) -> None:
    server.script = lambda seen, before: status(400, "no") if "why" in seen.prompt else says("so #### 4")
    chats = [[{"role": "user", "content": question}] for question in ("2 + 2", "why")]
    tasks = Tasks.from_rows(
        [{"id": f"t/{at}", "messages": chat, "answer": "", "metadata": "{}"} for at, chat in enumerate(chats)]
    )
    rows = Answer(num_generations=2).run(tasks, remote(server), rng=stream(0), log=Log(), round=0, peer="p")
    assert rows.values("completion") == ["so #### 4", "so #### 4", "", ""]
    assert rows.values("completion_ids") == [[]] * 4
    assert rows.values("finish_reason") == ["stop", "stop", "failed", "failed"]
    assert rows.values("error")[:2] == ["", ""] and "400" in rows.values("error")[2]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "policy: policy, opponent: remote",
            "policy: remote, opponent: policy",
            "nodes.update: can never learn: the rows of 'play' are those of policy.endpoint, which gives text",
        ),
        (
            "inputs: {policy: policy, credited",
            "inputs: {policy: policy, reference: remote, credited",
            "nodes.update: input 'reference' is policy.endpoint, which gives text without token ids",
        ),
    ],
)
def test_check_refuses_updates_on_it(tmp_path: Path, old: str, new: str, line: str) -> None:
    text = GAME.format(url="http://127.0.0.1:1/v1")
    assert old in text
    (tmp_path / "game.yaml").write_text(text.replace(old, new).replace("1e-3", "1e-3, beta: 0.1"))
    with pytest.raises(GraphError, match=line):
        load(tmp_path / "game.yaml")


def test_it_has_no_weights_and_its_checkpoint_knows_which_model_it_is(server: ChatServer, tmp_path: Path) -> None:
    policy = remote(server)
    policy.save(tmp_path)
    remote(server).load(tmp_path)
    with pytest.raises(StoreError, match=r"endpoint.json: is .*'model': 'm'"):
        remote(server, model="other").load(tmp_path)
    assert policy.digest() == remote(server).digest() != remote(server, model="other").digest()
    row = [TokenSequence(np.zeros(1, np.int32), np.zeros(1, np.int32))]
    for refused in (lambda: policy.fork("x"), lambda: policy.logprobs(row, temperatures=np.ones(1, np.float32))):
        with pytest.raises(NodeFailed, match="policy 'remote': the model behind http"):
            refused()


def test_a_dry_run_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "game.yaml").write_text(GAME.format(url="http://127.0.0.1:1/v1"))
    assert run_command(["run", str(tmp_path / "game.yaml"), "--dry", "-o", str(tmp_path / "run")]) == 0


def test_a_failed_turn_fails_its_episode(server: ChatServer) -> None:
    server.script = lambda seen, before: status(400, "no")
    metadata = json.dumps({"environment": {"kind": "text", "id": "guess"}, "seed": 3})
    tasks = Tasks.from_rows([{"id": "tasks/3", "messages": [], "answer": "", "metadata": metadata}])
    rows = DialogueGenerator().run(tasks, remote(server), rng=stream(0), log=Log(), round=0, peer="p")
    assert rows.values("ending") == ["failed"] and rows.values("error")[0].startswith("move 0: the endpoint at http")
