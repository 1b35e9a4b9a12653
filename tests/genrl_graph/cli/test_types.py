"""The `nodes` command: listing and describing types."""

import pytest
from pydantic import Field

from genrl_graph import R, Select
from genrl_graph.cli.types import describe_type, list_types
from genrl_graph.contract import registry
from genrl_graph.errors import GraphError


def test_all_types_are_listed_by_kind_with_their_first_line() -> None:
    text = list_types()
    listed = [line.split()[0] for line in text.splitlines() if line]
    assert listed == sorted(registry.types())
    assert "generate.toy_draw" in text
    line = next(line for line in text.splitlines() if line.startswith("reward.toy_parity"))
    assert line.endswith("Pays for even first numbers and for short completions.")
    blocks = [{line.partition(".")[0] for line in block.splitlines()} for block in text.strip().split("\n\n")]
    assert all(len(kinds) == 1 for kinds in blocks)
    assert len(blocks) == len({name.partition(".")[0] for name in registry.types()})


def test_a_node_is_described_by_its_sockets_resources_and_params() -> None:
    assert describe_type("generate.toy_draw") == (
        "generate.toy_draw\n\nDraws numbers; may see what peers drew.\n\nin Python: from toys import Draw\n\n"
        "inputs:\n  tasks   Tasks\n  policy  ToyPolicy\n  seen    PeerRollouts (optional)\n\n"
        "output:\n  Rollouts\n\n"
        "resources:\n  rng\n  log\n  round\n  peer\n\n"
        "params:\n  num_generations  int = 2\n  high             int = 100\n"
    )


def test_generic_and_several_outputs_are_described() -> None:
    assert "output:\n  Scored[Frame]\n" in describe_type("reward.toy_parity")
    assert "output:\n  low   Rollouts\n  high  Rollouts\n" in describe_type("select.toy_split")
    assert "inputs:\n  rows  dict[str, Rollouts]\n  more  list[Rollouts] (optional)\n" in describe_type(
        "select.toy_named"
    )
    assert "output:" not in describe_type("coordinate.toy_tell")


def test_a_carry_and_params_without_default_are_described() -> None:
    text = describe_type("policy.toy")
    assert "carries:\n  ToyPolicy\n" in text
    assert "  bias  int | None = None\n" in text
    text = describe_type("exchange.gather")
    assert "min_peers          int required  # peers that the exchange needs, this one included\n" in text
    assert "# how many other peers' rows to take at most (seeded draw)" in text


def test_every_type_of_the_library_can_be_described() -> None:
    for name in registry.types():
        assert describe_type(name).startswith(f"{name}\n")


class Documented(Select, name="documented"):
    """Keeps all rows."""

    top: int = Field(3, description="rows to keep")

    def run(self, rows: R, more: list[R]) -> R:
        """Return the rows of the first input.

        Inputs:
            rows: rows that are kept: all
            more: rows that are dropped,
                whatever they hold

        Raises:
            Error: never.
        """
        return rows


def test_own_types_say_what_inputs_output_and_params_mean() -> None:
    assert describe_type("select.documented") == (
        f"select.documented\n\nKeeps all rows.\n\nin Python: from {__name__} import Documented\n\n"
        "inputs:\n  rows  Frame  # rows that are kept: all\n"
        "  more  list[Frame]  # rows that are dropped, whatever they hold\n\n"
        "output:\n  Frame  # Return the rows of the first input.\n\n"
        "params:\n  top  int = 3  # rows to keep\n"
    )


def test_an_unknown_type_is_told_with_the_close_one() -> None:
    with pytest.raises(GraphError, match=r"no type named 'generate.toy_drwa' \(did you mean 'generate.toy_draw'\?\)"):
        describe_type("generate.toy_drwa")
    with pytest.raises(GraphError, match=r"no type named 'x'; `genrl-graph nodes` lists them"):
        describe_type("x")


def test_the_options_of_a_run_are_described_like_a_type() -> None:
    text = describe_type("run")
    assert "rounds" in text and "int = 10  # how many rounds to play" in text
    assert "'train' | 'evaluate' | 'train_and_evaluate' = 'train'" in text
