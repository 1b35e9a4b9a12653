"""Reading a run: typed rows equal what the nodes gave, whether they are in the journal or in the arrays."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toys import (
    Best,
    Centred,
    Draw,
    Matches,
    Moves,
    Named,
    Numbers,
    Parity,
    Same,
    Split,
    Step,
    ToyPolicyCarry,
    toy_game,
)

import genrl_graph
from genrl_graph import (
    Exchange,
    Frame,
    Graph,
    Log,
    Packet,
    Peer,
    R,
    Reward,
    RunConfig,
    Scored,
    Select,
    Source,
    Task,
    load,
    open_run,
    score,
)
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.nodes.advantage.pool import PoolAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.records.stored_run import StoredRun, writer_of
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import make_peers, peer_names
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.play import play
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

TINY = Path(genrl_graph.__file__).parent / "graphs" / "tiny_multistage.yaml"


class Boards(Source, name="reading_boards"):
    """A source of rows with tensors, whose number depends on the round and the peer."""

    def run(self, *, round: int, peer: str) -> Moves:
        number = round + len(peer) % 2
        boards = np.arange(number * 6, dtype=np.float32).reshape(number, 2, 3)
        path = [np.arange(at, dtype=np.int32) for at in range(number)]
        ids = [self.task_id(at) for at in range(number)]
        return Moves.from_columns({"id": ids, "value": list(range(number)), "path": path, "board": boards})

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


class Paid(Reward, name="reading_paid"):
    """A reward for the value of a move."""

    def run(self, rows: R) -> Scored[R]:
        return score(rows, {"value": rows.numpy("value") % 3})


class Renamed(Select, name="reading_renamed"):
    """A select that changes a column, which selects must not, in every second round."""

    def run(self, rows: R, *, round: int) -> R:
        if round % 2:
            return rows
        at = rows.table.column_names.index("error")
        return type(rows)(rows.table.set_column(at, "error", pa.array(["x"] * len(rows))), marks=rows.marks)


class Shout(Exchange, name="reading_shout"):
    """An exchange that gives the rows of the other peers only."""

    include_self: bool = False

    def offer(self, rows: R) -> R:
        return rows

    def admit(self, packets: list[Packet[R]], *, peer: str, log: Log) -> Peer[R]:
        log.fact("heard", len(packets) - 1)
        kind = type(packets[0].rows)
        frames = [packet.rows for packet in packets if packet.peer != peer]
        nothing = packets[0].rows.take([])
        return kind.concat([nothing, *frames]).marked(PEER)


class Late(Exchange, name="reading_late"):
    """An exchange that dates the rows of all peers to the round before."""

    def offer(self, rows: R) -> R:
        return rows

    def admit(self, packets: list[Packet[R]], *, round: int) -> Peer[R]:
        rows = type(packets[0].rows).concat([packet.rows for packet in packets])
        at = rows.table.column_names.index("round")
        earlier = rows.table.set_column(at, "round", pa.array([round - 1] * len(rows), pa.int32()))
        return type(rows)(earlier, marks=rows.marks).marked(PEER)


class Reversed(Select, name="reading_turned"):
    """A select that gives the rows of its first input, in reverse order in every second round."""

    def run(self, rows: list[R], *, round: int) -> R:
        return rows[0].take(range(len(rows[0]))[:: -1 if round % 2 else 1])


def branched() -> Graph:
    """Return a game with every way to store rows: unions, splits, reward sums, own types, exchanges of scored rows."""
    g = Graph("branched")
    policy, tasks = g.carry("policy", ToyPolicyCarry(bias=1)), g.add("tasks", Numbers(num_tasks=2))
    answer = g.add("answer", Draw(num_generations=3), tasks=tasks, policy=policy)
    halves = g.add("halves", Split(), rows=answer)
    low, high = g.add("low", Parity(), rollouts=halves.low), g.add("high", Matches(), rollouts=halves.high)
    g.add("pooled", PoolAdvantage(), scored=[high, low])
    g.add("named", Named(), rows={"b": halves.high, "a": halves.low})
    g.add("weighed", Centred(), scored=g.add("checked", Matches(), rollouts=g.add("renamed", Renamed(), rows=answer)))
    both = [g.add("even", Parity(), rollouts=answer), g.add("match", Matches(), rollouts=answer)]
    total = g.add("total", WeightedSum(terms={"even": {"weight": 2.0}}, others=1.0), scored=both)
    judged = g.add("judged", Gather(min_peers=1), rows=total)
    g.add("old", Same(), rows=g.add("late", Late(min_peers=1), rows=answer))
    g.add("turned", Reversed(), rows=[answer, halves.low])
    g.add("told", Best(), scored=g.add("heard", Shout(min_peers=1), rows=total))
    best = g.add("best", Best(), scored=judged)
    credit = g.add("credit", Centred(), scored=best)
    paid = g.add("paid", Paid(), rows=g.add("boards", Boards()))
    g.add("taken", Same(), rows=g.add("boards_met", Gather(min_peers=1), rows=paid))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credit]))
    return g


class RecordedGame:
    """Plays rounds into a store and records the reports of all steps."""

    def __init__(self, graph: Graph, folder: Path, *, peers: int, block_rounds: int = 64) -> None:
        schedule, names = compile_graph(graph), peer_names(peers)
        self.store = RunStore.create(folder, graph.record(), {}, block_rounds=block_rounds)
        self.done: list[StepReport] = []
        self.players, commit = make_peers(schedule, names, seed=0), self.store.commit
        self.context = RunContext(
            schedule=schedule, swarm=LocalSwarm(names), seed=0, commit=commit, watch=self.done.append
        )

    def play(self, round: int) -> None:
        run_round(self.context, self.players, round)

    def frames(self) -> dict[tuple[str, int, str], Frame]:
        return {
            (ref, done.round, done.peer): value
            for done in self.done
            for ref, value in done.outputs.items()
            if isinstance(value, Frame)
        }


@pytest.mark.parametrize("game", [toy_game, branched, lambda: load(TINY)], ids=["toy", "branched", "tiny_multistage"])
def test_what_is_read_is_what_the_nodes_gave(game: Callable[[], Graph], tmp_path: Path) -> None:
    graph = game()
    peers = 3 if graph.name == "branched" else 2
    rounds = 2 if graph.name == "tiny_multistage" else 4
    game_run = RecordedGame(graph, tmp_path / "run", peers=peers, block_rounds=2)
    for number in range(rounds):
        game_run.play(number)
    outputs, names = game_run.frames(), peer_names(peers)

    def whole(ref: str, *, rounds: range, holders: list[str]) -> Frame:
        frames = [outputs[ref, number, peer] for number in rounds for peer in holders]
        return type(frames[0]).concat(frames)

    for _ in ("journal and arrays", "arrays"):
        run = open_run(tmp_path / "run")
        assert run.rounds == list(range(rounds))
        for ref in {ref for ref, _, _ in outputs}:
            assert run.frame(ref) == whole(ref, rounds=range(rounds), holders=names), ref
            one = whole(ref, rounds=range(1, 2), holders=names[1:2])
            assert run.frame(ref, 1, holder=names[1]) == one, ref
        game_run.store.close()


class Held(Numbers, name="reading_held"):
    """Numbers with more tasks and a larger range in evaluations."""

    def evaluated(self, how: Evaluation) -> "Held":
        return self.model_copy(update={"num_tasks": 3, "high": 10**6})


class Picky(Reward, name="reading_picky"):
    """A reward that cannot judge the first row, and reports why."""

    max_unjudged: float = 1.0

    def run(self, rollouts: R, *, log: Log) -> Scored[R]:
        values = np.full(len(rollouts), 0.5)
        values[:1] = np.nan
        log.rows("failures", {"id": rollouts.values("id")[:1], "reason": ["no idea"]})
        return score(rollouts, {"picky": values})


def held_game(**options: object) -> Graph:
    g = Graph("held", run=RunConfig(**({"rounds": 3, "peers": 2, "eval_temperature": None} | options)))
    policy, tasks = g.carry("policy", ToyPolicyCarry(bias=1)), g.add("tasks", Held(num_tasks=2))
    answer = g.add("answer", Draw(), tasks=tasks, policy=policy)
    answers = g.add("answers", Gather(min_peers=2), rows=answer)
    credit = g.add("credit", Centred(), scored=g.add("score", Picky(), rollouts=answers))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credit]))
    return g


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds and two peers, with evaluations and rows that cannot be judged."""
    folder = tmp_path_factory.mktemp("reading") / "held"
    play(held_game(mode="train_and_evaluate"), out=folder, quiet=True)
    return folder


def test_evaluations_are_nodes_and_numbers_of_their_own(held: Path) -> None:
    run = open_run(held)
    assert run.rounds == [0, 1, 2] and run.peers == ["peer0000", "peer0001"]
    assert run.graph == held_game(mode="train_and_evaluate")
    rows = run.frame("eval/score", 3, holder="peer0001")
    assert rows.edge_type == run.frame("score").edge_type
    assert set(rows.values("peer")) == {"peer0001"} and len(rows) == 3 * 2
    assert rows.values("id") == run.frame("eval/answers", 3, holder="peer0001").values("id")
    assert not set(rows.values("id")) & set(run.frame("score").values("id"))
    table = run.evaluations()
    assert list(zip(table["round"].to_pylist(), table["peer"].to_pylist(), strict=True)) == [
        (number, peer) for number in (0, 3) for peer in run.peers
    ]
    metrics = run.metrics()
    assert metrics.num_rows == 6 and metrics.schema.field("score/reward").type == pa.float64()
    rewards = run.frame("score", 2, holder="peer0000").numpy("reward")
    assert metrics.filter((pa.compute.field("round") == 2) & (pa.compute.field("peer") == "peer0000"))[
        "score/reward"
    ].to_pylist() == [pytest.approx(np.nanmean(rewards))]


def test_facts_and_failures_say_what_went_wrong(held: Path) -> None:
    run = open_run(held)
    assert run.facts("answers", 1)["peer0001"]["taken"] == ["peer0000", "peer0001"]
    lost = run.failures("score", range(2))
    assert lost.column_names == ["id", "reason", "round", "holder"]
    assert lost["reason"].to_pylist() == ["no idea"] * 4 and set(lost["round"].to_pylist()) == {0, 1}
    assert set(lost["id"].to_pylist()) <= set(run.frame("answer").values("id"))
    assert run.failures("answer").num_rows == 0


def test_blocks_are_the_whole_in_parts(held: Path) -> None:
    run = open_run(held)
    blocks = list(run.blocks("credit", rows=1))
    assert [set(block["round"].to_pylist()) for block in blocks] == [{0}, {1}, {2}]
    names = run.frame("credit").table.column_names
    joined = pa.concat_tables([block.select(names) for block in blocks]).drop_columns(
        ["reward", "reward_picky", "advantage"]
    )
    assert joined.equals(run.frame("credit").table.select(joined.column_names))
    assert list(run.spans("credit", range(1, 9), rows=17)) == [range(1, 3)]
    ids = run.columns("answer", ("id",))["id"].to_pylist()
    assert ids == run.table("answer")["id"].to_pylist()


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda run: run.frame("scor"), ParamError, r"no node named 'scor' \(did you mean 'score'\?\)"),
        (lambda run: run.frame("update"), ParamError, r"update gives ToyPolicy, which is no rows"),
        (lambda run: run.frame("score", holder="peer1"), ParamError, r"no peer named 'peer1' \(did you mean 'peer000"),
        (lambda run: run.table("scores"), ParamError, r"no group 'scores' \(did you mean 'score'\?\)"),
        (lambda run: open_run(run.folder.parent / "hel"), StoreError, r"no run here.*\(did you mean 'held'\?\)"),
        (lambda run: open_run(run.folder.parent), StoreError, r"no run here.*it holds the runs held"),
    ],
)
def test_wrong_names_are_told_in_one_line(
    held: Path, ask: Callable[[StoredRun], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        ask(open_run(held))
    assert "\n" not in str(caught.value)


def test_fields_are_named_and_unknown_types_miss_frames_alone(tmp_path: Path) -> None:
    game_run = RecordedGame(branched(), tmp_path / "run", peers=1)
    game_run.play(0)
    game_run.store.close()
    with pytest.raises(ParamError, match=r"halves has several outputs; name one of halves.low, halves.high"):
        open_run(tmp_path / "run").frame("halves")
    graph = tmp_path / "run" / "graph.yaml"
    graph.write_text(graph.read_text().replace("reward.toy_parity", "reward.toy_gone"))
    run = open_run(tmp_path / "run")
    assert run.rounds == [0] and run.table("low").num_rows == 3
    assert len(run.frame("answer")) == 6
    with pytest.raises(ParamError, match=r"type 'reward.toy_gone' is not known here; import"):
        run.frame("low")


def test_peers_that_were_processes_are_one_run(tmp_path: Path) -> None:
    """Each peer has a folder named after it; rows that one peer admitted from the other are in both folders."""
    graph, names = toy_game(), peer_names(2)
    schedule = compile_graph(graph)
    folder = tmp_path / "run"
    stores = {name: RunStore.create(folder / name, graph.record(), {}) for name in names}
    done: list[StepReport] = []

    def commit(records: list[Record]) -> None:
        for record in records:
            stores[record.holder].commit([record])

    players, swarm = make_peers(schedule, names, seed=0), LocalSwarm(names)
    context = RunContext(schedule=schedule, swarm=swarm, seed=0, commit=commit, watch=done.append)  # type: ignore[arg-type]
    for number in range(2):
        run_round(context, players, number)
    run = open_run(folder)
    assert run.rounds == [0, 1] and run.peers == names and len(run.folders) == 2
    frames = [item.outputs["credit_final"] for item in done if item.step.node == "credit_final"]
    assert run.frame("credit_final") == type(frames[0]).concat(frames)
    assert writer_of(folder / "peer0000") is not None
    for store in stores.values():
        store.close()
    assert writer_of(folder / "peer0000") is None
    with pytest.raises(StoreError, match="it holds the runs run"):
        open_run(tmp_path)


WRITER = """
import sys
from pathlib import Path
from genrl_graph import load
from genrl_graph.contract import registry
from genrl_graph.runners.play import play
registry.import_file(Path(sys.argv[1]))
play(load(Path(sys.argv[2])), out=sys.argv[3], quiet=True)
"""


@pytest.mark.long
def test_a_reader_beside_the_writer_never_sees_a_torn_row(toys_file: Path, tmp_path: Path) -> None:
    game, folder = tmp_path / "game.yaml", tmp_path / "run"
    game.write_text(toy_game().dump() + "run: {rounds: 15, peers: 2, block_rounds: 3}\n")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(toys_file), str(game), str(folder)])
    seen: list[int] = []
    try:
        while writer.poll() is None:
            if not (folder / "graph.yaml").exists():
                time.sleep(0.02)
                continue
            run = open_run(folder)
            before = run.rounds
            rows = run.frame("credit_final")
            counts = np.unique(rows.numpy("round"), return_counts=True)[1]
            assert set(counts[: len(before)].tolist()) <= {12}  # 2 peers x the best half of 3 tasks x 4
            assert len(counts) >= len(before) and np.isfinite(rows.numpy("reward")).all()
            seen.append(len(before))
    finally:
        writer.kill()
        writer.wait()
    assert writer.returncode == 0
    assert seen == sorted(seen) and len(set(seen)) > 1
    last = open_run(folder)
    assert last.rounds == list(range(15)) and len(last.frame("credit_final")) == 15 * 12
    assert json.loads(last.steps(3)["rows"][0].as_py()) == {"tasks": 3}
