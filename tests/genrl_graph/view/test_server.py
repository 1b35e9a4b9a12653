"""The server of the live page: who may ask, what it reads, and that it only reads."""

import json
from pathlib import Path

import pytest
from clicks import until
from toys import toy_game
from viewed import HOSTILE, ask, get, news, serving

from genrl_graph import open_run, play
from genrl_graph.cli import run_command


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_only_pages_of_this_server_with_the_token_are_answered(address: str) -> None:
    start, token = address.rstrip("/").rpartition("/")[::2]
    host = start.removeprefix("http://")
    assert ask(address)[0] == 200 and ask(address, Host=host.replace("127.0.0.1", "localhost"))[0] == 200
    assert ask(address.rstrip("/"))[0] == 200, "the slash at the end is added"
    assert {ask(f"{start}/{path}")[0] for path in ("", "api/overview", f"{token[:-1]}/", f"x{token}/events")} == {403}
    assert ask(address, "api/overview", Host="evil.example")[0] == 421
    assert ask(address, "api/overview", Host=host.replace("127.0.0.1", "evil.example"))[0] == 421
    assert ask(address, "api/overview", Origin="http://evil.example")[0] == 403
    assert ask(address, "api/overview", Origin="null")[0] == 403
    assert ask(address, "api/overview", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(address, "api/overview", Origin=start)[0] == 200
    assert {ask(address, "api/overview", method=method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS")} == {405}


def test_nothing_but_the_files_of_the_page_is_served(address: str, runs: Path) -> None:
    wanted = (
        "static/../server.py",
        "static/%2e%2e/server.py",
        "static/..%2f..%2f..%2fetc/passwd",
        "static//etc/passwd",
    )
    inside = ("graph.yaml", f"api/../{runs}/toy/graph.yaml", "static/uplot.LICENSE.txt", "api/file?path=/etc/passwd")
    for path in (*wanted, *inside):
        status, text = ask(address, path)
        assert status == 404 and "root:" not in text and "graph:" not in text, path


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("events?run=9", "run: '9' is no number of a run of this page"),
        ("events?run=-1", "'-1' is no whole number"),
        ("events?run=" + "9" * 5000, "is no whole number"),
        ("api/rollouts?node=nothing", "no rollouts of 'nothing'; nodes with rollouts: answer"),
        ("api/rollouts?node=../../etc", "no rollouts of '../../etc'"),
        ("api/rollouts?node=answer&least=x", "'x' is no number"),
        ("api/rollouts?node=answer&before=1e9", "'1e9' is no whole number"),
        ("api/lineage?node=nothing&id=x&round=0", "no rollouts of 'nothing'"),
    ],
)
def test_a_bad_question_is_a_line(address: str, path: str, problem: str) -> None:
    status, text = ask(address, path)
    assert status == 400 and problem in json.loads(text)["problem"]


def test_states_numbers_and_curves_are_those_of_the_run(address: str, runs: Path) -> None:
    run, state = open_run(runs / "toy"), news(address)["state"]
    assert (state["state"], state["played"], state["rounds"], state["problem"]) == ("finished", 3, 3, "")
    assert {node["state"] for node in state["nodes"].values()} == {"done"} and next(iter(state["nodes"])) == "tasks"
    assert [peer["name"] for peer in state["peers"]] == ["peer0000", "peer0001"]
    metrics = run.metrics().to_pandas()
    (curve,) = news(address, metric="stage1/reward")["curves"]["stage1/reward"]["settings"]
    assert set(news(address, outcomes=1)["curves"]) == {"stage0/reward", "stage1/reward"}
    assert curve["rounds"] == [0, 1, 2]
    assert curve["mean"] == pytest.approx(metrics.groupby("round")["stage1/reward"].mean().tolist(), rel=1e-5)
    numbers = state["nodes"]["score_answer"]["numbers"]
    assert numbers["rows"]["total"] == metrics["score_answer/rows"].sum()
    assert numbers["reward"]["last"] == pytest.approx(metrics[metrics["round"] == 2]["score_answer/reward"].mean())


def test_filters_and_lineage_lead_to_the_same_rows_as_the_store(address: str, runs: Path) -> None:
    run = open_run(runs / "toy")
    found = get(address, "rollouts", node="final", peer="peer0001", least=0.5, limit=50)
    assert found["rollouts"] and all(one["reward"] >= 0.5 and one["peer"] == "peer0001" for one in found["rollouts"])
    assert [one["round"] for one in found["rollouts"]] == sorted(
        (one["round"] for one in found["rollouts"]), reverse=True
    )
    one = found["rollouts"][0]
    task = get(address, "rollouts", node="final", task=one["task"], limit=50)["rollouts"]
    assert {each["task"] for each in task} == {one["task"]}
    lineage = get(address, "lineage", node="final", id=one["id"], round=one["round"])
    assert {each["id"] for each in lineage["ancestors"]} == set(one["parents"])
    assert {each["node"] for each in lineage["ancestors"]} <= {"answer", "answers"}
    kept = one["id"] in run.frame("best", one["round"]).values("id")
    assert bool(lineage["trained"]) == kept
    parent = lineage["ancestors"][0]
    back = get(address, "lineage", node=parent["node"], id=parent["id"], round=parent["round"])
    assert one["id"] in {each["id"] for each in back["quoted_by"]}


def test_hostile_text_stays_text_and_failed_rows_are_found(address: str) -> None:
    failed = get(address, "rollouts", run=1, node="answer", failed=1)["rollouts"]
    assert [one["error"] for one in failed] == [HOSTILE] and failed[0]["parts"][0]["text"] == HOSTILE
    state = news(address, run=1)["state"]
    assert state["notes"][0]["text"] == HOSTILE and state["accounts"][HOSTILE] == {"late": 3.0}


def test_the_server_changes_nothing_and_a_damaged_run_stays_on_the_page(tmp_path: Path) -> None:
    play(toy_game(), out=tmp_path / "run", rounds=2, quiet=True)
    before = contents(tmp_path)
    with serving(tmp_path / "run") as address:
        for name in ("overview", "game"):
            get(address, name)
        news(address, outcomes=1)
        one = get(address, "rollouts", node="answer")["rollouts"][0]
        get(address, "lineage", node="answer", id=one["id"], round=one["round"])
        assert contents(tmp_path) == before
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"round": -1}\n')
        until(lambda: "wants an object with a round and a peer" in news(address)["state"]["problem"])
        (tmp_path / "run" / "notes.jsonl").symlink_to("/etc/passwd")
        with (tmp_path / "run" / "graph.yaml").open("a") as file:
            file.write("# so it is read again\n")
        until(lambda: "notes.jsonl: is a link" in news(address)["state"]["problem"])
        assert "root:" not in json.dumps(news(address))


def test_a_folder_without_a_run_and_a_taken_port_are_lines(
    tmp_path: Path, address: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["view", str(tmp_path / "none")]) == 3
    port = address.split(":")[2].partition("/")[0]
    assert run_command(["view", str(runs / "toy"), "--port", port]) == 12
    assert f"--port {port}: Address already in use; name another port, or none" in capsys.readouterr().err
