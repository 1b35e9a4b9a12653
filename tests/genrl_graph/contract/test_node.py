"""The contract: fields are params, annotations are sockets, and a class that breaks it is refused at once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator
from toys import Add, Draw, Numbers, Rule, Split, Step, StepBoth, Total, TotalCarry, ToyPolicy, ToyPolicyCarry

from genrl_graph import (
    Advantage,
    Carried,
    Carry,
    Coordinate,
    Credited,
    Eval,
    Exchange,
    Fork,
    Frame,
    Generator,
    Packet,
    Peer,
    Policy,
    R,
    Reward,
    Rollouts,
    Scored,
    Select,
    Source,
    Task,
    TaskBook,
    Tasks,
    Update,
    credit,
    score,
)
from genrl_graph.contract.node import Node, Place
from genrl_graph.errors import NodeError, ParamError

P = TypeVar("P", bound=Policy)


class Turn(BaseModel):
    """A nested param."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    weight: float = 1.0


class Many(Select, name="test_many"):
    """A node with params and sockets of every shape."""

    size: int = Field(3, ge=1, description="how many")
    mode: Literal["fast", "slow"] = "fast"
    turns: list[Turn] = []
    either: int | list[int] = 0
    ratio: float = 0.5
    table: dict[str, float] = {}

    @model_validator(mode="after")
    def _check(self) -> "Many":
        if self.size > 100:
            raise ValueError(f"size {self.size} is above 100; lower it")
        return self

    def run(
        self,
        rows: R,
        several: list[Rollouts],
        named: dict[str, Scored[R]],
        maybe: Tasks | None = None,
        *,
        rng: np.random.Generator,
        tasks: TaskBook,
    ) -> R:
        return rows


def test_the_sockets_are_the_parameters_of_run() -> None:
    signature = Many.signature
    assert [str(socket) for socket in signature.inputs] == [
        "Frame",
        "list[Rollouts]",
        "dict[str, Scored[Frame]]",
        "Tasks (optional)",
    ]
    assert [socket.name for socket in signature.inputs] == ["rows", "several", "named", "maybe"]
    assert signature.resources == ("rng", "tasks")
    assert list(signature.outputs) == [""]
    assert Many.type_name == "select.test_many"


def test_a_named_tuple_is_several_outputs() -> None:
    assert {name: str(pattern) for name, pattern in Split.signature.outputs.items()} == {
        "low": "Rollouts",
        "high": "Rollouts",
    }


def test_a_node_that_returns_none_gives_nothing() -> None:
    class Quiet(Coordinate, name="test_quiet"):
        def run(self, rows: Rollouts) -> None: ...

    assert Quiet.signature.outputs == {}


def test_the_sockets_of_an_exchange_are_those_of_offer_and_its_resources_those_of_admit() -> None:
    class Swap(Exchange, name="test_swap"):
        def offer(self, rows: R) -> R:
            return rows

        def admit(self, packets: list[Packet[R]], *, rng: np.random.Generator) -> Peer[R]:
            return packets[0].rows

    assert [socket.name for socket in Swap.signature.inputs] == ["rows"]
    assert Swap.signature.resources == ("rng",)
    assert str(Swap.signature.outputs[""]) == "Peer[Frame]"


def test_annotations_that_are_text_are_read() -> None:
    class Late(Select, name="test_late"):
        def run(self, rows: "R", more: "list[Rollouts] | None" = None) -> "Scored[R]":
            return rows

    assert [str(socket) for socket in Late.signature.inputs] == ["Frame", "list[Rollouts] (optional)"]


def test_an_update_replaces_the_input_of_its_type_or_of_its_name() -> None:
    class Distil(Update, name="test_distil_node"):
        def run(self, total: Total, teacher: ToyPolicy, student: ToyPolicy) -> ToyPolicy:
            return student

    class Own(Update, name="test_own_variable"):
        def run(self, policy: P, rows: Rollouts) -> P:
            return policy

    assert Step.signature.replaced == {"": "policy"}
    assert Add.signature.replaced == {"": "total"}
    assert StepBoth.signature.replaced == {"policy": "policy", "total": "total"}
    assert Distil.signature.replaced == {"": "teacher"}
    assert Own.signature.replaced == {"": "policy"}


def breaks_no_run() -> None:
    class Bad(Select, name="bad"):
        pass


def breaks_static_run() -> None:
    class Bad(Select, name="bad"):
        @staticmethod
        def run(rows: Rollouts) -> Rollouts:
            return rows


def breaks_class_run() -> None:
    class Bad(Select, name="bad"):
        @classmethod
        def run(cls, rows: Rollouts) -> Rollouts:
            return rows


def breaks_async_run() -> None:
    class Bad(Select, name="bad"):
        async def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_generator_run() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts) -> Iterator[Rollouts]:
            yield rows


def breaks_no_return() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts):  # type: ignore[no-untyped-def]
            return rows


def breaks_no_annotation() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows) -> Rollouts:  # type: ignore[no-untyped-def]
            return rows


def breaks_star() -> None:
    class Bad(Select, name="bad"):
        def run(self, *rows: Rollouts) -> Rollouts:
            return rows[0]


def breaks_double_star() -> None:
    class Bad(Select, name="bad"):
        def run(self, **rows: Rollouts) -> Rollouts:
            return rows["a"]


def breaks_positional_only() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts, /) -> Rollouts:
            return rows


def breaks_resource() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts, *, device: str) -> Rollouts:
            return rows


def breaks_edge_type() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: int) -> Rollouts:
            raise ValueError


def breaks_optional_output() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts) -> Rollouts | None:
            return rows


def breaks_tuple_field() -> None:
    class Two(NamedTuple):
        rows: Rollouts
        size: int

    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts) -> Two:
            return Two(rows, 1)


def breaks_unknown_annotation() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: "Nowhere") -> Rollouts:  # type: ignore[name-defined]  # noqa: F821
            return rows


def breaks_peer_output() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts) -> Peer[Rollouts]:
            return rows


def breaks_select_policy() -> None:
    class Bad(Select, name="bad"):
        def run(self, policy: ToyPolicy) -> ToyPolicy:
            return policy


def breaks_select_nothing() -> None:
    class Bad(Select, name="bad"):
        def run(self, rows: Rollouts) -> None: ...


def breaks_source_rows() -> None:
    class Bad(Source, name="bad"):
        def run(self) -> None: ...


def breaks_source_resolve() -> None:
    class Bad(Source, name="bad"):
        def run(self) -> Tasks:
            return Tasks.empty()


def breaks_generator_policy() -> None:
    class Bad(Generator, name="bad"):
        def run(self, total: Total) -> Total:
            return total


def breaks_reward() -> None:
    class Bad(Reward, name="bad"):
        def run(self, rollouts: R) -> R:
            return rollouts


def breaks_reward_nothing() -> None:
    class Bad(Reward, name="bad"):
        def run(self, rollouts: R) -> None: ...


def breaks_advantage() -> None:
    class Bad(Advantage, name="bad"):
        def run(self, scored: Scored[R]) -> Scored[R]:
            return scored


def breaks_update_rows() -> None:
    class Bad(Update, name="bad"):
        def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_update_from_nothing() -> None:
    class Bad(Update, name="bad"):
        def run(self, rows: Rollouts) -> ToyPolicy:
            return ToyPolicy("x", 0)


def breaks_update_of_several() -> None:
    class Bad(Update, name="bad"):
        def run(self, policies: list[ToyPolicy]) -> ToyPolicy:
            return policies[0]


def breaks_update_field() -> None:
    class Next(NamedTuple):
        new_policy: ToyPolicy

    class Bad(Update, name="bad"):
        def run(self, policy: ToyPolicy) -> Next:
            return Next(policy)


def breaks_fork() -> None:
    class Bad(Fork, name="bad"):
        def run(self, policy: ToyPolicy) -> Rollouts:
            raise ValueError


def breaks_coordinate() -> None:
    class Bad(Coordinate, name="bad"):
        def run(self, policy: ToyPolicy) -> ToyPolicy:
            return policy


def breaks_eval() -> None:
    class Bad(Eval, name="bad"):
        def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_exchange_methods() -> None:
    class Bad(Exchange, name="bad"):
        def offer(self, rows: R) -> R:
            return rows


def breaks_exchange_output() -> None:
    class Bad(Exchange, name="bad"):
        def offer(self, rows: R) -> R:
            return rows

        def admit(self, packets: list[Packet[R]]) -> R:
            return packets[0].rows


def breaks_exchange_resources() -> None:
    class Bad(Exchange, name="bad"):
        def offer(self, rows: R, *, peer: str) -> R:
            return rows

        def admit(self, packets: list[Packet[R]]) -> Peer[R]:
            return packets[0].rows


def breaks_exchange_inputs() -> None:
    class Bad(Exchange, name="bad"):
        def offer(self, rows: R) -> R:
            return rows

        def admit(self, packets: list[Packet[R]], more: Rollouts) -> Peer[R]:
            return packets[0].rows


def breaks_carry_init() -> None:
    class Bad(Carry, name="bad"):
        def init(self, name: str, *, seed: int) -> Rollouts:  # type: ignore[override]  # what is refused
            return Rollouts.empty()


def breaks_carry_base() -> None:
    class Bad(Carry, name="bad"):
        pass


def breaks_param_name() -> None:
    class Bad(Select, name="bad"):
        place: str = "here"  # type: ignore[assignment]  # what is refused

        def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_type_name() -> None:
    class Bad(Select, name="no name"):
        def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_kind() -> None:
    class Bad(Node, name="bad"):
        def run(self, rows: Rollouts) -> Rollouts:
            return rows


def breaks_declared_twice() -> None:
    class Gather(Exchange, name="gather"):
        def offer(self, rows: R) -> R:
            return rows

        def admit(self, packets: list[Packet[R]]) -> Peer[R]:
            return packets[0].rows


@pytest.mark.filterwarnings("ignore:Field name .place. in:UserWarning")
@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (breaks_no_run, "select.bad: has no `run` method"),
        (breaks_static_run, r"select.bad.run: must be a plain method `def run\(self, ...\)`"),
        (breaks_class_run, "select.bad.run: must be a plain method"),
        (breaks_async_run, "select.bad.run: must be a plain method"),
        (breaks_generator_run, "select.bad.run: must be a plain method"),
        (breaks_no_return, "select.bad.run: needs a return annotation, which is its output"),
        (breaks_no_annotation, "select.bad.rows: an input needs a type annotation"),
        (breaks_star, r"select.bad.run: \*args and \*\*kwargs are no sockets; name the inputs"),
        (breaks_double_star, r"select.bad.run: \*args and \*\*kwargs are no sockets"),
        (breaks_positional_only, "select.bad.rows: inputs are passed by name; remove the `/`"),
        (breaks_resource, "select.bad: unknown resource 'device'; the runner supplies rng, tasks, log, round, peer"),
        (breaks_edge_type, "select.bad.rows: int is no edge type"),
        (breaks_optional_output, "select.bad.run: .* is no edge type"),
        (breaks_tuple_field, "select.bad.size: int is no edge type"),
        (breaks_unknown_annotation, "select.bad.run: cannot read its annotations: name 'Nowhere' is not defined"),
        (breaks_peer_output, r"select.bad: only an exchange returns Peer\[...\], but this select returns PeerRollouts"),
        (breaks_select_policy, "select.bad: a node of kind select must return rows, .* returns ToyPolicy"),
        (breaks_select_nothing, "select.bad: a node of kind select must return rows, .* returns nothing"),
        (breaks_source_rows, "source.bad: a node of kind source must return rows"),
        (breaks_source_resolve, r"source.bad: a source needs `resolve\(self, task_id\)`"),
        (breaks_generator_policy, "generate.bad: a node of kind generate must return rows"),
        (breaks_reward, r"reward.bad: a node of kind reward must return Scored\[...\], but this .* returns Frame"),
        (breaks_reward_nothing, r"reward.bad: a node of kind reward must return Scored\[...\], .* nothing"),
        (breaks_advantage, r"advantage.bad: a node of kind advantage must return Credited\[...\]"),
        (breaks_update_rows, "update.bad: an update returns the next version of a carried value"),
        (breaks_update_from_nothing, "update.bad: the output replaces no input; take it as an input"),
        (breaks_update_of_several, "update.bad: the output replaces no input"),
        (breaks_update_field, "update.bad: output 'new_policy' replaces no input; .* of this name"),
        (breaks_fork, "policy.bad: a fork returns a policy, but this policy returns Rollouts"),
        (breaks_coordinate, "coordinate.bad: only an update, a fork or an average returns a carried value"),
        (breaks_eval, "eval.bad: a node without a part in rounds returns None, .* this eval returns Rollouts"),
        (breaks_exchange_methods, "exchange.bad: an exchange has two methods, `offer` and `admit`"),
        (breaks_exchange_output, r"exchange.bad: a node of kind exchange must return Peer\[...\]"),
        (breaks_exchange_resources, "exchange.bad.offer: takes the resource 'peer'; only `admit` has resources"),
        (breaks_exchange_inputs, "exchange.bad.admit.more: is no input of `offer`; make it one"),
        (breaks_carry_init, "carry.bad.init: declares to return Rollouts; annotate a subclass of Carried"),
        (breaks_carry_base, "carry.bad.init: declares to return Carried; annotate a subclass of Carried"),
        (breaks_param_name, "select.bad: a param cannot be named 'place', a part of the contract; rename it"),
        (breaks_type_name, "'select.no name' is no type name; use letters, digits and _"),
        (breaks_kind, "Bad: has no kind; subclass one such as Reward, or give it kind="),
        (breaks_declared_twice, "exchange.gather: declared twice, by genrl_graph.nodes.exchange.gather.Gather and by "),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused_where_it_is_defined(
    breaks: Callable[[], None], message: str
) -> None:
    with pytest.raises(NodeError, match=message) as caught:
        breaks()
    assert "\n" not in str(caught.value)


def test_a_kind_of_ones_own_has_the_rules_of_a_plain_node() -> None:
    class Judge(Node, kind="judge"):
        """A kind."""

    class Strict(Judge, name="strict"):
        def run(self, rows: R) -> R:
            return rows

    assert Strict.type_name == "judge.strict"
    with pytest.raises(NodeError, match=r"judge.thief: only an update, a fork or an average returns a carried value"):

        class Thief(Judge, name="thief"):
            def run(self, policy: P) -> P:
                return policy


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": 0}, "select.test_many.size: input should be greater than or equal to 1, got 0"),
        ({"sise": 1}, r"select.test_many: unknown param 'sise' \(did you mean 'size'\?\)"),
        ({"zzz": 1}, "select.test_many: unknown param 'zzz'; it has size, mode, turns, either, ratio, table"),
        ({"mode": "quick"}, "select.test_many.mode: input should be 'fast' or 'slow', got 'quick'"),
        ({"size": 101}, "select.test_many: size 101 is above 100; lower it"),
        ({"turns": [{"user": "a"}, {}]}, "select.test_many.turns.1.user: missing; this param has no default"),
        ({"turns": [{"user": "a", "wieght": 2}]}, r"unknown param 'turns.0.wieght' \(did you mean 'weight'\?\)"),
        ({"turns": 5}, r"select.test_many.turns: wants a list, got 5; for one value write \[5\]"),
        ({"turns": {"user": "a"}}, r"select.test_many.turns: wants a list, got \{'user': 'a'\}$"),
        ({"either": ["x", 1]}, "select.test_many.either"),
        ({"table": {"a": "x"}}, "select.test_many.table.a: input should be a valid number, .*, got 'x'"),
        ({"ratio": "x" * 500}, r"got 'x{70,80}\.\.\."),
    ],
)
def test_a_wrong_param_is_told_by_name_with_its_value(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message) as caught:
        Many(**params)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_all_wrong_params_are_told_at_once() -> None:
    with pytest.raises(ParamError) as caught:
        Many(size=0, mode="no", sise=1)  # type: ignore[call-arg]  # what is refused
    assert str(caught.value).count("select.test_many") == 3


def test_one_wrong_value_of_a_union_is_one_problem() -> None:
    with pytest.raises(ParamError) as caught:
        Many(either="x")
    assert str(caught.value) == (
        "select.test_many.either: input should be a valid integer, unable to parse string as an integer, got 'x'"
    )


@given(st.integers(1, 100), st.floats(allow_nan=False, allow_infinity=False), st.dictionaries(st.text(), st.floats()))
def test_plain_params_make_the_same_node_again(size: int, ratio: float, table: dict[str, float]) -> None:
    node = Many(size=size, ratio=ratio, turns=[Turn(user="x")])
    assert Many(**node.plain_params()) == node
    assert set(Many().plain_params()) == set()


def test_a_param_without_a_yaml_form_is_told() -> None:
    class Calls(Select, name="test_calls"):
        function: Callable[[int], int]

        @field_serializer("function")
        def _name(self, function: Callable[[int], int]) -> str:
            raise ValueError("a lambda has no importable name; define it with def")

        def run(self, rows: R) -> R:
            return rows

    with pytest.raises(ParamError, match=r"select.test_calls: a param has no YAML form: .*a lambda has no importable"):
        Calls(function=lambda x: x).plain_params()


def test_a_node_is_frozen_and_placed_by_copy() -> None:
    draw = Draw(num_generations=3)
    with pytest.raises(ValueError, match="frozen"):
        draw.num_generations = 4  # type: ignore[misc]
    placed = draw.placed(Place("answer", 2, "abc"))
    assert (placed.place.node, placed.place.stage, placed.place.protocol) == ("answer", 2, "abc")
    assert draw.place == Place("generate.toy_draw")
    assert placed.num_generations == 3


def test_a_source_makes_its_ids_from_its_place() -> None:
    tasks = Numbers().placed(Place("tasks"))
    assert tasks.task_id(7) == "tasks/7"
    assert tasks.resolve("tasks/7") == Task("tasks/7", [{"role": "user", "content": "Say 7."}], "7")


def test_run_is_called_directly_with_plain_values() -> None:
    tasks = Numbers().run(rng=np.random.default_rng(0), round=0)
    assert len(tasks) == 2
    assert isinstance(ToyPolicyCarry(bias=2).init("policy", seed=0), ToyPolicy)
    assert TotalCarry.edge.base is Total
    assert not Rule.mutable


def test_a_class_without_a_name_is_a_base_for_others() -> None:
    class Base(Reward):
        bonus: float = 1.0

    class Named(Base, name="test_named"):
        def run(self, rollouts: R) -> Scored[R]:
            return score(rollouts, {"bonus": np.full(len(rollouts), self.bonus)})

    class Renamed(Named):
        pass

    assert Named.type_name == "reward.test_named"
    assert Base.type_name == Renamed.type_name == ""
    assert Named(bonus=2).plain_params() == {"bonus": 2.0}


def test_carried_values_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Carried()  # type: ignore[abstract]


def test_an_advantage_of_any_rows_keeps_their_type() -> None:
    class Plain(Advantage, name="test_plain"):
        def run(self, scored: Scored[R]) -> Credited[R]:
            return credit(scored, scored.numpy("reward"))

    class Words(Frame):
        columns = {"id": Rollouts.columns["id"]}

    rows = score(Words.from_columns({"id": ["a"]}), {"x": [1.0]})
    assert str(Plain().run(rows).edge_type) == "Credited[Words]"


def test_a_script_is_not_needed_to_define_a_type(tmp_path: Path) -> None:
    total = TotalCarry(start=4).init("total", seed=0)
    total.save(tmp_path)
    other = Total()
    other.load(tmp_path)
    assert other.digest() == total.digest() != Total().digest()
