"""Runs and sweeps compared: what is grouped, what is equal where they are compared, what is told and never invented."""

import itertools
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import genrl_graph
from genrl_graph.comparison.result import Comparison
from genrl_graph.errors import ParamError
from genrl_graph.store.sweep_folder import Cell, CellEnd, SweepRecord, add_end, write_sweep

WriteRun = Callable[..., Path]
REWARD = "stage0/reward"


def end_of(comparison: Comparison, setting: str, metric: str = REWARD) -> dict[str, float]:
    """Return the last mean of a setting, with its interval."""
    frame = comparison.summary
    (row,) = frame[(frame.setting == setting) & (frame.metric == metric)].to_dict("records")
    return row


@pytest.fixture
def two_settings(write_run: WriteRun) -> list[Path]:
    """Two settings of five seeds with a planted difference of 0.2, by the params that their graphs recorded."""
    rng = np.random.default_rng(0)
    folders = []
    for rate, level in ((1.0, 0.3), (2.0, 0.5)):
        for seed in range(5):
            noise = rng.normal(0, 0.02)
            curve = [level * number / 19 + noise for number in range(20)]
            folders.append(
                write_run(f"r{rate}-{seed}", {REWARD: curve, "time/round": [1.0] * 20}, seed=seed, rate=rate)
            )
    return folders


def test_runs_are_grouped_by_what_they_ran_and_a_planted_difference_is_found(two_settings: list[Path]) -> None:
    compared = genrl_graph.compare(*two_settings, smooth=1)
    assert compared.summary.setting.tolist() == ["game rate=1.0", "game rate=2.0"]
    assert compared.summary.runs.tolist() == [5, 5]
    (pair,) = compared.pairs.to_dict("records")
    assert (pair["setting"], pair["minus"], pair["runs"]) == ("game rate=2.0", "game rate=1.0", 5)
    assert pair["low"] > 0
    assert pair["mean"] == pytest.approx(0.2, abs=0.05)
    assert len(compared.curves) == 2 * 20


def test_the_same_seeds_are_paired_so_that_what_they_share_cancels(write_run: WriteRun) -> None:
    for seed, luck in enumerate((0.1, 0.9, 0.4, 0.6, 0.2)):
        write_run(f"a-{seed}", {REWARD: [luck]}, seed=seed)
        write_run(f"b-{seed}", {REWARD: [luck + 0.01 + 0.001 * seed]}, seed=seed, rate=2.0)
        folder = write_run(f"c-{seed}", {REWARD: [luck + 0.01]}, seed=seed + 10, rate=3.0).parent
    compared = genrl_graph.compare(f"a={folder}/a-*", f"b={folder}/b-*", f"c={folder}/c-*")
    pairs = {(row["setting"], row["minus"]): row for row in compared.pairs.to_dict("records")}
    assert pairs["b", "a"]["low"] > 0
    assert pairs["c", "a"]["low"] < 0 < pairs["c", "a"]["high"]
    assert pairs["c", "a"]["runs"] == 0


def test_a_run_is_the_unit_however_many_peers_it_has(write_run: WriteRun) -> None:
    for seed, level in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        many = {f"peer{number:04d}": (number - 3.5) / 10 for number in range(8)}
        folder = write_run(f"many-{seed}", {REWARD: [level]}, seed=seed, peers=many).parent
        write_run(f"one-{seed}", {REWARD: [level]}, seed=seed)
    compared = genrl_graph.compare(f"many={folder}/many-*", f"one={folder}/one-*")
    several, single = end_of(compared, "many"), end_of(compared, "one")
    assert several["runs"] == 5
    for name in ("mean", "low", "high"):
        assert several[name] == pytest.approx(single[name])


def test_runs_are_compared_at_equal_rounds_tokens_or_seconds(write_run: WriteRun) -> None:
    costs: dict[str, list[float]] = {
        "answer/tokens": [100] * 10,
        "update/trained_tokens": [50] * 10,
        "time/round": [1.0] * 10,
    }
    half = {name: [value / 2 for value in values] for name, values in costs.items()}
    curve = [number / 10 for number in range(10)]
    folder = write_run("a", {REWARD: curve, **costs}, evaluations={0: {"eval/score/reward": 0.0}}).parent
    write_run("b", {REWARD: curve, **half}, rate=2.0, evaluations={0: {"eval/score/reward": 0.1}})
    equal = genrl_graph.compare(folder, smooth=1, metrics=[REWARD])
    assert equal.summary["mean"].tolist() == pytest.approx([0.9, 0.9])
    # before its last round b had spent 450 tokens; a had spent 400 before its fifth, and 500 before its sixth
    for unit, at in (("sampled_tokens", 450), ("trained_tokens", 225), ("seconds", 4.5)):
        compared = genrl_graph.compare(folder, at=unit, smooth=1, metrics=[REWARD])  # type: ignore[arg-type]
        assert compared.summary["at"].tolist() == pytest.approx([at, at])
        assert compared.summary["mean"].tolist() == pytest.approx([0.4, 0.9])
    assert genrl_graph.compare(folder, at="seconds").pairs.metric.tolist() == ["eval/score/reward", REWARD]


def test_peers_add_up_their_tokens_and_share_their_seconds(write_run: WriteRun) -> None:
    rounds = {REWARD: [0.1, 0.2, 0.3], "answer/tokens": [10.0] * 3, "time/round": [2.0] * 3}
    folder = write_run("a", rounds, peers={"peer0000": 0.0, "peer0001": 0.0})
    assert genrl_graph.compare(folder, at="sampled_tokens").summary["at"].tolist() == [40]
    assert genrl_graph.compare(folder, at="seconds").summary["at"].tolist() == [4]


def test_training_metrics_are_smoothed_as_declared_and_evaluations_never(write_run: WriteRun) -> None:
    values = [float(number % 2) for number in range(40)]
    evaluations = {number: {"eval/score/reward": float(number == 40)} for number in (0, 20, 40)}
    folder = write_run("a", {REWARD: values}, evaluations=evaluations)
    assert end_of(genrl_graph.compare(folder), "game")["smoothed_over"] == 2
    assert end_of(genrl_graph.compare(folder, smooth=10), "game")["mean"] == 0.5
    assert end_of(genrl_graph.compare(folder, smooth=1), "game")["mean"] == 1
    evaluation = end_of(genrl_graph.compare(folder, smooth=10), "game", "eval/score/reward")
    assert (evaluation["mean"], evaluation["at"], evaluation["smoothed_over"]) == (1, 40, 1)


def test_a_round_that_was_reported_again_after_a_resume_counts_once(write_run: WriteRun) -> None:
    folder = write_run("a", {REWARD: [0.1, 0.2], "answer/tokens": [10, 10]})
    lines = folder / "metrics.jsonl"
    lines.write_text(
        lines.read_text() + '{"round": 1, "peer": "peer0000", "stage0/reward": 0.4, "answer/tokens": 30}\n'
    )
    assert end_of(genrl_graph.compare(folder, smooth=1), "game")["mean"] == 0.4
    assert genrl_graph.compare(folder, at="sampled_tokens").summary["at"].tolist() == [10]


# --- what is told


def test_runs_of_different_length_are_compared_up_to_where_all_came(write_run: WriteRun) -> None:
    write_run("a", {REWARD: [0.1] * 10})
    folder = write_run("b", {REWARD: [0.2] * 4}, rate=2.0, asked=10).parent
    compared = genrl_graph.compare(folder)
    assert compared.summary["at"].tolist() == [3, 3]
    assert any(note.startswith(f"{folder / 'b'} has 4 of 10 rounds: everything is compared") for note in compared.notes)


def test_a_metric_that_only_some_report_is_shown_for_those_and_told(write_run: WriteRun) -> None:
    write_run("a", {REWARD: [0.1], "stage1/reward": [0.3]})
    folder = write_run("b", {REWARD: [0.2]}, rate=2.0).parent
    compared = genrl_graph.compare(folder)
    assert compared.summary[compared.summary.metric == "stage1/reward"].setting.tolist() == ["game rate=1.0"]
    assert compared.pairs.metric.tolist() == [REWARD]
    assert "stage1/reward: is not reported by game rate=2.0" in compared.notes


def test_a_value_that_is_not_finite_is_told_and_leaves_an_expectation_unmet(write_run: WriteRun) -> None:
    for seed in range(6):
        write_run(f"a-{seed}", {REWARD: [0.5, None if seed == 3 else 0.9 + seed / 100]}, seed=seed)
        folder = write_run(f"b-{seed}", {REWARD: [0.1, 0.1 + seed / 100]}, seed=seed, rate=2.0).parent
    claims = [f"{REWARD}(a) > {REWARD}(b)", f"{REWARD}(a@0) > 0.4"]
    compared = genrl_graph.compare(f"a={folder}/a-*", f"b={folder}/b-*", smooth=1, expect=claims)
    assert end_of(compared, "a")["runs"] == 5
    assert any("seed 3 of a has no finite value at 1 of 2 positions, the last" in note for note in compared.notes)
    assert [verdict.met for verdict in compared.verdicts] == [False, True]
    assert not compared.met


def test_one_seed_has_no_interval_and_says_so(write_run: WriteRun) -> None:
    folder = write_run("a", {REWARD: [0.1]}).parent
    write_run("b", {REWARD: [0.2]}, rate=2.0)
    compared = genrl_graph.compare(folder, expect=[f"{REWARD}(game rate=2.0) > {REWARD}(game rate=1.0)"])
    assert compared.summary.low.isna().all()
    assert compared.pairs.low.isna().all()
    assert compared.pairs["mean"].tolist() == pytest.approx([0.1])
    assert "one seed, so no interval: game rate=1.0, game rate=2.0" in compared.notes
    assert not compared.met


def test_runs_of_other_code_are_told_and_not_mixed(write_run: WriteRun) -> None:
    for seed in range(4):
        folder = write_run(f"a-{seed}", {REWARD: [0.1]}, seed=seed, versions={"commit": f"c{seed % 2}"}).parent
    compared = genrl_graph.compare(folder)
    assert [setting.label for setting in compared.settings] == ["game [commit c0]", "game [commit c1]"]
    assert compared.summary.runs.tolist() == [2, 2]
    assert "game: was played by 2 versions of the code (commit), shown apart" in compared.notes


def test_labels_put_runs_together_and_what_they_differ_in_is_told(write_run: WriteRun) -> None:
    write_run("x-0", {REWARD: [0.1]}, seed=0, rate=1.0)
    folder = write_run("x-1", {REWARD: [0.2]}, seed=1, rate=2.0).parent
    compared = genrl_graph.compare(f"all={folder}/x-*")
    assert compared.summary.setting.tolist() == ["all"]
    assert "all: its runs differ in more than the seed: nodes.tasks.params.rate" in compared.notes


# --- sweeps


@pytest.fixture
def sweep_folder(write_run: WriteRun) -> Path:
    """A sweep of three settings and two seeds: one setting was stopped, one cell failed, one was not played."""
    names = [(setting, seed) for setting in ("rate=1", "rate=2", "rate=3") for seed in (0, 1)]
    cells = tuple(
        Cell(name=f"{setting}-{seed}".replace("=", "_"), setting=setting, seed=seed) for setting, seed in names
    )
    for cell in cells[:-1]:
        short = 4 if cell.setting == "rate=2" else 8
        folder = write_run(f"sweep/{cell.name}", {REWARD: [0.1 * cell.seed] * short}, seed=cell.seed).parent
    write_sweep(folder, SweepRecord(graph="game.yaml", cells=cells))
    for cell in cells[:-1]:
        stopped, failed = cell.setting == "rate=2", cell.name == "rate_3-0"
        end = CellEnd(cell=cell.name, rounds=4 if stopped else 8, stopped=stopped, exit_code=20 if failed else 0)
        add_end(folder, end)
    return folder


def test_a_sweep_is_compared_by_its_settings(sweep_folder: Path) -> None:
    compared = genrl_graph.compare(sweep_folder)
    assert compared.summary.setting.tolist() == ["rate=1", "rate=3"]
    assert compared.summary["at"].tolist() == [7, 7]
    assert f"{sweep_folder}: 1 cell of 6 not played yet: rate_3-1" in compared.notes
    assert f"{sweep_folder}: 1 cell failed and may be short: rate_3-0" in compared.notes
    assert "rate=2: left out, the sweep stopped it after 4 rounds" in compared.notes
    labelled = genrl_graph.compare(f"new={sweep_folder}")
    assert labelled.summary.setting.tolist() == ["new/rate=1", "new/rate=3"]


# --- bad input


def test_what_names_nothing_is_refused_in_one_line(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run("runs/baseline", {REWARD: [0.1]})
    cases = {
        (str(folder.with_name("baselin")),): "names no run and no sweep (did you mean 'baseline'?)",
        (f"{tmp_path}/x*",): "names no run and no sweep",
        (f"={folder}",): "the label is empty",
        (f"{folder}", f"{folder}"): "seed 0 is there twice",
    }
    for what, message in cases.items():
        with pytest.raises(ParamError) as caught:
            genrl_graph.compare(*what)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "tokens"}, "--at tokens: is no unit (did you mean 'trained_tokens'?)"),
        ({"at": "sampled_tokens"}, "reports none; compare at rounds or seconds"),
        ({"smooth": 0}, "--smooth 0: wants at least 1 round"),
        ({"metrics": ["stage0/rewrad"]}, "no run reports this metric (did you mean 'stage0/reward'?)"),
        ({"baseline": "gam"}, "--baseline gam: is no setting (did you mean 'game'?)"),
        ({"expect": [f"{REWARD}(gane) > 1"]}, "no setting is called 'gane' (did you mean 'game'?)"),
        ({"expect": [f"{REWARD}(game@-1) > 1"]}, "is compared from 0 on, not at -1"),
        ({"expect": ["eval/reward(game) > 1"]}, "eval/reward: no run reports this metric"),
    ],
)
def test_options_that_name_nothing_are_refused_in_one_line(
    write_run: WriteRun, options: dict[str, object], message: str
) -> None:
    folder = write_run("a", {REWARD: [0.1, 0.2]})
    with pytest.raises(ParamError) as caught:
        genrl_graph.compare(folder, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_without_a_result_are_refused(write_run: WriteRun) -> None:
    folder = write_run("a", {"update/loss": [0.1]})
    with pytest.raises(
        ParamError, match=r"the runs report no metric to compare; choose some with --metric: update/loss"
    ):
        genrl_graph.compare(folder)
    assert genrl_graph.compare(folder, metrics=["update/*"]).summary.metric.tolist() == ["update/loss"]


# --- what is written


def test_it_writes_a_table_a_parquet_file_and_pictures(two_settings: list[Path], tmp_path: Path) -> None:
    out, claim = tmp_path / "new/comparison", f"{REWARD}(game rate=2.0) > {REWARD}(game rate=1.0)"
    compared = genrl_graph.compare(*two_settings, out=out, expect=[claim])
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "curves.svg", "summary.parquet", "table.md"]
    table = (out / "table.md").read_text()
    assert "| game rate=2.0 − game rate=1.0 | 5 pairs | +0.2" in table
    assert "- met: stage0/reward(game rate=2.0) > stage0/reward(game rate=1.0): 0.2" in table
    assert "symmetric studentised bootstrap" in table
    rows = pq.read_table(out / "summary.parquet").to_pylist()
    (difference,) = [row for row in rows if row["minus"] is not None]
    assert difference["mean"] == compared.pairs["mean"].tolist()[0]
    assert math.isclose(sum(row["last"] for row in rows), 3)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "curves.svg").read_text()
    assert "game rate=2.0" in svg
    dashed = re.findall(r"stroke-dasharray: [^;]+; stroke-dashoffset: 0; stroke: #e69f00; stroke-opacity: 0.7", svg)
    assert len(dashed) == 2 * len(compared.metrics), "each band has two edges, drawn as its curve"
    shutil.rmtree(out)
    genrl_graph.compare(*two_settings, out=out)
    assert (out / "curves.svg").read_text() == svg


def test_settings_look_different_in_grey_too() -> None:
    from matplotlib.colors import to_rgb

    from genrl_graph.comparison.picture import COLOURS, look

    looks = [look(number) for number in range(10)]
    assert len({(str(style["linestyle"]), style["marker"]) for style in looks}) == len(looks)
    greys = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in map(to_rgb, COLOURS)]
    neighbours = [abs(one - other) for one, other in itertools.pairwise(greys)]
    assert min(neighbours) > 0.08
    assert all(grey < 0.72 for grey in greys)


@pytest.mark.long
def test_a_null_is_not_found_in_95_of_100_sweeps_and_a_planted_difference_is(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal seeds share luck, which pairs cancel; what is planted is three deviations of a difference."""
    rng = np.random.default_rng(1)
    planted, claims = 0.15, [f"{REWARD}(b) > {REWARD}(a)", f"{REWARD}(b) < {REWARD}(a)"]
    wrong, found, covered = 0, 0, {"same": 0, "other": 0}
    for sweep in range(100):
        for gain, kind in ((0.0, "same"), (planted, "other")):
            for seed, luck in enumerate(rng.normal(0, 0.2, 5)):
                for label, more in (("a", 0.0), ("b", gain + rng.normal(0, 0.05))):
                    curve = 0.5 + luck + more + rng.normal(0, 0.02, 10)
                    name = f"{kind}-{sweep}/{label}-{seed}"
                    folder = write_run(name, {REWARD: curve.tolist()}, seed=seed).parent
            compared = genrl_graph.compare(f"a={folder}/a-*", f"b={folder}/b-*", expect=claims)
            (pair,) = compared.pairs.to_dict("records")
            covered[kind] += pair["low"] <= gain <= pair["high"]
            wrong += kind == "same" and any(verdict.met for verdict in compared.verdicts)
            found += kind == "other" and compared.verdicts[0].met
    with capsys.disabled():
        print(f" null found in {wrong} of 100, planted in {found} of 100, covered {covered}", end="")
    assert wrong <= 5
    assert found >= 90
    assert min(covered.values()) >= 92
