"""Trackers: the same names and numbers in each, and none of them can stop a run."""

import json
import os
import pty
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.summary import _clean_tag

from genrl_graph.errors import ParamError, StoreError
from genrl_graph.graph_file.read import Loaded
from genrl_graph.runners.tracking.guard import GuardedTracker
from genrl_graph.runners.tracking.metric_names import plain_name
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.trackers import JsonLines, TensorBoard, Tracker, make_trackers, require_trackers

PEERS = ("peer0000", "peer0001")
ALL = ("tensorboard", "wandb", "mlflow")
Curves = dict[str, list[tuple[int, float]]]
"""Steps and values by name."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all credentials of trackers."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))


def trackers(folder: Path, *names: str, tell: Callable[[str], None] = lambda line: None) -> list[Tracker]:
    folder.mkdir(exist_ok=True)
    config = {"graph": "toy", "nodes": {"answer": {"params": {"temperature": 0.7, "stop": ["a", "b"]}}}}
    return make_trackers(
        names, folder=folder, run_name="toy-1", project="genrl_graph", peers=PEERS, config=config, tell=tell
    )


def evaluate(made: list[Tracker], numbers: range) -> None:
    metrics = RoundMetrics(made)
    for number in numbers:
        found = {"eval/score/pass@1": number / 4, "eval/score/reward": float(number)}
        metrics.evaluation(number, {peer: found | {"eval/time": 0.5} for peer in PEERS})
    metrics.close()


def in_jsonl(folder: Path, peer: str) -> Curves:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line.pop("peer") == peer]
    names = {name for line in mine for name in line} - {"round"}
    return {name: [(line["round"], line[name]) for line in mine if name in line] for name in names}


def in_tensorboard(folder: Path, peer: str) -> Curves:
    events = EventAccumulator(str(folder / "events" / peer), purge_orphaned_data=False).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def in_mlflow(folder: Path, peer: str) -> Curves:
    client = MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("genrl_graph")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`genrl_graph.peer` = '{peer}'")
    assert (run.info.run_name, run.info.status) == (f"toy-1/{peer}", "FINISHED")
    assert run.data.params["nodes.answer.params.temperature"] == "0.7"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}


def in_wandb(folder: Path, peer: str) -> Curves:
    curves: Curves = {}
    for path in sorted(folder.glob(f"wandb/offline-run-*-{peer}*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                assert (record.run.display_name, record.run.run_group) == (f"toy-1/{peer}", "toy-1")
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert config["nodes"]["answer"]["params"]["temperature"] == 0.7
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            for name in row.keys() - {"round", "_step", "_runtime", "_timestamp"}:
                curves.setdefault(name, []).append((row["round"], row[name]))
    return curves


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a 7-byte header, then blocks of 32 KiB in the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.mark.usefixtures("offline")
def test_every_tracker_holds_the_same_names_steps_and_values_also_after_a_resume(tmp_path: Path) -> None:
    told: list[str] = []
    evaluate(trackers(tmp_path / "run", *ALL, tell=told.append), range(3))
    evaluate(trackers(tmp_path / "run", *ALL), range(2, 5))  # round 2 once more, as after a crash
    for peer in PEERS:
        curves = in_jsonl(tmp_path / "run", peer)
        assert set(curves) == {"eval/score/pass_at_1", "eval/score/reward", "eval/time"}
        assert curves["eval/score/pass_at_1"] == [(0, 0.0), (1, 0.25), (2, 0.5), (2, 0.5), (3, 0.75), (4, 1.0)]
        assert in_tensorboard(tmp_path / "run", peer) == curves
        assert in_mlflow(tmp_path / "run", peer) == curves
        assert in_wandb(tmp_path / "run", peer) == curves
    runs = {path.name for path in (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")}
    assert len(runs) == len(PEERS)  # the resumed ones have the ids of those before: `wandb sync` lays them together
    assert told == [f"wandb: offline; `wandb sync {tmp_path / 'run' / 'wandb'}/offline-run-*` sends it"]


SCRIPT = """
import sys
from pathlib import Path
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.trackers import make_trackers
made = make_trackers(["wandb", "mlflow"], folder=Path(sys.argv[1]), run_name="r", project="p", peers=["a"], config={},
                     tell=print)
metrics = RoundMetrics(made)
metrics.evaluation(0, {"a": {"eval/x": 1.0}})
metrics.close()
assert [tracker.failures for tracker in made[1:]] == [0, 0]
"""


def test_without_any_setting_nothing_is_sent_and_nothing_is_asked(tmp_path: Path) -> None:
    """At a terminal, with a proxy that would see every request, of Python and of wandb's own process."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=_listen, args=(proxy, asked), daemon=True).start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        known = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        env = {name: os.environ[name] for name in known if name in os.environ} | proxies | {"HOME": str(tmp_path)}
        keyboard, terminal = pty.openpty()
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env=env,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=120,
            cwd=tmp_path,
        )
        os.close(terminal)
        os.close(keyboard)
    assert ran.returncode == 0
    assert ran.stdout.decode().startswith("wandb: offline; ")
    assert asked == []


def _listen(proxy: socket.socket, asked: list[bytes]) -> None:
    while True:
        try:
            connection, _ = proxy.accept()
        except OSError:
            return
        asked.append(connection.recv(200))
        connection.close()


class Faulty:
    """A tracker that fails at some of its calls."""

    def __init__(self, *, create: object = None, write: object = None, close: object = None) -> None:
        self.writes, self.closed, self.errors = 0, False, {"write": write, "close": close}
        self._fail(create)

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        self.writes += 1
        self._fail(self.errors["write"])

    def close(self) -> None:
        self.closed = True
        self._fail(self.errors["close"])

    def _fail(self, error: object) -> None:
        if isinstance(error, BaseException):
            raise error
        if isinstance(error, float):
            time.sleep(error)


def guarded(told: list[str], tracker: Callable[[], Faulty], *, limit_s: float = 30.0) -> GuardedTracker:
    return GuardedTracker("faulty", tracker, tell=told.append, limit_s=limit_s)


@pytest.mark.parametrize("error", [ValueError("no\nroom"), ConnectionError(), TimeoutError("late"), SystemExit(3)])
def test_a_tracker_that_fails_in_a_row_is_told_once_and_off(error: BaseException, tmp_path: Path) -> None:
    told: list[str] = []
    faulty = Faulty(write=error)
    lines = JsonLines(tmp_path / "metrics.jsonl")
    metrics = RoundMetrics([lines, guarded(told, lambda: faulty)])
    for number in range(6):
        metrics.evaluation(number, {"peer0000": {"eval/x": 1.0}})
    metrics.close()
    what = " ".join(f"{type(error).__name__}: {error}".split())
    assert told == [
        f"tracker faulty: cannot write: {what}; the run goes on",
        "tracker faulty: off after 3 failures in a row",
    ]
    assert (faulty.writes, faulty.closed) == (3, True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_failures_between_successes_are_counted_and_the_tracker_stays_on() -> None:
    told: list[str] = []
    faulty = Faulty()
    guard = guarded(told, lambda: faulty)
    for number in range(10):
        faulty.errors["write"] = OSError("now and then") if number % 3 else None
        guard.write(number, "peer0000", {})
    assert (guard.failures, guard.on, faulty.writes, len(told)) == (6, True, 10, 1)


def test_a_tracker_that_cannot_start_or_close_harms_nobody() -> None:
    told: list[str] = []
    start = guarded(told, lambda: Faulty(create=RuntimeError("no server")))
    start.write(0, "peer0000", {})
    start.close()
    close = guarded(told, lambda: Faulty(close=RuntimeError("no server")))
    close.close()
    assert (start.failures, start.on, close.failures) == (1, False, 1)
    assert told == [
        "tracker faulty: cannot start: RuntimeError: no server; the run goes on without it",
        "tracker faulty: cannot close: RuntimeError: no server; the run goes on",
    ]


@pytest.mark.parametrize("verb", ["start", "write", "close"])
def test_a_tracker_that_hangs_is_left_behind(verb: str) -> None:
    told: list[str] = []
    faulty: list[Faulty] = []

    def make() -> Faulty:
        faulty.append(Faulty(create=60.0 if verb == "start" else None, write=60.0, close=60.0))
        return faulty[0]

    began = time.monotonic()
    guard = guarded(told, make, limit_s=0.2)
    if verb != "close":
        for number in range(5):
            guard.write(number, "peer0000", {})
    guard.close()
    assert time.monotonic() - began < 30
    assert told == [f"tracker faulty: cannot {verb}: no answer in 0.2 s; the run goes on without it"]
    assert (guard.failures, guard.on) == (1, False)


def test_ctrl_c_passes_through_a_tracker() -> None:
    with pytest.raises(KeyboardInterrupt):
        guarded([], lambda: Faulty(create=KeyboardInterrupt()))
    guard = guarded([], lambda: Faulty(write=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        guard.write(0, "peer0000", {})


@pytest.mark.usefixtures("offline")
def test_trackers_whose_setting_is_wrong_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://loft")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events").touch()
    evaluate(trackers(tmp_path / "run", *ALL, tell=told.append), range(2))
    assert set(in_jsonl(tmp_path / "run", "peer0001")) == {"eval/score/pass_at_1", "eval/score/reward", "eval/time"}
    assert [line.split(":")[0] for line in told] == ["tracker wandb", "tracker mlflow", *["tracker tensorboard"] * 2]
    assert "sometimes" in told[0] and "carrier-pigeon" in told[1] and "events" in told[2]
    assert all("\n" not in line for line in told)


def test_the_own_metrics_file_must_be_written(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write(0, "peer0000", {"x": 1.0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))  # files cannot grow, as on a full disk
    try:
        with pytest.raises(StoreError, match=r"metrics\.jsonl: cannot write: .*; free space"):
            lines.write(1, "peer0000", {"x": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lines.close()
    again = JsonLines(tmp_path / "metrics.jsonl")  # what was left of the line is gone
    again.write(1, "peer0000", {"x": 3.0})
    again.close()
    assert in_jsonl(tmp_path, "peer0000") == {"x": [(0, 1.0), (1, 3.0)]}
    with pytest.raises(StoreError, match="cannot open"):
        JsonLines(tmp_path / "nowhere" / "metrics.jsonl")


# tensorboardX cannot flush what is left and never closes the file
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_does_not_hang_tensorboard(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events")
    board.write(0, "peer0000", {"x": 1.0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            board.write(1, "peer0000", {"x": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_unknown_tracker_is_an_error_of_the_file(read: Callable[[str], Loaded]) -> None:
    loaded = read("graph: x\nversion: 1\nrun:\n  trackers: [jsonl, wandbb]\n")
    (problem,) = [problem for problem in map(str, loaded.problems) if "trackers" in problem]
    assert problem.startswith("run.trackers.1: ")
    assert "'jsonl', 'tensorboard', 'wandb' or 'mlflow', got 'wandbb'" in problem
    with pytest.raises(ParamError, match=re.escape("'wandbb' (did you mean 'wandb'?); there are jsonl, tensorboard,")):
        require_trackers(["wandbb"])


def test_a_missing_package_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        (tmp_path / name).mkdir()  # wandb leaves such a folder wherever it ran; it is no package
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("wandb", "mlflow"):
        with pytest.raises(
            ParamError, match=re.escape(f"{name} is not installed; pip install 'genrl-graph[trackers]'")
        ):
            require_trackers(["tensorboard", name])


@given(st.text(min_size=1, max_size=60))
def test_every_name_has_one_spelling_that_mlflow_and_tensorboard_take_as_it_is(name: str) -> None:
    plain = plain_name(name)
    _validate_metric_name(plain)
    assert _clean_tag(plain) == plain == plain_name(plain)
    assert plain_name("eval/hard sums/pass@4") == "eval/hard_sums/pass_at_4"
