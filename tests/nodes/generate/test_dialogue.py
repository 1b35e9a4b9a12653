"""`generate.dialogue`: what seats hear and say, how moves are read, and what happens where a game or a chat breaks."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scripted import Scripted, scripted

from genrl_graph import Log, Sampling, Tasks, TextPolicy
from genrl_graph.contract import registry
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.policy import Completion
from genrl_graph.edge_types.turns import Turns
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.errors import NodeFailed, ParamError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.snapshots import Snapshots
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "text_games.py")

KUHN = {"kind": "open_spiel", "id": "kuhn_poker", "params": {"actions": "numbers"}}
TIC_TAC_TOE = {"kind": "open_spiel", "id": "tic_tac_toe", "params": {"actions": "numbers"}}
GUESS, QUEUE = {"kind": "text", "id": "guess"}, {"kind": "text", "id": "queue"}


def tiny(name: str = "policy", seed: int = 0, **params: Any) -> TextPolicy:
    return TinyLM(**{"hidden_size": 8, "heads": 1, "layers": 1, "alphabet": "012pb"} | params).init(name, seed=seed)


def tasks_of(environment: dict[str, Any], count: int) -> Tasks:
    metadata = [json.dumps({"environment": environment, "seed": seed}) for seed in range(count)]
    rows = [{"id": f"tasks/{at}", "messages": [], "answer": "", "metadata": text} for at, text in enumerate(metadata)]
    return Tasks.from_rows(rows)


def play(
    node: DialogueGenerator, tasks: Tasks, policy: TextPolicy, *, log: Log | None = None, seed: int = 0, **more: Any
) -> Turns:
    resources: dict[str, Any] = {"rng": stream(seed), "log": log or Log(), "round": 0, "peer": "peer0000"}
    return node.run(tasks, policy, **resources | more)


def refused(rows: Turns) -> list[str]:
    return [flaw.rule for flaw in rows.violations(ReceiverContext("", {})) if flaw.rows.any()]


@pytest.mark.parametrize("history", ["sampled", "template", "none"])
def test_examples_stand_before_what_a_seat_hears(history: Any) -> None:
    replies = iter(["5", "3"])
    node = DialogueGenerator(
        examples=[{"user": "guess", "assistant": "7"}, {"user": "less", "assistant": "6"}],
        system="Guess.",
        template="{{ heard[-1].content }}",
        history=history,
        max_new_tokens=16,
    )
    rows = play(node, tasks_of(GUESS, 4).take([3]), scripted(lambda _: next(replies)))
    first, second = [[(m["role"], m["content"]) for m in row] for row in rows.values("messages")]
    before = [("system", "Guess."), ("user", "guess"), ("assistant", "7"), ("user", "less"), ("assistant", "6")]
    assert first == [*before, ("user", "guess")]
    earlier = [("user", "guess"), ("assistant", "5")] if history != "none" else []
    assert second == [*before, *earlier, ("user", "less")]


def test_a_guess_is_a_chat_that_grows_token_by_token() -> None:
    replies = iter(["I say 2", "5!", "so 4", "4 then", "3"])
    node = DialogueGenerator(extract=r"\d", system="You are seat {{ seat }}.", max_new_tokens=16)
    policy = scripted(lambda _: next(replies))
    rows = play(node, tasks_of(GUESS, 4).take([3]), policy)
    assert rows.values("action") == ["2", "5", "4", "4", "3"]
    assert np.allclose(rows.numpy("reward"), [0.1, 0.0, 0.1, 0.0, 1.0])
    assert rows.values("ending") == ["", "", "", "", "terminated"]
    assert rows.values("turn") == rows.values("move") == [0, 1, 2, 3, 4]
    assert [message["content"] for heard in rows.values("heard") for message in heard] == [
        "guess",
        *("more", "less", "less", "less"),
    ]
    prompts, completions = rows.ragged("prompt_ids"), rows.ragged("completion_ids")
    for before, completion, after in zip(prompts, completions, prompts[1:], strict=False):
        assert after[: len(before) + len(completion)].tolist() == [*before.tolist(), *completion.tolist()]
    last = policy.decode(prompts[-1].tolist())
    assert last.startswith("[system]You are seat 0.[user]guess\n[assistant]I say 2[user]more\n[assistant]5![user]less")
    assert rows.values("messages")[1][-2:] == [
        {"role": "assistant", "content": "I say 2"},
        {"role": "user", "content": "more\n"},
    ]
    assert refused(rows) == []


@pytest.mark.parametrize(
    ("history", "expected"),
    [("template", "[user]guess\n[assistant]2[user]more\n[assistant]"), ("none", "[user]more\n[assistant]")],
)
def test_history_says_what_a_prompt_holds_of_earlier_turns(history: Any, expected: str) -> None:
    policy = scripted(lambda prompt: "3" if "more" in prompt else "2")
    rows = play(DialogueGenerator(history=history), tasks_of(GUESS, 4).take([3]), policy)
    assert policy.decode(rows.ragged("prompt_ids")[1].tolist()) == expected


def test_sampled_tokens_are_never_tokenised_again() -> None:
    class Spelled(Scripted):
        """Says an unknown character as <unk>, which its text does not have: encoding the text again loses it."""

        def generate(self, prompts: Sequence[NDArray[np.int32]], **options: Any) -> list[list[Completion]]:
            ids = np.asarray([2, *self.encode("7", ended=True)], np.int32)
            return [[Completion(ids, np.zeros(len(ids), np.float32), "7", "stop")] for _ in prompts]

    for history, kept in (("sampled", True), ("template", False)):
        policy = scripted(lambda _: "")
        policy.__class__ = Spelled
        node = DialogueGenerator(history=history, max_turns=2)
        prompts = play(node, tasks_of(GUESS, 4).take([3]), policy).ragged("prompt_ids")
        assert (2 in prompts[1].tolist()) == kept


def test_seats_move_in_any_order_and_each_ends_and_earns_at_its_own_time() -> None:
    rows = play(DialogueGenerator(), tasks_of(QUEUE, 1), scripted(lambda _: "A"))
    assert rows.values("seat") == [0, 1, 1, 2]
    assert rows.values("turn") == [0, 0, 1, 0]
    assert rows.values("ending") == ["terminated", "", "terminated", "truncated"]
    assert rows.values("reward") == [0.0, 0.0, 1.0, 0.0]  # 1.0 came after seat 1 was out; 0.25 before seat 2 ever moved
    assert rows.values("action") == ["a"] * 4  # as the game spells it
    assert [heard[0]["role"] for heard in rows.values("heard")] == ["game", "seat 0", "seat 1", "seat 1"]
    assert refused(rows) == []
    assert len(set(rows.values("episode"))) == 1 and len(set(rows.values("id"))) == 4


@pytest.mark.parametrize(
    ("illegal", "moves", "returns"), [("forfeit", 1, (-2.0, 0.0)), ("random", None, None), ("pass_on", 1, None)]
)
def test_an_illegal_move_is_treated_as_declared(illegal: Any, moves: int | None, returns: Any) -> None:
    log = Log()
    node = DialogueGenerator(illegal=illegal, illegal_reward=-2.0, history="none")
    rows = play(
        node, tasks_of(KUHN, 6), scripted(lambda prompt: "7" if re.match(r"\[user\]\d\n", prompt) else "0"), log=log
    )
    if illegal == "forfeit":
        assert rows.values("action") == [""] * 6 and rows.values("ending") == ["terminated"] * 6
        assert rows.values("reward") == [-2.0] * 6 and log.metrics["self/losses"] == 1.0
    elif illegal == "random":
        first = rows.where([move == 0 for move in rows.values("move")])
        assert set(first.values("action")) == {"0", "1"}
        assert log.metrics["illegal"] == len(first) / len(rows)
        outcomes = [sum(rows.take(at).values("reward")) for at in rows.positions("episode").values()]
        assert outcomes == [-2.0] * 6
    else:
        assert set(rows.values("finish_reason")) == {"failed"}
        assert rows.values("error")[0] == "move 1: ValueError: '7' is not in list"
    assert refused(rows) == []


def test_a_move_is_the_last_match_of_the_pattern() -> None:
    policy = scripted(lambda _: "first [a] or rather [b]?\n")
    rows = play(DialogueGenerator(extract=r"\[(\w)\]"), tasks_of(QUEUE, 1), policy)
    assert rows.values("action") == ["b"] * 4


def test_results_do_not_depend_on_the_episodes_played_beside_them() -> None:
    options: Any = {
        "max_new_tokens": 2,
        "illegal": "random",
        "num_generations": 3,
        "opponents": {"self": 1, "random": 1},
    }
    played = [
        play(DialogueGenerator(num_envs=size, **options), tasks_of(KUHN, 8), tiny(initializer_range=0.5))
        for size in (1, 5, 24)
    ]
    names = ["id", "completion_ids", "action", "reward", "ending", "seat", "prompt_ids"]
    assert played[0].rows(*names) == played[1].rows(*names) == played[2].rows(*names)
    assert len({str(row) for row in played[0].values("completion_ids")}) > 3
    again = play(DialogueGenerator(**options), tasks_of(KUHN, 8), tiny(initializer_range=0.5), seed=1)
    assert again.values("completion_ids") != played[0].values("completion_ids")


@pytest.mark.parametrize(("params", "moves"), [({"max_turns": 2, "max_new_tokens": 8}, 2), ({"max_new_tokens": 8}, 3)])
def test_an_episode_is_truncated_after_its_turns_or_when_the_context_is_full(params: Any, moves: int) -> None:
    policy, log = scripted(lambda _: "9"), Log()
    policy.context_length = 100
    rows = play(DialogueGenerator(**params), tasks_of(GUESS, 2).take([1]), policy, log=log)
    assert (
        len(rows) == moves and rows.values("ending")[-1] == "truncated" and rows.values("finish_reason")[-1] == "stop"
    )
    assert log.metrics["truncated_episodes"] == 1.0
    assert max(map(len, rows.ragged("prompt_ids"))) + 8 <= 100
    assert refused(rows) == []
    policy.context_length = 20
    rows = play(DialogueGenerator(max_new_tokens=8), tasks_of(GUESS, 1), policy)
    assert rows.values("error") == ["move 0: the first prompt has 23 tokens, but at most 12 fit"]
    policy.context_length = 8
    with pytest.raises(ParamError, match="max_new_tokens: 8 leave no room for a prompt in the 8 tokens"):
        play(DialogueGenerator(max_new_tokens=8), tasks_of(GUESS, 1), policy)


@pytest.mark.parametrize(
    ("breaks", "reason", "said"),
    [
        ("reset", "move 0: OSError: no such game", ""),
        ("raise", "move 2: RuntimeError: the table fell over", "4"),
        ("nan", "move 2: reward is nan", "4"),
        ("text", "move 2: a message is '7', which is a int and no text", "4"),
        ("seat", "move 2: seat 1 is to move, which is none of 0 to 0", "4"),
        ("long", "move 2: a message has 262145 characters; at most 262144 are read", "4"),
        ("exit", "move 2: SystemExit: 3", "4"),
        ("hang", "move 2: the environment did not return within 0.1 s", "4"),
    ],
)
def test_a_game_that_breaks_costs_its_episode(breaks: str, reason: str, said: str) -> None:
    environment = {"kind": "text", "id": "broken", "params": {"breaks": breaks}}
    log = Log()
    node = DialogueGenerator(step_timeout_s=0.1 if breaks == "hang" else 60)
    rows = play(node, tasks_of(environment, 2), scripted(lambda _: "4"), log=log)
    if breaks == "hang":
        sys.modules["text_games"].HANGING.set()
    assert rows.values("error") == [reason] * 2 and rows.values("completion") == [said] * 2
    assert set(rows.values("finish_reason")) == set(rows.values("ending")) == {"failed"}
    assert np.isnan(rows.numpy("reward")).all() and log.metrics["failed"] == 1.0
    assert refused(rows) == []


def test_a_template_that_fails_stops_the_run() -> None:
    with pytest.raises(ParamError, match=r"dialogue\.template: task 'tasks/0': UndefinedError"):
        play(DialogueGenerator(template="{{ heard[3].content }}"), tasks_of(GUESS, 1), scripted(lambda _: "4"))
    with pytest.raises(NodeFailed, match="task 't' names no environment and seed"):
        bare = Tasks.from_rows([{"id": "t", "messages": [], "answer": "", "metadata": ""}])
        play(DialogueGenerator(), bare, scripted(lambda _: "4"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"extract": "("}, "is no regular expression"),
        ({"template": "{{ secret }}"}, "the template reads 'secret'; it may read task, heard, legal, seat, turn"),
        ({"opponents": {"self": 0}}, "weights are at least 0 and not all 0"),
    ],
)
def test_params_that_make_no_sense_are_refused(params: Any, message: str) -> None:
    with pytest.raises(ParamError, match=message):
        DialogueGenerator(**params)


def test_opponents_have_the_other_seats_and_only_the_turns_of_the_policy_are_rows() -> None:
    policy, other = scripted(lambda _: "1"), scripted(lambda _: "0", "other")
    log = Log()
    node = DialogueGenerator(opponents={"policy": 1}, num_envs=3)
    rows = play(node, tasks_of(KUHN, 6), policy, opponent=other, log=log)
    assert set(rows.values("policy")) == {"policy"} and set(rows.values("action")) == {"1"}
    assert rows.values("seat") == [0, 1] * 3  # the policy takes the next seat in each episode
    assert log.metrics["policy/wins"] == 1.0 and set(rows.values("reward")) == {1.0}
    pool = Snapshots([other.frozen("other@0")])
    for member in pool.members:
        member.__class__ = Scripted
        member.script = lambda _: "0"  # type: ignore[attr-defined]
    rows = play(DialogueGenerator(opponents={"snapshots": 1}), tasks_of(KUHN, 6), policy, snapshots=pool, log=log)
    assert log.metrics["snapshots/wins"] == 1.0
    empty = play(DialogueGenerator(opponents={"snapshots": 1}), tasks_of(KUHN, 2), policy, snapshots=Snapshots())
    assert set(empty.values("seat")) == {0, 1}  # self-play while the pool is empty


def test_random_opponents_need_a_list_of_legal_moves() -> None:
    node = DialogueGenerator(max_new_tokens=4).evaluated(Evaluation(temperature=0.0))
    assert (node.temperature, node.opponents) == (0.0, {"random": 1.0})
    rows = play(node, tasks_of(TIC_TAC_TOE, 2), tiny(alphabet="0123456789.xo\n"), seed=1)
    assert set(rows.values("ending")) <= {"", "terminated"}


def test_a_perfect_opponent_never_loses_and_draws_with_its_like() -> None:
    import pyspiel
    from open_spiel.python.algorithms.minimax import alpha_beta_search

    log, opponents = Log(), {"perfect": 1}
    node = DialogueGenerator(opponents=opponents, illegal="random", illegal_reward=0)
    play(node, tasks_of(TIC_TAC_TOE, 12), scripted(lambda _: "no move"), log=log)
    assert log.metrics["perfect/episodes"] == 12 and log.metrics["perfect/losses"] > 0.5
    assert log.metrics["perfect/wins"] == 0.0

    def careful(prompt: str) -> str:
        """Say a best move of the board in a prompt."""
        state = pyspiel.load_game("tic_tac_toe").new_initial_state()
        board = [cell for cell in prompt if cell in ".xo"]
        marks = {mark: [at for at, cell in enumerate(board) if cell == mark] for mark in "xo"}
        for at in range(len(marks["x"]) + len(marks["o"])):
            state.apply_action(marks["xo"[at % 2]][at // 2])
        return str(alpha_beta_search(state.get_game(), state, maximum_depth=9)[1]) if state.history() else "4"

    node = DialogueGenerator(opponents=opponents, history="none", template="{{ heard[0].content }}")
    play(node, tasks_of(TIC_TAC_TOE, 4), scripted(careful), log=log)
    assert log.metrics["perfect/draws"] == 1.0


def test_a_pool_of_language_models_comes_back_from_the_disk_and_speaks_as_before(tmp_path: Path) -> None:
    policy = tiny(initializer_range=0.5)
    pool = Snapshots([policy.frozen("policy@0")])
    pool.save(tmp_path)
    again = Snapshots()
    again.load(tmp_path)
    assert again.digest() == pool.digest()
    (known,), (loaded,) = pool.members, again.members
    assert isinstance(known, TextPolicy) and isinstance(loaded, TextPolicy)
    prompt = known.render([{"role": "user", "content": "012pb"}])
    spoken = [
        member.generate([prompt], num_generations=4, sampling=Sampling(8), rng=stream(0), max_batch_tokens=999)[0]
        for member in (known, loaded)
    ]
    assert [c.ids.tolist() for c in spoken[0]] == [c.ids.tolist() for c in spoken[1]]
    assert loaded.tokenizer_fingerprint == known.tokenizer_fingerprint


def test_networks_do_not_speak_and_language_models_do_not_play_numbers() -> None:
    from genrl_graph.nodes.generate.play import Play
    from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry

    cart = ActorCriticCarry(environment=Environment(id="CartPole-v1")).init("policy", seed=0)
    with pytest.raises(NodeFailed, match="the pool of snapshots holds networks, which do not speak"):
        play(DialogueGenerator(), tasks_of(KUHN, 1), tiny(), snapshots=Snapshots([cart]))
    with pytest.raises(NodeFailed, match="holds language models, which do not play games of numbers"):
        Play().run(tasks_of(KUHN, 1), cart, snapshots=Snapshots([tiny()]), rng=stream(0), log=Log(), round=0, peer="a")
    with pytest.raises(NodeFailed, match=r"gymnasium CartPole-v1: has observations \[4\], 2 actions, not text"):
        play(DialogueGenerator(), tasks_of({"id": "CartPole-v1"}, 1), tiny())
