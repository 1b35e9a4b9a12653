"""An engine samples in place of a policy; one that misbehaves is named, and nothing of its answers is trained on."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import causal
from engine_server import EngineServer, Fault

from genrl_graph.contract.policy import Completion, Sampling, TokenSequence
from genrl_graph.errors import GenrlGraphError, ParamError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.engine.weights import LOCK, PREFIX
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.seeds import stream

GENERATE = "/inference/v1/generate"
USER = {"role": "user", "content": "2 + 2?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Save a small model; it stays loaded, so that policies of it copy it."""
    path = tmp_path_factory.mktemp("base")
    causal(TinyLM(hidden_size=16, heads=2, initializer_range=0.3).init("base", seed=0)).export(path)
    loaded = policy_with(path)
    yield path
    del loaded


@pytest.fixture
def server(folder: Path) -> Iterator[EngineServer]:
    with EngineServer(folder) as server:
        yield server


def engine(*servers: EngineServer, **params: Any) -> dict[str, Any]:
    quick = {"retries": 1, "retry_wait_s": 0.01, "dtype": "float32", "timeout_s": 60.0, "max_log_ratio": 1e-3}
    return {"kind": "vllm", "urls": [server.url for server in servers], **quick, **params}


def policy_with(folder: Path, *servers: EngineServer, type: type[CausalLM] = CausalLM, **params: Any) -> CausalPolicy:
    """Return a policy for which servers sample; without any it samples itself."""
    declared = type(
        model=str(folder),
        device="cpu",
        compute_dtype="float32",
        engine=engine(*servers, **params) if servers else None,
    )
    return causal(declared.init("policy", seed=0))


def complete(policy: CausalPolicy, count: int = 2, prompts: int = 2, **sampling: Any) -> list[list[Completion]]:
    asked = [policy.render([{"role": "user", "content": f"{at} + 2?"}]) for at in range(prompts)]
    options = Sampling(**{"max_new_tokens": 6} | sampling)
    return policy.generate(asked, num_generations=count, sampling=options, rng=stream(0), max_batch_tokens=1)


def train(policy: CausalPolicy, learning_rate: float = 1e-2) -> None:
    rows = [TokenSequence(np.array([10, 11], np.int32), np.array([12, 13, 1], np.int32))]
    policy.backward(-policy.logprobs(rows, temperatures=np.ones(1, np.float32)).sum())
    policy.step(learning_rate=learning_rate, max_grad_norm=1.0)


def error(policy: CausalPolicy, **sampling: Any) -> str:
    with pytest.raises(GenrlGraphError) as raised:
        complete(policy, **sampling)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def of_first_choice(change: Callable[[dict[str, Any]], object]) -> Callable[[str, Mapping[str, Any], Any], Any]:
    """Return a twist that changes the completion of every answer."""

    def twist(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        if path == GENERATE:
            change(answer["choices"][0])
        return answer

    return twist


def failing(fault: Fault, path: str = GENERATE, times: int = 10**6) -> Callable[[str, Mapping[str, Any], Any], Any]:
    """Return a twist with which the first requests for a path fail."""
    left = [times]

    def twist(asked: str, body: Mapping[str, Any], answer: Any) -> Any:
        if asked == path and left[0]:
            left[0] -= 1
            return fault
        return answer

    return twist


def test_completions_are_the_policys_own_with_its_seeds_and_the_version_of_its_weights(
    folder: Path, server: EngineServer
) -> None:
    policy = policy_with(folder, server)
    for version in range(3):
        rows = [row for part in complete(policy, temperature=0.7) for row in part]
        assert [row.weight_version for row in rows] == [version] * 4
        asked = [policy.render([{"role": "user", "content": f"{at} + 2?"}]) for at in (0, 0, 1, 1)]
        sequences = [TokenSequence(prompt, row.ids) for prompt, row in zip(asked, rows, strict=True)]
        own = policy.logprobs(sequences, temperatures=np.full(4, 0.7, np.float32)).detach().numpy()
        for row, values in zip(rows, own, strict=True):
            np.testing.assert_allclose(row.logprobs, values[: len(row.ids)], atol=1e-4)
            assert row.text == policy.decode(row.ids.tolist())
        train(policy)
    assert server.paths().count("/collective_rpc") == 3
    seeds = [body["sampling_params"]["seed"] for path, body in server.seen if path == GENERATE]
    assert set(seeds[:4]) == set(seeds[4:8]) == set(seeds[8:]) and len(set(seeds)) == 4


def test_a_greedy_completion_is_asked_for_once(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    (rows,) = complete(policy, count=3, prompts=1, temperature=0.0)
    assert server.paths().count(GENERATE) == 1
    policy.engine = None
    (own,) = complete(policy, count=1, prompts=1, temperature=0.0)
    assert [row.ids.tolist() for row in rows] == [own[0].ids.tolist()] * 3


def test_stop_strings_and_penalties_are_those_of_the_own_sampler(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    (row,), *_ = complete(policy, count=1, max_new_tokens=12, temperature=0.0, repetition_penalty=1.5)
    stop = row.text[3]
    (stopped,), *_ = complete(policy, count=1, max_new_tokens=12, temperature=0.0, repetition_penalty=1.5, stop=(stop,))
    assert stopped.finish_reason == "stop" and stopped.text == row.text[: row.text.index(stop) + 1]


def test_requests_are_spread_and_a_dead_server_is_left_out(folder: Path, server: EngineServer) -> None:
    with EngineServer(folder) as other:
        policy = policy_with(folder, server, other)
        complete(policy, count=4)
        assert server.paths().count(GENERATE) == other.paths().count(GENERATE) == 4
        other.twist = failing(Fault(act="drop"))
        rows = complete(policy, count=4)
        assert sum(map(len, rows)) == 8
    complete(policy)
    assert server.paths().count(GENERATE) == 4 + 4 + 4 + 4


def test_policies_with_other_weights_take_turns_on_a_server(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    other = policy.fork("other")
    train(other)
    for _ in range(2):
        assert complete(policy)[0][0].weight_version == 0
        assert complete(other)[0][0].weight_version == 1
    assert server.paths().count("/collective_rpc") == 4


def test_adapters_go_by_name_and_old_ones_go(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server, type=Lora)
    for version in range(3):
        rows = complete(policy)
        assert {row.weight_version for part in rows for row in part} == {version}
        assert len(server.adapters) == 1
        train(policy)
    assert "/collective_rpc" not in server.paths()
    server.restart()
    complete(policy)
    assert len(server.adapters) == 1


@pytest.mark.parametrize("fault", [Fault(500), Fault(429), Fault(act="drop")])
def test_what_fails_for_a_while_is_asked_again(folder: Path, server: EngineServer, fault: Fault) -> None:
    server.twist = failing(fault, times=2)
    assert len(complete(policy_with(folder, server))) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(500), "500 Internal Server Error"),
        (Fault(429), "429 Too Many Requests"),
        (Fault(act="drop"), "RemoteProtocolError"),
        (Fault(act="hang"), "no answer within 0.5 s"),
        (Fault(act="drip"), "no answer within 0.5 s"),
        (Fault(act="flood"), "an answer of more than"),
        (Fault(302), "it redirects, which is not followed"),
        (Fault(400), "400 Bad Request"),
        (Fault(403), "--enable-scale-out"),
    ],
)
def test_what_fails_for_good_is_named(folder: Path, server: EngineServer, fault: Fault, reason: str) -> None:
    policy = policy_with(folder, server, timeout_s=0.5 if fault.act in ("hang", "drip") else 60.0)
    server.twist = failing(fault)
    said = error(policy)
    assert server.sent < 2**28
    assert f"policy 'policy' version 0: vLLM at {server.url}: {GENERATE}: " in said and reason in said


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/collective_rpc", "VLLM_SERVER_DEV_MODE=1"),
        ("/weight_checker", "update vLLM to 0.32"),
        ("/update_weight_version", "update vLLM to 0.32"),
    ],
)
def test_a_call_that_a_server_lacks_is_named(folder: Path, server: EngineServer, path: str, advice: str) -> None:
    server.twist = failing(Fault(404), path)
    said = error(policy_with(folder, server))
    assert f"{path}: 404 Not Found" in said and advice in said


def test_a_server_that_does_not_take_new_weights_is_named(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    complete(policy)
    train(policy)
    server.ignores_weights = True
    said = error(policy)
    assert "it samples with version 0 of policy 'policy' (its" in said and "not with version 1 of policy" in said
    assert GENERATE not in server.paths()[-8:]
    server.ignores_weights = False
    assert complete(policy)[0][0].weight_version == 1


def test_a_server_that_was_restarted_gets_the_weights_again(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    train(policy)
    complete(policy)
    server.restart()
    assert complete(policy)[0][0].weight_version == 1
    assert server.paths().count("/collective_rpc") == 2


def test_a_server_that_is_restarted_between_two_requests_gets_the_weights_again(
    folder: Path, server: EngineServer
) -> None:
    policy, left = policy_with(folder, server, concurrency=1), [2]
    train(policy)

    def restarts(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        if path == GENERATE and left[0]:
            left[0] -= 1
            if not left[0]:
                server.restart()
        return answer

    server.twist = restarts
    rows = [row for part in complete(policy) for row in part]
    assert [row.weight_version for row in rows] == [1] * 4
    assert server.paths().count("/collective_rpc") == 2 and server.paths().count(GENERATE) == 4 + 2
    asked = [policy.render([{"role": "user", "content": f"{at} + 2?"}]) for at in (0, 0, 1, 1)]
    sequences = [TokenSequence(prompt, row.ids) for prompt, row in zip(asked, rows, strict=True)]
    own = policy.logprobs(sequences, temperatures=np.ones(4, np.float32)).detach().numpy()
    for row, values in zip(rows, own, strict=True):
        np.testing.assert_allclose(row.logprobs, values[: len(row.ids)], atol=1e-4)


def test_a_server_that_goes_back_to_older_weights_is_named(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    complete(policy)
    first = server.version
    train(policy)
    server.twist = of_first_choice(lambda choice: choice["weight_versions"][0].update(version=first))
    said = error(policy)
    assert "it samples with version 0 of policy 'policy', not with version 1 of policy 'policy'" in said
    assert server.paths().count("/collective_rpc") == 1 + 2


@pytest.mark.parametrize(
    ("checksums", "reason"),
    [
        (lambda old: {}, "no checksums of its weights"),
        (lambda old: {f"dp0:tp0:fused.{at}": "0" for at in range(3)}, "(none of its checksums changed)"),
    ],
)
def test_a_server_whose_checksums_do_not_change_is_named(
    folder: Path, server: EngineServer, checksums: Callable[[Any], Any], reason: str
) -> None:
    def twist(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        return {"checksums": checksums(answer)} if path == "/weight_checker" else answer

    policy = policy_with(folder, server)
    server.twist = twist
    if "changed" in reason:
        complete(policy)
        train(policy)
    assert reason in error(policy)


def test_a_server_that_leaves_out_the_seed_is_named(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)
    cached: dict[str, Any] = {}

    def cache(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        return cached.setdefault(str(body["token_ids"]), answer) if path == GENERATE else answer

    server.twist = cache
    assert "leaves out the seed or the temperature" in error(policy, max_new_tokens=32)
    assert len(complete(policy, count=1, max_new_tokens=32)) == 2


def test_rows_of_other_weights_are_named(folder: Path, server: EngineServer) -> None:
    policy = policy_with(folder, server)

    def stale(choice: dict[str, Any]) -> None:
        choice["weight_versions"] = [
            {"version": server.version, "start": 0, "end": 1},
            {"version": "another", "start": 1, "end": len(choice["token_ids"])},
        ]

    server.twist = of_first_choice(stale)
    assert "weights 'another', which this run did not send" in error(policy, max_new_tokens=4)


def change_ids(choice: dict[str, Any]) -> None:
    choice["token_ids"] = [(id + 7) % 60 + 20 for id in choice["token_ids"]]
    for entry, id in zip(choice["logprobs"]["content"], choice["token_ids"], strict=True):
        entry["token_id"] = id


def drop_last(choice: dict[str, Any]) -> None:
    choice["token_ids"].pop()
    choice["logprobs"]["content"].pop()
    choice["weight_versions"][0]["end"] -= 1


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other ids": (change_ids, "differ from the policy's by"),
    "NaN": (lambda c: c["logprobs"]["content"][1].update(logprob=float("nan")), "the log-prob nan of token 1"),
    "NaN as vLLM writes it": (lambda c: c["logprobs"]["content"][1].update(logprob=-9999.0), "the log-prob -9999.0 of"),
    "beyond float32": (lambda c: c["logprobs"]["content"][1].update(logprob=-1e300), "the log-prob -1e+300 of token 1"),
    "beyond float64": (lambda c: c["logprobs"]["content"][1].update(logprob=-(10**400)), "the log-prob -1000"),
    "no number": (lambda c: c["logprobs"]["content"][0].update(logprob=None), "the log-prob None of token 0"),
    "above 0": (lambda c: c["logprobs"]["content"][0].update(logprob=0.5), "the log-prob 0.5 of token 0"),
    "of another id": (lambda c: c["logprobs"]["content"][0].update(token_id=1), "the log-prob of id 1 for token 0"),
    "too few": (lambda c: c["logprobs"]["content"].pop(), "log-probs of 5 tokens for 6 tokens"),
    "out of range": (lambda c: c["token_ids"].__setitem__(0, 10**6), "token 0 has the id 1000000"),
    "a word": (lambda c: c["token_ids"].__setitem__(0, "a"), "token 0 has the id 'a'"),
    "too many": (lambda c: c["token_ids"].append(9), "7 tokens; 1 to 6 were asked for"),
    "none": (lambda c: c.update(token_ids=[]), "0 tokens; 1 to 6 were asked for"),
    "too few tokens": (lambda c: drop_last(c), "5 tokens of 6, which end without an end token"),
    "fewer tokens than log-probs": (lambda c: c["token_ids"].pop(), "log-probs of 6 tokens for 5 tokens"),
    "another end": (lambda c: c.update(finish_reason="stop"), "finish_reason 'stop' for 6 tokens, which end by length"),
    "an abort": (lambda c: c.update(finish_reason="abort"), "finish_reason 'abort' for 6 tokens"),
    "versions of fewer tokens": (lambda c: c["weight_versions"][0].update(end=5), "weight_versions of 5 tokens for 6"),
    "versions with a hole": (lambda c: c["weight_versions"][0].update(start=1), "weight_versions [{'version'"),
    "no versions": (lambda c: c.pop("weight_versions"), "update vLLM to 0.32"),
}


@pytest.mark.parametrize("lie", WRONG)
def test_a_false_answer_ends_the_run_at_once(folder: Path, server: EngineServer, lie: str) -> None:
    policy = policy_with(folder, server, verify_rows=8)
    policy.end_with([])  # so that completions have six tokens
    change, reason = WRONG[lie]
    server.twist = of_first_choice(change)
    said = error(policy)
    assert reason in said and "nothing of this round's answers was used" in said
    assert server.paths().count(GENERATE) == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"[1", "no JSON"),
        (b"[" * 100, "nested more than"),
        ({"choices": []}, "no completion in tokens"),
        ({"choices": [{"token_ids": [1], "logprobs": {"content": []}}] * 2}, "no completion in tokens"),
        (b" " * 2**20, "an answer of more than"),
    ],
)
def test_an_answer_of_another_kind_is_named(folder: Path, server: EngineServer, answer: Any, reason: str) -> None:
    server.twist = lambda path, body, own: answer if path == GENERATE else own
    assert reason in error(policy_with(folder, server))


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_tokens_after_an_end_token_are_named(folder: Path, server: EngineServer, stop: tuple[str, ...]) -> None:
    policy = policy_with(folder, server)

    def goes_on(choice: dict[str, Any]) -> None:
        choice["token_ids"][1] = choice["logprobs"]["content"][1]["token_id"] = policy.end_ids[0]
        choice["finish_reason"] = "stop"

    server.twist = of_first_choice(goes_on)
    assert f"tokens after the end token {policy.end_ids[0]}" in error(policy, stop=stop)


def test_prompts_that_are_tokenised_again_are_named(folder: Path, server: EngineServer) -> None:
    def retokenised(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        return answer | {"prompt_token_ids": body["token_ids"][1:]} if path == GENERATE else answer

    server.twist = retokenised
    assert "completed other ids than it was sent" in error(policy_with(folder, server))


def test_log_probs_before_the_temperature_are_named(folder: Path, server: EngineServer) -> None:
    def raw(path: str, body: Mapping[str, Any], answer: Any) -> Any:
        if path != GENERATE:
            return answer
        choice = answer["choices"][0]
        row = TokenSequence(np.asarray(body["token_ids"], np.int32), np.asarray(choice["token_ids"], np.int32))
        values = policy.logprobs([row], temperatures=np.ones(1, np.float32)).detach()[0].tolist()
        for entry, value in zip(choice["logprobs"]["content"], values, strict=True):
            entry["logprob"] = value
        return answer

    policy = policy_with(folder, server)
    server.twist = raw
    assert "--logprobs-mode processed_logprobs" in error(policy, temperature=0.5)


def test_a_truncated_distribution_is_refused(folder: Path, server: EngineServer) -> None:
    assert "unset top_k" in error(policy_with(folder, server), top_k=3)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"urls": []}, "give either urls"),
        ({"urls": ["ftp://x"]}, "no base URL"),
        ({"urls": [], "launch": {"args": {"worker-cls": "x.y"}}}, "is no argument that a graph file may give"),
        ({"urls": [], "launch": {"python": "PATH"}}, "is no environment variable ENGINE_"),
        ({"kind": "other"}, "vllm"),
    ],
)
def test_params_that_cannot_be_are_refused(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParamError, match=reason):
        CausalLM(model="m", engine={"kind": "vllm", "urls": ["http://127.0.0.1:1"]} | params)


def test_weights_are_removed_with_the_policy(folder: Path, server: EngineServer, tmp_path: Path) -> None:
    policy = policy_with(folder, server, weights_folder=str(tmp_path))
    for _ in range(2):
        complete(policy)
        train(policy)
    left = tmp_path / f"{PREFIX}of-a-killed-run"
    left.mkdir()
    (left / LOCK).touch()
    (root,) = set(tmp_path.iterdir()) - {left}
    assert len([path for path in root.iterdir() if path.is_dir()]) == 1
    other = policy_with(folder, server, weights_folder=str(tmp_path), concurrency=1)
    complete(other)
    assert root.exists() and not left.exists()
    del policy
    assert not root.exists()


def test_a_server_without_an_answer_is_named(folder: Path) -> None:
    with EngineServer(folder) as gone:
        policy = policy_with(folder, gone)
    assert "/v1/models: ConnectError" in error(policy)
